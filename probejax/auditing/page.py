"""The page of an audit: one file, text escaped, the first rows of each table."""

from collections.abc import Mapping, Sequence

import pandas as pd

from probejax.analysis.drawing import embedded
from probejax.analysis.examples import shorten
from probejax.analysis.labels import number
from probejax.analysis.page.elements import block, document, esc, link
from probejax.analysis.page.tables import Cell, count, figure, table
from probejax.auditing.finding import Finding, Table

SHOWN = 100  # rows of a table


def page(
    name: str,
    findings: Sequence[Finding],
    facts: Mapping[str, str],
    drawn: Mapping[str, bytes] | None = None,
) -> str:
    """Returns an audit as one HTML document that needs no network.

    Args:
      name: of the dataset.
      findings: in their order.
      facts: what was audited, and by what.
      drawn: the pictures of the findings as SVG, by their names.
    """
    sections = [_section(found, drawn or {}) for found in findings]
    first, rest = answers(findings)[:1], answers(findings)[1:]
    others = "".join(f"<li>{esc(each)}</li>" for each in rest)
    about = "".join(f"<dt>{esc(key)}</dt><dd>{esc(text)}</dd>" for key, text in facts.items())
    header = (
        f'<header><p class="kicker">Audit · {esc(name)}</p>'
        f'<p class="answer">{esc("".join(first))}</p><ul class="others">{others}</ul>'
        f"<dl>{about}</dl></header>"
    )
    links = [(each.name, each.title) for each in findings]
    return document(f"Audit of {name}", header, links, "".join(sections))


def answers(findings: Sequence[Finding]) -> list[str]:
    """Returns the last claim of each finding, a sentence each."""
    last = [found.claims[-1] for found in findings if found.claims]
    return [
        f"{each.text[:1].upper()}{each.text[1:]}: {number(each.value, each.digits)}, and "
        f"{number(each.by_chance, each.digits)} with {each.chance}."
        for each in last
    ]


def _section(found: Finding, drawn: Mapping[str, bytes]) -> str:
    claims = [
        [
            each.text,
            figure(each.value, each.digits),
            figure(each.by_chance, each.digits),
            each.chance,
        ]
        for each in found.claims
    ]
    body = [f"<p>{esc(found.method)}</p>"]
    body += (
        [table(["claim", "found", "by chance", "chance is"], claims, plain=True)] if claims else []
    )
    body += [f'<p class="note">{esc(note)}</p>' for note in found.notes]
    body += [embedded(drawn[name], picture, name) for name, picture in found.pictures]
    body += [_table(each) for each in found.tables if each.heading]
    return block(found.name, found.title, *body)


def _table(each: Table) -> str:
    rows, total = each.rows.head(SHOWN), len(each.rows)
    which = f"The first {SHOWN} of {total:,} rows" if total > SHOWN else f"All {total:,} rows"
    note = (
        f"{which}; {each.name}.{each.ending} has {'all' if total > SHOWN else 'them'}. {each.note}"
    )
    columns = [
        _linked(rows) if name == "latent" and "link" in rows else _cells(rows[name])
        for name in rows
        if name != "link"
    ]
    headings = [str(name).replace("_", " ") for name in rows if name != "link"]
    body = [list(line) for line in zip(*columns, strict=True)]
    search = "Find" if total > 10 else ""
    shown = table(headings, body, search=search) if total else ""
    return f'<h3>{esc(each.heading)}</h3><p class="note">{esc(note)}</p>{shown}'


def _linked(rows: pd.DataFrame) -> list[Cell | str]:
    return [
        Cell(str(latent), int(latent), "num", link(latent, address))
        for latent, address in zip(rows["latent"], rows["link"], strict=True)
    ]


def _cells(column: pd.Series) -> list[Cell | str]:
    """Returns the cells of a column: whole numbers, others to three digits, or shortened text."""
    if pd.api.types.is_bool_dtype(column):
        return ["yes" if value else "" for value in column]
    if pd.api.types.is_integer_dtype(column):
        return [count(value) for value in column]
    if pd.api.types.is_float_dtype(column):
        return [figure(value, 3) for value in column]
    return [shorten("" if pd.isna(value) else str(value)) for value in column]

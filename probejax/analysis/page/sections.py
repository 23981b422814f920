"""What stands beside the verdict: controls, protocols, failed fits, faults, where it comes from."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from probejax.analysis.figures import Shown
from probejax.analysis.labels import Value, level_text, number, title
from probejax.analysis.page.elements import block, esc
from probejax.analysis.page.regime import gallery
from probejax.analysis.page.tables import Cell, change, count, figure, limits, table


def overview_block(pictures: Sequence[Shown]) -> str:
    """Returns the figures over all regimes."""
    return block("overview", "All regimes", gallery(pictures))


def controls_block(rows: pd.DataFrame) -> str:
    """Returns claims beside their controls, see `comparisons.controls`."""
    if rows.empty:
        return ""
    where = _differing(rows, "model", "site", "protocol")
    body = [
        (
            row["regime"],
            [
                row["claim"],
                row["control"],
                title(row["regime"]),
                *(str(row[name]) for name in where),
                figure(row["claimed"]),
                figure(row["controlled"]),
                *_change(row),
            ],
        )
        for _, row in rows.iterrows()
    ]
    headings = ["claim", "control", "regime", *where, "claim's AUC", "control's AUC"]
    headings += ["claim minus control", "95 %", "by family", "cells", "no partner"]
    text = (
        "<p>A control is a probe that should fail, or fall behind: shuffled training labels, "
        "latents drawn at random, an SAE with random weights. A claim that does not stand clear of "
        "its control says nothing about the SAE. Controls are never in a quiver.</p>"
    )
    first = body[0][0]
    shown = [line for regime, line in body if regime == first]
    rest = [line for regime, line in body if regime != first]
    more = _folded(f"Other regimes ({len(rest)} rows)", headings, rest)
    return block("controls", "Controls beside claims", text, table(headings, shown), more)


def protocols_block(rows: pd.DataFrame) -> str:
    """Returns what the strict protocol changes, see `comparisons.protocols`."""
    if rows.empty:
        return ""
    where = _differing(rows, "model", "site")
    quivers, single = [], []
    for _, row in rows.iterrows():
        line = [row["label"], title(row["regime"]), *(str(row[name]) for name in where)]
        line += [figure(row["paper"]), figure(row["strict"]), *_change(row)]
        (quivers if "quiver" in row["label"] else single).append(line)
    headings = ["method", "regime", *where, "paper", "strict"]
    headings += ["strict minus paper", "95 %", "by family", "cells", "no partner"]
    text = (
        "<p>Mean test AUC under the study's rules and under rules without leakage: selection and "
        "scaling inside the fold, duplicate prompts on one side.</p>"
    )
    more = _folded(f"Method by method ({len(single)} rows)", headings, single)
    return block("protocols", "Paper against strict", text, table(headings, quivers), more)


def _folded(summary: str, headings: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> str:
    if not rows:
        return ""
    body = table(headings, rows, search="Find")
    return f"<details><summary>{esc(summary)}</summary>{body}</details>"


def _differing(rows: pd.DataFrame, *names: str) -> list[str]:
    """Returns which of the columns have several values."""
    return [name for name in names if rows[name].nunique() > 1]


def _change(row: pd.Series) -> list[Cell]:
    ends = (row["ci_low"], row["ci_high"])
    delta = change(row["delta"], 4, *ends)
    return [
        delta,
        limits(*ends),
        limits(row["family_low"], row["family_high"]),
        count(row["cells"]),
        count(row["unpaired"]),
    ]


def unconverged_block(rows: pd.DataFrame, results: pd.DataFrame) -> str:
    """Returns the fits that did not converge, see `comparisons.unconverged`."""
    if results["code"].isna().all():
        text = "<p>These results do not say which fits converged.</p>"
        return block("fits", "Fits that did not converge", text)
    if rows.empty:
        known = int(results["code"].notna().sum())
        text = f"None: all {known} fits converged."
        if known < len(results):
            text = f"None of the {known} fits of which it is known, of {len(results)}."
        return block("fits", "Fits that did not converge", f"<p>{text}</p>")
    body = [
        [
            row["label"],
            title(row["regime"]),
            f"{row['model']}, {row['site']}, {row['protocol']}",
            count(row["fits"]),
            count(row["max_trips"]),
            count(row["non_finite"]),
            count(row["degenerate"]),
            Cell("" if pd.isna(row["gap"]) else f"{row['gap']:.1e}", row["gap"], "num"),
        ]
        for _, row in rows.iterrows()
    ]
    headings = ["method", "regime", "model, site, protocol", "fits", "out of steps", "not finite",
                "degenerate", "largest gap"]  # fmt: skip
    text = (
        "<p>Out of steps: stopped before the certified gap was small. Degenerate: one class, or "
        "nothing that varies, so that there is no optimum.</p>"
    )
    return block("fits", "Fits that did not converge", text, table(headings, body))


def faults_block(faults: pd.DataFrame | None) -> str:
    """Returns the known faults of the published analysis beside the corrected values."""
    if faults is None or faults.empty:
        return ""
    body = [
        [
            row["fault"],
            row["figure"],
            row["quantity"],
            Cell(level_text("label_noise", row["level"]), row["level"], "num"),
            _plain(row["published"]),
            _plain(row["corrected"]),
            row["explanation"],
        ]
        for _, row in faults.iterrows()
    ]
    headings = ["fault", "figure", "quantity", "flipped", "published", "corrected", "why"]
    text = (
        "<p>What the study's own rule gives on its own files, beside what it should be. Everything "
        "else on this page uses the corrected rules.</p>"
    )
    return block("faults", "Known faults of the published analysis", text, table(headings, body))


def _plain(value: Value) -> Cell:
    digits = 0 if float(value).is_integer() else 4
    return Cell(number(value, digits), value, "num")


def cola_block(probes: pd.DataFrame | None, disagreement: pd.Series | None) -> str:
    """Returns the study's case of GLUE CoLA."""
    if probes is None or disagreement is None:
        return ""
    body = [
        [row["test"], row["method"], figure(row["test_auc"]), figure(row["test_acc"])]
        for _, row in probes.iterrows()
    ]
    share = disagreement.get("ensemble", np.nan)
    text = (
        f"<p>Language models dispute {100 * share:.0f} % of 1000 labels of GLUE CoLA by majority. "
        "Probes trained on the original labels, tested on both; the one latent was picked by hand, "
        "and duplicates of the judged rows are in the training set.</p>"
    )
    headings = ["labels", "probe", "test AUC", "accuracy"]
    return block("cola", "Wrong labels in GLUE CoLA", text, table(headings, body))


def provenance_block(facts: Mapping[str, str | Sequence[str]]) -> str:
    """Returns where the numbers come from."""
    parts = []
    for name, value in facts.items():
        values = [value] if isinstance(value, str) else value
        parts.append(f"<dt>{esc(name)}</dt><dd>{'<br>'.join(map(esc, values))}</dd>")
    return block("provenance", "Where the numbers come from", f"<dl>{''.join(parts)}</dl>")


def left_out_block(left_out: Sequence[str]) -> str:
    """Returns what could not be made and why, a line for each."""
    lines = "".join(f"<li>{esc(line)}</li>" for line in left_out)
    return block("left_out", "Left out of this report", f"<ul>{lines}</ul>") if lines else ""

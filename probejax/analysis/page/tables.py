"""HTML tables that sort by a click on a heading and filter by what is typed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from probejax.analysis.labels import Value, number, percent, signed
from probejax.analysis.page.elements import esc
from probejax.analysis.quiver import MARGIN


class Cell(NamedTuple):
    """A cell of a table: what it shows, what it sorts by, a class, and ready HTML instead."""

    text: str
    value: Value = None
    style: str = ""
    html: str = ""


def figure(value: Value, digits: int = 4) -> Cell:
    """Returns a cell with a number."""
    return Cell(number(value, digits), None if pd.isna(value) else float(value), "num")


def change(value: Value, digits: int = 4, low: Value = np.nan, high: Value = np.nan) -> Cell:
    """Returns a cell with a difference; coloured where its limits exclude zero."""
    style = "num" + (" up" if low > 0 else " down" if high < 0 else "")
    return Cell(signed(value, digits), None if pd.isna(value) else float(value), style)


def limits(low: Value, high: Value, digits: int = 4) -> Cell:
    """Returns a cell with an interval."""
    if pd.isna(low):
        return Cell("\N{EN DASH}", None, "num")
    return Cell(f"{signed(low, digits)} to {signed(high, digits)}", float(low), "num")


def count(value: Value, of: Value = None) -> Cell:
    """Returns a cell with a count, and its share of a whole."""
    if pd.isna(value):
        return Cell("\N{EN DASH}", None, "num")
    text = f"{int(value)}" if not of else f"{int(value)} ({percent(value / of)})"
    return Cell(text, float(value), "num")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    search: str = "",
    plain: bool = False,
) -> str:
    """Returns a table; `search` is the prompt of its search field, none if empty.

    Args:
        headings: one per column.
        rows: cells; plain text is left-aligned and sorts as text.
        search: what the search field asks for.
        plain: without sorting, for tables of a few rows.
    """
    numeric = {
        i
        for row in rows
        for i, cell in enumerate(row)
        if isinstance(cell, Cell) and "num" in cell.style
    }
    head = "".join(_heading(name, plain, i in numeric) for i, name in enumerate(headings))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    field = ""
    if search:
        field = (
            f'<label class="search">{esc(search)} <input type="search" autocomplete="off"></label>'
        )
    kind = "" if plain else ' class="sortable"'
    return (
        f'<div class="table">{field}<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


_MEANS = {
    "95 %": "interval, paired over tasks",
    "by family": "the same interval, where tasks that share prompts are drawn together",
    "95 %, all levels": "band that holds for all levels at once",
    "95 %, all sites": "band that holds for all sites at once",
    "p (Holm)": "of random signs of the tasks' differences, corrected for as many looks",
    "chosen": "cells in which the best validation AUC chooses it",
    "won": f"tasks better by more than {MARGIN:g}",
    "lost": f"tasks worse by more than {MARGIN:g}",
    "tied": "cells in which several methods share the best validation AUC",
    "ties averaged": "change where the methods that tie are averaged and no rule chooses",
    "smallest effect": "found in four runs of five",
    "no partner": "cells that only one side has",
    "calibration error": "mean distance of stated probabilities from what happens, ten bins",
    "TPR at 1 % FPR": "share of positives above a threshold that 1 % of negatives pass",
}


def _heading(name: str, plain: bool, numeric: bool) -> str:
    style = ' class="num"' if numeric else ""
    style += f' title="{esc(_MEANS[name])}"' if name in _MEANS else ""
    text = esc(name) if plain else f'<button type="button">{esc(name)}</button>'
    return f'<th scope="col"{style}>{text}</th>'


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{esc(cell)}</td>"
    style = f' class="{cell.style}"' if cell.style else ""
    value = "" if cell.value is None else f' data-v="{esc(cell.value)}"'
    return f"<td{style}{value}>{cell.html or esc(cell.text)}</td>"

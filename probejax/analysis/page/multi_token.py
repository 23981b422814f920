"""The section about probes that read all tokens of a prompt."""

import pandas as pd

from probejax.analysis.labels import title
from probejax.analysis.multi_token import METHOD, PANELS, RULE
from probejax.analysis.page.elements import block, esc
from probejax.analysis.page.tables import Cell, change, count, limits, table


def multi_token_block(rows: pd.DataFrame, pictures: str) -> str:
    """Returns the panels of `multi_token`, nothing where it is empty."""
    if rows.empty:
        return ""
    rows = rows.assign(regime=rows["regime"].map(title))
    where = [name for name in ("regime", "model", "site", "protocol") if rows[name].nunique() > 1]
    named = lambda row: [str(row[name]) for name in where]
    panels = [
        [
            PANELS[row["panel"]],
            row["baseline"],
            Cell(row["contender"], f"{row['contender']} {row['sae_id']}"),
            *named(row),
            count(row["wins"], row["tasks"]),
            limits_of(row, "win"),
            count(row["losses"], row["tasks"]),
            limits_of(row, "loss"),
            *_change(row),
        ]
        for row in rows[rows["panel"] != METHOD].to_dict("records")
    ]
    rest = ["minus baseline", "95 %", "by family", "cells", "no partner"]
    wins = ["SAE wins", "95 %", "baseline wins", "95 %"]
    first = table(["panel", "baseline", "SAE probe", *where, *wins, *rest], panels)
    text = (
        "<p>Last-token probes against each other; a pooled SAE probe against a last-token "
        "baseline, where one side alone reads all tokens; and both sides with the choice to pool. "
        f"{esc(RULE)}</p>"
    )
    return block("multi_token", "Probes on all tokens", text, pictures, first)


def limits_of(row: dict, side: str) -> Cell:
    """Returns a cell with Wilson's interval of a share, in per cent."""
    low, high = 100 * row[f"{side}_low"], 100 * row[f"{side}_high"]
    return Cell(f"{low:.0f} to {high:.0f} %", low, "num")


def _change(row: dict) -> list[Cell]:
    ends = (row["ci_low"], row["ci_high"])
    cells = [count(row["cells"]), count(row["unpaired"])]
    apart = limits(row["family_low"], row["family_high"])
    return [change(row["delta"], 4, *ends), limits(*ends), apart, *cells]

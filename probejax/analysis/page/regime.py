"""One section per regime: what changed, who was chosen, every method, every level."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probejax.analysis.figures import Shown
from probejax.analysis.group import Group
from probejax.analysis.labels import (
    AXES,
    counted,
    interval,
    number,
    p_text,
    percent,
    signed,
    title,
)
from probejax.analysis.left_out import attempt
from probejax.analysis.page.elements import esc
from probejax.analysis.page.tables import Cell, change, count, figure, limits, table
from probejax.analysis.quiver import MARGIN
from probejax.analysis.verdict import NEUTRAL


def section(
    group: Group,
    regime: str,
    anchor: str,
    heading: str,
    methods: pd.DataFrame,
    pictures: Sequence[Shown],
    left_out: list[str],
) -> str:
    """Returns the section of one regime.

    Args:
        group: whose regime it is.
        regime: its name.
        anchor: of the section.
        heading: of the section.
        methods: a row for each method.
        pictures: the figures that belong here.
        left_out: gets a line for every part that fails.
    """
    where = f"{title(regime)}, {group.name}"
    parts = {
        "Numbers": lambda: _facts(group, regime),
        "Figures": lambda: gallery(pictures),
        "Every method": lambda: _methods(group, regime, methods),
        "Level by level": lambda: _levels(group, regime),
    }
    body = [attempt(left_out, f"{name}: {where}", make) or "" for name, make in parts.items()]
    return f'<section id="{esc(anchor)}"><h2>{esc(heading)}</h2>{"".join(body)}</section>'


def gallery(pictures: Sequence[Shown]) -> str:
    """Returns figures side by side, and below them the wide ones."""
    narrow = [_figure(picture) for picture in pictures if not picture.wide]
    wide = [_figure(picture, "full") for picture in pictures if picture.wide]
    grid = f'<div class="grid">{"".join(narrow)}</div>' if narrow else ""
    return grid + "".join(wide)


def _figure(picture: Shown, style: str = "") -> str:
    caption = f"<figcaption>{esc(picture.caption)}</figcaption>"
    svg = f'<div class="scroll">{picture.svg}</div>' if picture.wide else picture.svg
    return f'<figure class="{style}">{caption}{svg}</figure>'


def _facts(group: Group, regime: str) -> str:
    """Returns the numbers of a regime, and what is missing from it."""
    if regime in group.head_to_head:
        base, sae = group.head_to_head[regime]
        text = f"{base} against {sae}: without validation AUCs nothing could be chosen."
        return f"<p>{esc(text)}</p>"
    row, neutral = group.row(regime), group.row(regime, NEUTRAL)
    if row is None:
        return ""
    facts = {
        "change of mean test AUC": signed(row["delta"]),
        "95 %, paired over tasks": interval(row["ci_low"], row["ci_high"]),
        f"95 %, over {row['families']} families": interval(row["family_low"], row["family_high"]),
        "if ties are averaged": signed(neutral["delta"]) if neutral is not None else "",
        "cells with tied methods": f"{row['tied']} of {row['cells']}",
        "p, random signs": p_text(row["p_value"]),
        "p, all regimes (Holm)": p_text(row["p_holm"]),
        "p, sign test": p_text(row["p_sign"]),
        f"tasks beyond ±{MARGIN:g}": f"{row['wins']} gain, {row['losses']} lose, of {row['tasks']}",
        "win rate": f"{percent(row['win_rate'])} ({100 * row['win_low']:.0f} to "
        f"{percent(row['win_high'])})",
        "found with 80 % power": f"± {number(row['smallest_effect'])}",
    }
    tiles = (f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<dl class="stats">{"".join(tiles)}</dl>{_missing(group, regime, row)}'


def _missing(group: Group, regime: str, row: pd.Series) -> str:
    notes = []
    known = np.isfinite(group.table.values["val_auc"][group.table.in_regime(regime)])
    here = np.any(known, axis=0) & group.table.baselines()
    present = group.table.arrows["label"].to_numpy(dtype=object)[here]
    if len(present) == 1:
        notes.append(f"The only baseline here is {present[0]}.")
    if row["unpaired"]:
        notes.append(
            f"{counted(row['unpaired'], 'cell')} left out, where no baseline or no SAE probe has a "
            "validation AUC."
        )
    if row["incomplete"]:
        notes.append(f"{counted(row['incomplete'], 'cell')} without an AUC of some method.")
    if pd.notna(row["not_converged"]) and row["not_converged"]:
        notes.append(f"{row['not_converged']} fits did not converge.")
    return f'<p class="note">{esc(" ".join(notes))}</p>' if notes else ""


def _methods(group: Group, regime: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        raise ValueError("no fit has a test AUC")
    chosen = group.compared(regime)
    picked = chosen["chosen_label"].value_counts() if len(chosen) else pd.Series(dtype=int)
    has = [name for name in ("test_tpr", "test_ece") if rows[name].notna().any()]
    against = rows["against"].iloc[0] if "against" in rows else ""
    headings = ["method", "test AUC", "validation AUC"]
    headings += [{"test_tpr": "TPR at 1 % FPR", "test_ece": "calibration error"}[x] for x in has]
    chose = regime not in group.head_to_head
    headings += ["fits", *["chosen"] * chose] + (
        [f"minus {against}", "95 %", "by family", "won", "lost"] if against else []
    )
    body = []
    for _, row in rows.iterrows():
        kind = "control" if row["control"] else "SAE" if row["is_sae"] else ""
        mark = f' <small class="kind">{kind}</small>' if kind else ""
        name = Cell(row["label"], row["label"], html=f"{esc(row['label'])}{mark}")
        line = [name, figure(row["test_auc"]), figure(row["val_auc"])]
        line += [figure(row[x]) for x in has]
        line.append(count(row["fits"]))
        if chose:
            line.append(count(picked.get(row["label"], 0), len(chosen) or None))
        if against:
            ends = (row["ci_low"], row["ci_high"])
            if row["label"] == against:
                body.append([*line, *[Cell("\N{EN DASH}", None, "num")] * 5])
                continue
            line += [change(row["delta"], 4, *ends), limits(*ends)]
            line += [limits(row["family_low"], row["family_high"])]
            line += [count(row["wins"]), count(row["losses"])]
        body.append(line)
    return f"<h3>Every method</h3>{table(headings, body, search='Find a method')}"


def _levels(group: Group, regime: str) -> str:
    rows = group.levels(regime)
    if rows.empty:
        return ""
    neutral = group.levels(regime, NEUTRAL).set_index("level")["delta"]
    headings = [
        AXES.get(regime, "level"), "cells", "tied", "baselines", "with SAEs", "change", "95 %",
        "by family",
        "95 %, all levels", "p (Holm)", "ties averaged", "SAE chosen", "smallest effect",
    ]  # fmt: skip
    names = group.level_names(regime)
    body = [
        [
            Cell(names[row["level"]], row["level"], "num"),
            count(row["cells"]),
            count(row["tied"]),
            figure(row["baseline"]),
            figure(row["with_sae"]),
            change(row["delta"], 4, row["band_low"], row["band_high"]),
            limits(row["ci_low"], row["ci_high"]),
            limits(row["family_low"], row["family_high"]),
            limits(row["band_low"], row["band_high"]),
            figure(row["p_holm"], 3),
            change(neutral.get(row["level"], float("nan"))),
            count(row["sae_chosen"], row["cells"]),
            figure(row["smallest_effect"]),
        ]
        for _, row in rows.iterrows()
    ]
    return f"<details><summary>Level by level</summary>{table(headings, body)}</details>"

"""What stands on the page about SAE architectures."""

from collections.abc import Sequence

import numpy as np

from probejax.analysis.architectures import Study, slope_text
from probejax.analysis.labels import architecture_name, number, percent
from probejax.analysis.left_out import attempt
from probejax.analysis.page import charts
from probejax.analysis.page.axes import esc
from probejax.analysis.page.charts import Series
from probejax.analysis.page.extras import block
from probejax.analysis.page.tables import Cell, change, figure, limits, table
from probejax.analysis.quiver import MARGIN

_STYLES = ("s0", "s1", "s2", "s3", "s4", "s5", "b0", "b1", "b2", "b3")


def architectures_block(studies: Sequence[Study], left_out: list[str]) -> str:
    """Returns the section on architectures, nothing without two of them.

    Args:
        studies: one per group and method.
        left_out: gets a line for every chart that cannot be drawn.
    """
    if not studies:
        return ""
    text = (
        "<p>Each architecture stands with the SAE whose mean validation AUC is best under standard "
        "conditions. The study chose on test AUC, which flatters; that choice is in the last two "
        "columns. Intervals are paired and drawn over tasks, the choice held fixed.</p>"
    )
    parts = [_study(study, _picture(study, left_out)) for study in studies]
    return block("architectures", "SAE architectures", text, *parts)


def _picture(study: Study, left_out: list[str]) -> str:
    what = f"AUC against L0: {study.method}, {study.group}"
    chart = attempt(left_out, what, lambda: _chart(study))
    if not chart:
        return ""
    return (
        f'<div class="grid"><figure><figcaption>AUC against L0</figcaption>{chart}</figure></div>'
    )


def _study(study: Study, picture: str) -> str:
    lines = [
        [
            architecture_name(row["architecture"]),
            row["released"] or "no date",
            figure(row["l0"], 0),
            figure(row["val_auc"]),
            figure(row["test_auc"]),
            change(row["delta"], 4, row["ci_low"], row["ci_high"]),
            limits(row["ci_low"], row["ci_high"]),
            limits(row["family_low"], row["family_high"]),
            figure(test["l0"], 0),
            figure(test["test_auc"]),
        ]
        for (_, row), (_, test) in zip(
            study.chosen.iterrows(), study.by_test.iterrows(), strict=True
        )
    ]
    headings = ["architecture", "released", "L0", "validation AUC", "test AUC"]
    headings += [f"minus {study.against}", "95 %", "by family", "L0 by test", "its test AUC"]
    names = [architecture_name(name) for name in study.wins.columns]
    wins = [
        [name, *(Cell(percent(rate), None if np.isnan(rate) else rate, "num") for rate in row)]
        for name, row in zip(names, study.wins.to_numpy(), strict=True)
    ]
    return (
        f"<h3>{esc(study.method)}, {study.tasks} tasks ({esc(study.group)})</h3>"
        f"{table(headings, lines)}<p>{esc(slope_text(study))}</p>"
        f"{picture}<p>Share of tasks on which the row is ahead of the column by more than "
        f"{MARGIN:g} AUC.</p>{table(['', *names], wins, plain=True)}"
    )


def _chart(study: Study) -> str:
    series = []
    known = study.saes[study.with_l0]
    if known.empty:
        raise ValueError("the L0 of no SAE is known")
    for i, (key, part) in enumerate(known.groupby("architecture", sort=False)):
        name, x, y = architecture_name(str(key)), part["l0"].tolist(), part["test_auc"].tolist()
        tips = [
            f"{name}, L0 {l0:.0f}\n{number(auc)}{', chosen' if chosen else ''}"
            for l0, auc, chosen in zip(x, y, part["chosen"], strict=True)
        ]
        series.append(Series(name, _STYLES[i % len(_STYLES)], x, y, tips))
    text = lambda l0: f"{l0:.0f}"
    label = f"Mean test AUC of {study.method} against the SAE's L0, by architecture"
    return charts.lines(
        series, "mean active latents of the SAE (L0)", "mean test AUC", label, log=True, x_text=text
    )

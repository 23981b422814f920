"""What stands on the page about SAE architectures."""

from collections.abc import Sequence

import numpy as np

from probejax.analysis.architectures import Study, slope_text
from probejax.analysis.labels import architecture_name, percent
from probejax.analysis.page.elements import block, esc
from probejax.analysis.page.tables import Cell, change, figure, limits, table
from probejax.analysis.quiver import MARGIN


def architectures_block(studies: Sequence[Study], pictures: str) -> str:
    """Returns the section on architectures, nothing without two of them."""
    if not studies:
        return ""
    text = (
        "<p>Each architecture stands with the SAE whose mean validation AUC is best under standard "
        "conditions. The study chose on test AUC, which flatters; that choice is in the last two "
        "columns. Intervals are paired and drawn over tasks, the choice held fixed.</p>"
    )
    parts = [_study(study) for study in studies]
    return block("architectures", "SAE architectures", text, pictures, *parts)


def _study(study: Study) -> str:
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
        f"<p>Share of tasks on which the row is ahead of the column by more than "
        f"{MARGIN:g} AUC.</p>{table(['', *names], wins, plain=True)}"
    )

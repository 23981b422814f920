"""Results as a matrix: one row per cell (condition, task, seed), one column per arrow.

With one sort into place, every paired comparison is a difference of two columns.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probejax.analysis import intervals
from probejax.analysis.facts import FACTS, is_control, with_facts
from probejax.analysis.labels import arrow_labels, in_order

CELL = ["regime", "level", "task", "seed"]
ARROW = ["method", "sae_id", "k"]
GROUP = ["protocol", "model", "site"]
METRICS = ("val_auc", "test_auc", "test_tpr", "test_ece")


def compared(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns that comparisons read: copies of a million rows of all are slow."""
    used = [*GROUP, *CELL, *ARROW, *METRICS, *FACTS, "group"]
    return with_facts(results)[[name for name in used if name in (*results.columns, *FACTS)]]


class Grid(NamedTuple):
    """Fits of one protocol, model and site.

    Attributes:
      cells: columns of `CELL`, and `task_family`.
      arrows: columns of `ARROW`, the facts of method and SAE, `label`, `is_sae` and `is_control`,
        in reading order.
      values: per metric [cells, arrows], NaN where there is no fit.
      arrow: [rows of the table] the column of each fit.
    """

    cells: pd.DataFrame
    arrows: pd.DataFrame
    values: dict[str, np.ndarray]
    arrow: np.ndarray

    def in_regime(self, regime: str) -> np.ndarray:
        """Returns which cells belong to a regime."""
        return (self.cells["regime"] == regime).to_numpy(bool)

    def tasks(self, here: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Returns the task of each cell, and its family."""
        cells = self.cells[["task", "task_family"]].to_numpy(dtype=str)[here]
        return cells[:, 0], cells[:, 1]

    def baselines(self) -> np.ndarray:
        """Returns which arrows are baselines: neither SAE probes nor controls."""
        return ~(self.arrows["is_sae"] | self.arrows["is_control"]).to_numpy(bool)


def grid(results: pd.DataFrame) -> Grid:
    """Returns the results of one protocol, model and site as a grid.

    Raises:
        ValueError: the table has fits of several protocols, models or sites.
    """
    if len(results[GROUP].drop_duplicates()) > 1:
        raise ValueError("A grid holds one protocol, model and site; the table has several.")
    results = with_facts(results)
    cell, cells = _numbered(results, CELL, ["task_family"])
    arrow, arrows = _numbered(results, ARROW, [name for name in FACTS if name != "task_family"])
    order = in_order(arrows)
    arrows = arrows.iloc[order].reset_index(drop=True)
    arrow = np.argsort(order)[arrow]
    arrows = arrows.assign(
        label=arrow_labels(arrows), is_sae=arrows["sae_id"] != "", is_control=is_control(arrows)
    )
    values = {}
    for name in METRICS:
        table = np.full((len(cells), len(arrows)), np.nan)
        if name in results and results[name].notna().any():
            table[cell, arrow] = results[name].to_numpy(dtype=float, na_value=np.nan)
        values[name] = table
    return Grid(cells, arrows, values, arrow)


def _numbered(
    results: pd.DataFrame, columns: list[str], more: list[str]
) -> tuple[np.ndarray, pd.DataFrame]:
    groups = results.groupby(columns, sort=False, dropna=False)
    first = ~groups.cumcount().to_numpy().astype(bool)
    return groups.ngroup().to_numpy(), results.loc[first, columns + more].reset_index(drop=True)


def compare(
    left: np.ndarray,
    right: np.ndarray,
    tasks: np.ndarray,
    families: np.ndarray,
    *,
    margin: float = 0.005,
) -> dict[str, Any]:
    """Compares two columns cell by cell: `right - left` over the cells that both have.

    Returns:
        `cells`, `unpaired` (cells that one side lacks), the means `left` and `right`, `delta` with
        its intervals (see `intervals.of_mean`), and the tasks on which the mean difference
        is beyond the margin: `wins`, `losses`.
    """
    has_left, has_right = np.isfinite(left), np.isfinite(right)
    both = has_left & has_right
    delta = (right - left)[both]
    won = intervals.win_rate(intervals.task_means(delta, tasks[both]), margin=margin)
    return {
        "cells": int(both.sum()),
        "unpaired": int((has_left ^ has_right).sum()),
        "left": float(left[both].mean()) if both.any() else np.nan,
        "right": float(right[both].mean()) if both.any() else np.nan,
        **intervals.of_mean(delta, tasks[both], families[both]),
        "wins": won.wins,
        "losses": won.losses,
    }

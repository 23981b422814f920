"""One baseline against one SAE probe, cell by cell: the comparison where nothing was chosen."""

import numpy as np
import pandas as pd

from probejax.analysis import intervals, levels
from probejax.analysis.facts import with_facts

_CELL = ["protocol", "model", "site", "regime", "level", "task", "task_family", "seed"]


def pairs(
    results: pd.DataFrame, baseline: str, sae_id: str, k: int, method: str | None = None
) -> pd.DataFrame:
    """Returns one row per cell that either method has: `baseline`, `sae` (test AUCs), `delta`.

    Rows are matched by protocol, model, site, regime, level, task and seed, never by position;
    where one side is missing its AUC and `delta` are NaN. `method` is that of the SAE probe, by
    default `sae_k<k>`.

    Raises:
        ValueError: the table has no row of one of the two, or a cell twice.
    """
    results = with_facts(results)
    is_sae = results["sae_id"].fillna("") != ""
    left = results[(results["method"] == baseline) & ~is_sae]
    method = method or f"sae_k{k}"
    right = results[(results["sae_id"] == sae_id) & (results["method"] == method)]
    for name, side in ((baseline, left), (f"{method} on {sae_id}", right)):
        if side.empty:
            raise ValueError(f"The results table has no row of {name}.")
        if side.duplicated(_CELL).any():
            raise ValueError(f"The results table has {name} twice in a cell. Keep one row of each.")
    same = [*_CELL, "group"] if "group" in results else _CELL
    table = left[[*same, "test_auc"]].merge(
        right[[*same, "test_auc"]], how="outer", on=same, suffixes=("_baseline", "_sae")
    )
    table = table.rename(columns={"test_auc_baseline": "baseline", "test_auc_sae": "sae"})
    return table.assign(delta=table["sae"] - table["baseline"])


def head_to_head(
    results: pd.DataFrame,
    baseline: str,
    sae_id: str,
    k: int,
    method: str | None = None,
    *,
    margin: float = 0.0,
) -> pd.DataFrame:
    """Returns one row per regime and level, and one per regime over all levels (empty `level`).

    Columns: `regime, level, cells, unpaired`, the mean test AUCs `baseline` and `sae`, `delta`
    with its intervals (see `intervals.of_mean`), and how often either side is ahead by more
    than `margin`: `sae_wins, baseline_wins`.

    Raises:
        ValueError: as for `pairs`; or the rows mix protocols, models or sites.
    """
    table = pairs(results, baseline, sae_id, k, method)
    for name in _CELL[:3]:
        if table[name].nunique(dropna=False) > 1:
            values = ", ".join(map(str, table[name].unique()))
            raise ValueError(f"The table mixes the {name}s {values}; keep the rows of one.")
    rows = []
    for regime, part in table.groupby("regime", sort=False):
        for level in levels.in_common(part):
            rows.append(_row(part[part["level"] == level], regime, level, margin))
        rows.append(_row(part, regime, np.nan, margin))
    return pd.DataFrame(rows)


def _row(part: pd.DataFrame, regime: object, level: float, margin: float) -> dict:
    both = part[part["delta"].notna()]
    differences = both["delta"].to_numpy(dtype=float)
    tasks, families = both[["task", "task_family"]].to_numpy(dtype=str).T
    won = intervals.win_rate(differences, margin=margin)
    return {
        "regime": regime,
        "level": level,
        "cells": len(both),
        "unpaired": len(part) - len(both),
        "baseline": both["baseline"].mean(),
        "sae": both["sae"].mean(),
        **intervals.of_mean(differences, tasks, families),
        "sae_wins": won.wins,
        "baseline_wins": won.losses,
    }

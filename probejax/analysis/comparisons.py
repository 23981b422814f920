"""Methods against a baseline, claims against their controls, `paper` against `strict`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probejax.analysis.facts import with_facts
from probejax.analysis.grid import ARROW, CELL, GROUP, METRICS, Grid, compare
from probejax.analysis.group import Group
from probejax.analysis.labels import arrow_labels, in_order
from probejax.solvers import codes

_PAIRED = [*CELL, "task_family"]
_QUIVERS = {
    "quiver of baselines": "baseline",
    "quiver with SAEs": "with_sae",
    "difference of the quivers": "delta",
}


def methods(table: Grid, regime: str) -> pd.DataFrame:
    """Returns one row per arrow of a regime: its mean metrics, and its difference to a baseline.

    The baseline is logreg, or the first that there is; `against` names it.
    """
    here = table.in_regime(regime)
    tasks = table.tasks(here)
    values = {name: metric[here] for name, metric in table.values.items()}
    baselines = table.arrows[table.baselines()]
    present = np.any(np.isfinite(values["test_auc"]), axis=0)
    known = [i for i in baselines.index if present[i]]
    named = [i for i in known if str(baselines.loc[i, "method"]) == "logreg"]
    reference = next(iter(named or known), None)
    rows = []
    for i in np.flatnonzero(present):
        row = table.arrows.loc[i, ["label", *ARROW, "is_sae", "is_control"]].to_dict()
        row["control"] = row.pop("is_control")
        row |= {name: _mean(values[name][:, i]) for name in METRICS}
        row["fits"] = int(np.isfinite(values["test_auc"][:, i]).sum())
        if reference is not None:
            left, right = values["test_auc"][:, reference], values["test_auc"][:, i]
            row |= compare(left, right, *tasks) | {"against": table.arrows.loc[reference, "label"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def controls(found: Sequence[Group]) -> pd.DataFrame:
    """Returns one row per regime, control and the claim it stands beside.

    An SAE with random weights stands beside the SAEs of its width and L0, or beside all with the
    same method where there is none.

    Columns: `protocol, model, site, regime, claim, control` (labels), mean test AUCs `claimed` and
    `controlled`, `delta` (claim minus control) with its intervals (see `intervals.of_mean`),
    `cells`, `unpaired`.
    """
    rows = []
    for group in found:
        table, auc = group.table, group.table.values["test_auc"]
        where = dict(zip(GROUP, (group.protocol, group.model, group.site), strict=True))
        for claim, control in _beside(table.arrows):
            for regime in table.cells["regime"].unique():
                here = table.in_regime(regime)
                pair = compare(auc[here, control], auc[here, claim], *table.tasks(here))
                if not pair["cells"] and not pair["unpaired"]:
                    continue
                names = {
                    "regime": regime,
                    "claim": table.arrows.loc[claim, "label"],
                    "control": table.arrows.loc[control, "label"],
                    "claimed": pair.pop("right"),
                    "controlled": pair.pop("left"),
                }
                rows.append(where | names | pair)
    return pd.DataFrame(rows)


def _beside(arrows: pd.DataFrame) -> list[tuple[int, int]]:
    """Returns pairs (claim, control) of arrows."""
    found = []
    method = ["family", "k", "pooling", "binarised"]
    same = arrows.fillna({"k": 0}).groupby(method, sort=False).ngroup().to_numpy()
    for control in map(int, np.flatnonzero(arrows["is_control"])):
        row = arrows.iloc[control]
        claims = arrows[(same == same[control]) & ~arrows["is_control"]]
        if row["sae_random"]:
            twins = claims[
                (claims["sae_width"] == row["sae_width"]) & (claims["sae_l0"] == row["sae_l0"])
            ]
            claims = claims[claims["is_sae"]] if twins.empty else twins
        else:
            claims = claims[claims["sae_id"] == row["sae_id"]]
        found += [(claim, control) for claim in claims.index]
    return found


def protocols(found: Sequence[Group], first: str = "paper", second: str = "strict") -> pd.DataFrame:
    """Returns what the second protocol changes, per model, site, regime and method.

    Cells and arrows are matched by name; a fit that one protocol lacks is counted in `unpaired`.
    The last rows of a regime compare the quivers and their difference.

    Columns: `model, site, regime, label`, mean test AUCs (of the quivers' rows: what they chose)
    named as the protocols, `delta` (second minus first) with its intervals, `cells, unpaired`.
    Empty where there is one protocol only.
    """
    rows = []
    by_key = {(group.model, group.site, group.protocol): group for group in found}
    for model, site in dict.fromkeys(key[:2] for key in by_key):
        sides = [by_key.get((model, site, name)) for name in (first, second)]
        if None in sides:
            continue
        long = [_long(side) for side in sides if side]
        both = long[0].merge(long[1], how="outer", on=[*ARROW, *_PAIRED], suffixes=("_1", "_2"))
        labels = _labels([side for side in sides if side])
        for regime in dict.fromkeys(regime for side in sides if side for regime in side.regimes):
            here = dict(list(both[both["regime"] == regime].groupby(ARROW, sort=False)))
            for arrow, label in labels.items():
                if arrow not in here:
                    continue
                cells = here[arrow]
                pair = compare(
                    cells["auc_1"].to_numpy(dtype=float),
                    cells["auc_2"].to_numpy(dtype=float),
                    cells["task"].to_numpy(dtype=str),
                    cells["task_family"].to_numpy(dtype=str),
                )
                names = {"model": model, "site": site, "regime": regime, "label": label}
                rows.append(names | {first: pair.pop("left"), second: pair.pop("right")} | pair)
    return pd.DataFrame(rows)


def _long(group: Group) -> pd.DataFrame:
    """Returns one row per cell and arrow, and per cell and quiver: `ARROW`, `_PAIRED`, `auc`."""
    auc = group.table.values["test_auc"]
    arrow, cell = np.nonzero(np.isfinite(auc.T))
    fits = group.table.cells[_PAIRED].iloc[cell].assign(auc=auc[cell, arrow])
    for name, values in _named(group.table.arrows).items():
        fits[name] = values.to_numpy()[arrow]
    chosen = group.cells[~group.cells["regime"].isin(list(group.head_to_head))]
    quivers = [
        chosen[_PAIRED].assign(method=label, sae_id="", k=0, auc=chosen[column].astype(float))
        for label, column in _QUIVERS.items()
    ]
    return pd.concat([fits, *quivers], ignore_index=True)


def _named(arrows: pd.DataFrame) -> pd.DataFrame:
    """Returns what tells arrows apart, without a missing value."""
    return pd.DataFrame(
        {
            "method": arrows["method"].astype(str),
            "sae_id": arrows["sae_id"].fillna("").astype(str),
            "k": arrows["k"].astype(float).fillna(0).astype(int),
        }
    )


def _labels(sides: Sequence[Group]) -> dict[tuple[str, str, int], str]:
    """Returns what every arrow of the groups together is called, in reading order."""
    arrows = pd.concat([side.table.arrows for side in sides], ignore_index=True)
    arrows = arrows.loc[_named(arrows).drop_duplicates().index].reset_index(drop=True)
    arrows = arrows.iloc[in_order(arrows)].reset_index(drop=True)
    keys = _named(arrows).itertuples(index=False, name=None)
    return dict(zip(keys, arrow_labels(arrows), strict=True)) | {
        (label, "", 0): label for label in _QUIVERS
    }


def unconverged(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the fits that did not converge, counted per regime and arrow.

    Columns: those of the group, `regime`, `ARROW`, `fits`, `max_trips`, `non_finite`, `degenerate`
    `gap`, the largest certified gap, and `label`. Only arrows with
    a fit that is not converged have a row.
    """
    code = results["code"]
    results = with_facts(results)
    flags = results[[*GROUP, "regime", *ARROW, "gap"]].assign(
        label=arrow_labels(results),
        fits=1,
        max_trips=(code == codes.MAX_TRIPS).fillna(False).astype(int),
        non_finite=(code == codes.NON_FINITE).fillna(False).astype(int),
        degenerate=(code == codes.DEGENERATE).fillna(False).astype(int),
    )
    bad = ["max_trips", "non_finite", "degenerate"]
    groups = flags.groupby([*GROUP, "regime", *ARROW], sort=False, dropna=False)
    table = (
        groups[["fits", *bad]].sum().join(groups["label"].first()).assign(gap=groups["gap"].max())
    )
    return table[table[bad].sum(axis=1) > 0].reset_index()

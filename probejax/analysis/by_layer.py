"""Which layer: every method at every site of a model, over the cells that all its sites have.

A site is chosen as a practitioner would, on validation AUC; how sure it is that another is better
or worse is told from paired differences of test AUC, task by task.
"""

import textwrap
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from probejax.analysis import intervals
from probejax.analysis.facts import is_control
from probejax.analysis.grid import compared
from probejax.analysis.labels import TITLES, counted, in_order, number, title
from probejax.analysis.multiplicity import simultaneous_bands
from probejax.analysis.verdict import FEW_TASKS, TOO_FEW
from probejax.sites import in_order as sites_in_order
from probejax.sites import known as site_of

_OF = ["protocol", "model"]
_CELL = ["level", "task", "task_family", "seed"]
_REFERENCE = "logreg"


def by_layer(results: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per protocol, model, method and site, where a model is read at several.

    Standard conditions, or where there are none the first of the regimes. Controls are left out.
    Where a site has several SAEs a method stands with the one of best mean validation AUC.

    Args:
      results: one row per fit.

    Returns:
      Columns `protocol, model, regime, method, site, layer, sae_id`; `tasks` and `cells`, which
      every site of the method has, and `unpaired`, which only some have; mean `val_auc` and
      `test_auc` over these cells; `chosen`, the site of best mean validation AUC, of equal ones the
      first, where the method has several; `delta`, test AUC minus that of the chosen site, with
      its intervals (see `intervals.of_mean`), and `band_low` and `band_high`, 95 % for all sites
      at once. Sites stand as the model computes them, methods in reading order. Empty where no
      model has several sites.
    """
    rows = compared(results)
    rows = rows[~is_control(rows)]
    made: list[dict] = []
    for key, part in rows.groupby(_OF, sort=False):
        if part["site"].nunique() < 2:
            continue
        present = part["regime"].unique()
        regime = next((name for name in TITLES if name in present), present[0])
        part = part[part["regime"] == regime]
        first = dict(zip(_OF, key, strict=True)) | {"regime": regime}
        for method, fits in _methods(part):
            made += [first | {"method": method} | row for row in _sites(fits)]
    return pd.DataFrame(made)


def _methods(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    arrows = rows.drop_duplicates(["method", "sae_id", "k"]).reset_index(drop=True)
    for method in arrows["method"].iloc[in_order(arrows)].unique():
        yield method, rows[rows["method"] == method]


def _sites(fits: pd.DataFrame) -> list[dict]:
    """Returns the rows of one method."""
    fits = fits.assign(level=fits["level"].fillna(-1.0))  # a missing key is no key
    by_cell = fits.set_index([*_CELL, "site", "sae_id"])
    val, test = (by_cell[name].unstack(["site", "sae_id"]) for name in ("val_auc", "test_auc"))
    means = val.mean().reindex(test.columns)
    names = sites_in_order(test.columns.unique("site"))
    columns = [(site, means[site].fillna(-1.0).idxmax()) for site in names]
    test = test[columns]
    whole = test.notna().all(axis=1).to_numpy()
    if not whole.any():
        return []
    auc = test[whole].to_numpy(dtype=float)
    checked = val.reindex(columns=columns).loc[test.index[whole]].to_numpy(dtype=float)
    known = np.isfinite(checked).any(axis=0)  # sites that are compared where all of them validate
    together = np.isfinite(checked[:, known]).all(axis=1)
    checked = np.where(known, checked[together].mean(axis=0) if together.any() else np.nan, np.nan)
    tasks, families = (test.index[whole].get_level_values(name).to_numpy(dtype=str)
                       for name in _CELL[1:3])  # fmt: skip
    choice = len(names) > 1 and np.isfinite(checked).any()
    best = int(np.nanargmax(checked)) if choice else None
    delta = np.full(auc.shape, np.nan) if best is None else auc - auc[:, [best]]
    low, high = _bands(delta, tasks, best)
    rows = []
    for i, (site, sae_id) in enumerate(columns):
        place = site_of(site)
        apart = intervals.of_mean(delta[:, i], tasks, families)
        if i == best:  # it differs from itself by nothing, for certain
            apart = dict.fromkeys(apart, np.nan) | {"delta": 0.0}
        rows.append(
            {
                "site": site,
                "layer": place.layer if place else None,
                "sae_id": sae_id,
                "tasks": len(np.unique(tasks)),
                "cells": len(auc),
                "unpaired": int((~whole).sum()),
                "val_auc": checked[i],
                "test_auc": auc[:, i].mean(),
                "chosen": i == best,
                **apart,
                "band_low": low[i],
                "band_high": high[i],
            }
        )
    return rows


def _bands(
    delta: Float[np.ndarray, "n S"], tasks: np.ndarray, best: int | None
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Returns limits that hold for all sites at once but the chosen one, which has none.

    Of fewer than `TOO_FEW` tasks there are none: a bootstrap's would be too narrow.
    """
    low, high = np.full((2, delta.shape[1]), np.nan)
    others = [i for i in range(delta.shape[1]) if i != best]
    if best is not None and others and len(np.unique(tasks)) >= TOO_FEW:
        looks = np.tile(np.arange(len(others)), len(delta))
        bands = simultaneous_bands(delta[:, others].ravel(), np.repeat(tasks, len(others)), looks)
        low[others], high[others] = bands.low, bands.high
    return low, high


def reference(rows: pd.DataFrame) -> str:
    """Returns the method that chooses a model's site: logreg, else the first at most sites."""
    counts = rows.groupby("method", sort=False)["site"].nunique()
    most = [str(method) for method, count in counts.items() if count == counts.max()]
    return _REFERENCE if _REFERENCE in most else most[0]


def chosen_sites(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Returns the site that validation AUC chooses for each protocol and model of `by_layer`."""
    found = {}
    for key, rows in table.groupby(_OF, sort=False) if len(table) else ():
        rows = rows[(rows["method"] == reference(rows)) & rows["chosen"]]
        if len(rows):
            found[tuple(map(str, key))] = str(rows["site"].iloc[0])
    return found


def answer(rows: pd.DataFrame) -> tuple[str, str]:
    """Returns which site is chosen, and how sure that is, in a sentence or two each.

    Args:
      rows: one protocol and model of `by_layer`.
    """
    method = reference(rows)
    rows = rows[rows["method"] == method]
    best = rows[rows["chosen"]]
    if best.empty:
        return "No site can be chosen: no fit has a validation AUC.", ""
    best, others = best.iloc[0], rows[~rows["chosen"]]
    first = f"Read {best['model']} at {best['site']}"
    first += f": of {len(rows)} sites, {method} validates best there."
    worse, better = others["band_high"] < 0, others["band_low"] > 0
    names = ", ".join(others["site"][~worse & ~better])
    tasks = counted(best["tasks"], "task")
    text = (
        f"Mean test AUC there is {number(best['test_auc'])} over {tasks}, "
        f"{title(best['regime']).lower()}."
    )
    if others["band_low"].isna().all():
        return first, f"{text} With so few tasks nothing says how far other sites differ."
    count = {0: "none is", 1: "1 is"}.get(int(worse.sum()), f"{worse.sum()} are")
    text += f" Of the other {len(others)}, {count} certainly worse"
    text += f" and {better.sum()} certainly better" * bool(better.any())
    text += " (95 %, paired over tasks, all sites at once)"
    text += f"; not to be told apart from it: {names}." if names else "."
    few = f" With {tasks} the limits are rough." * bool(best["tasks"] < FEW_TASKS)
    return first, text + few


_LINE = "{:<18} {:<14} {:>8} {:>8}  {}"


def summary(table: pd.DataFrame) -> str:
    """Returns the table of `by_layer` as text of at most 80 columns; empty if it is."""
    lines: list[str] = []
    for key, rows in table.groupby(_OF, sort=False) if len(table) else ():
        protocol, model = map(str, key)
        lines += [f"{model}, {protocol} protocol: mean test AUC by site", ""]
        lines += textwrap.wrap(" ".join(answer(rows)), width=80)
        header = _LINE.format("method", "site", "val AUC", "test AUC", "minus the best by val")
        lines += ["", header, "-" * len(header)]
        for row in rows.to_dict("records"):
            difference = "chosen" if row["chosen"] else f"{row['delta']:+.4f}"
            if np.isnan(row["delta"]):  # the method is at this site alone
                difference = ""
            if np.isfinite(row["ci_low"]):
                difference += f" [{row['ci_low']:+.4f},{row['ci_high']:+.4f}]"
            aucs = (number(row["val_auc"]), number(row["test_auc"]))
            lines.append(_LINE.format(row["method"], row["site"], *aucs, difference).rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()

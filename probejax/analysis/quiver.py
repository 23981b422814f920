"""The study's question: a practitioner picks the probe with the best validation AUC; do SAEs help?

A *quiver* is the set of arrows (method, SAE, k) among which validation AUC chooses. In each cell
(task, condition, seed) the baseline quiver's choice is compared with the choice among baselines
and SAE probes together. Validation AUCs tie often (with two training rows nearly all of them are
1), so the order among ties is part of the result and is always named.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from probejax.analysis import intervals, levels
from probejax.analysis.facts import CONTROL, is_control, with_facts
from probejax.analysis.multiplicity import holm, simultaneous_bands
from probejax.analysis.ties import ORDERED_BY, TIE_RULES, TOLERANCE, tie_orders
from probejax.solvers import codes

COLUMNS = (
    "regime",
    "level",
    "tie_rule",
    "cells",
    "tied",
    "baseline",
    "with_sae",
    "delta",
    "ci_low",
    "ci_high",
    "sae_chosen",
    # how sure: see `quiver`
    "family_low",
    "family_high",
    "band_low",
    "band_high",
    "family_band_low",
    "family_band_high",
    "p_value",
    "p_holm",
    "p_sign",
    "wins",
    "losses",
    "win_rate",
    "win_low",
    "win_high",
    "smallest_effect",
    # beyond the comparison itself: what it rests on
    "tasks",
    "families",
    "unpaired",
    "incomplete",
    "not_converged",
    "protocol",
    "model",
    "site",
    "group",  # that a level of `group_shift` holds out
)
_GROUP = ["protocol", "model", "site", "regime", "level"]
_CELL = [*_GROUP, "task", "seed"]
_ARROW = ["method", "sae_id", "k"]
MARGIN = 0.005  # the study's, in AUC: a smaller difference is neither a win nor a loss


def quiver(
    results: pd.DataFrame,
    *,
    baseline_methods: Sequence[str] | None = None,
    tie_rule: str | Sequence[str] = "documented",
) -> pd.DataFrame:
    """Returns one row per regime, level and tie rule, and one per regime over all its levels.

    A method is an SAE arrow where its `sae_id` is not empty; controls (`is_control`) are no arrows
    and are left out. Only rows of one protocol, model and
    site are compared; where the table holds several, each gets its own rows. Levels of
    `group_shift` have rows only where they are the same groups in all tasks.

    Args:
        results: one row per fit (columns of `results.csv`).
        baseline_methods: the baseline quiver; by default every method without an SAE.
        tie_rule: one or several of `TIE_RULES`.

    Returns:
        `COLUMNS`. `level` is empty in a regime's overall row; `cells` counts the compared cells
        and `tied` those of them with several arrows at the best validation AUC; `baseline`,
        `with_sae` and `delta` are mean test AUCs over those cells; `ci_low` and `ci_high` bound
        `delta` (95 %, paired, over tasks), `family_low` and `family_high` the same over families of
        tasks that share prompts, of which there are `families`; `sae_chosen` counts the cells where
        an SAE was chosen (empty for `neutral`, which chooses none). `unpaired` counts the
        cells left out for want of a baseline or of an SAE, `incomplete` the compared ones that lack
        an arrow which other cells of the regime have. `not_converged` counts fits (empty where no
        code is known). `group` names what a level of `group_shift` holds out.

        Each level is one of many looks. `band_low` and `band_high` bound the differences of all
        levels of the regime at once (95 %); in the overall rows, those of all regimes;
        `family_band_low` and `family_band_high` are these over families. `p_value`
        is that of random signs of the tasks' mean differences, `p_holm` the same corrected for as
        many looks, `p_sign` that of the sign test. `wins` and `losses` count tasks whose mean
        difference is beyond `MARGIN`; `win_rate` is the share of wins, with Wilson's limits
        `win_low` and `win_high`. `smallest_effect` is the difference that one look at these tasks
        finds with a probability of 80 %.

    Raises:
        ValueError: a column is missing, a method or rule is unknown, or a fit occurs twice.
    """
    rules = (tie_rule,) if isinstance(tie_rule, str) else tuple(tie_rule)
    prepared = _prepare(results, baseline_methods)
    fits = _unconverged(results)
    tables = [_summarise(_choose(prepared, rule), fits, rule) for rule in rules]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def choices(
    results: pd.DataFrame,
    *,
    baseline_methods: Sequence[str] | None = None,
    tie_rule: str = "documented",
) -> pd.DataFrame:
    """Returns one row per cell: what either quiver chose there, and its test AUC.

    The columns are those that name the cell, `baseline`, `with_sae`, `delta` (NaN in an unpaired
    cell), `tied`, `sae_chosen`, `incomplete`, and for every rule but `neutral` the rows of
    `results` that were chosen: `baseline_row` and `chosen_row` (positions, -1 for none).

    Raises:
        ValueError: as for `quiver`.
    """
    return _choose(_prepare(results, baseline_methods), tie_rule)


class _Prepared(NamedTuple):
    cells: pd.DataFrame  # one row per cell: the columns of _CELL
    cell: np.ndarray  # [n] which cell a fit belongs to
    row: np.ndarray  # [n] its position in the table that was passed
    is_sae: np.ndarray  # [n]
    val: np.ndarray  # [n] validation AUC
    test: np.ndarray  # [n] test AUC
    ranks: dict[str, np.ndarray]  # per kind of order: [n], the smallest wins a tie
    incomplete: np.ndarray  # [cells]


def _prepare(results: pd.DataFrame, baseline_methods: Sequence[str] | None) -> _Prepared:
    missing = sorted({*_CELL, *_ARROW, "val_auc", "test_auc"} - set(results.columns))
    if missing:
        raise ValueError(f"The results table lacks the columns {', '.join(missing)}.")
    named = ["group"] if "group" in results else []
    used = [*_CELL, *_ARROW, "val_auc", "test_auc", "task_family", *ORDERED_BY, *CONTROL, *named]
    results = with_facts(results)[list(dict.fromkeys(used))]  # copies of a million rows are slow
    is_sae = (results["sae_id"].fillna("") != "").to_numpy(dtype=bool)
    control = is_control(results)
    arrows = _in_quiver(results["method"], is_sae, control, baseline_methods)
    in_quiver = arrows & ~control
    rows, is_sae = results[in_quiver], is_sae[in_quiver]

    groups = rows.groupby(_CELL, sort=False, dropna=False)
    cell = groups.ngroup().to_numpy()
    first = ~groups.cumcount().to_numpy().astype(bool)
    cells = rows.loc[first, [*_CELL, "task_family", *named]].reset_index(drop=True)
    arrows = rows.groupby(_ARROW, sort=False, dropna=False)
    arrow = arrows.ngroup().to_numpy()
    names = rows.loc[~arrows.cumcount().to_numpy().astype(bool)]
    _check_unique(rows, cell, arrow, len(names))

    val = rows["val_auc"].to_numpy(dtype=float, na_value=np.nan)
    test = rows["test_auc"].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(val) & np.isfinite(test)
    regime = cells.groupby(_GROUP[:-1], sort=False, dropna=False).ngroup().to_numpy()
    present = np.zeros((len(cells), len(names)), dtype=bool)
    present[cell[usable], arrow[usable]] = True
    expected = np.zeros((regime.max(initial=-1) + 1, len(names)), dtype=bool)
    expected[regime[cell], arrow] = True
    incomplete = np.any(expected[regime] & ~present, axis=1)

    documented, baseline_first = tie_orders(names)
    ranks = {
        "documented": documented[arrow][usable],
        "baseline_first": baseline_first[arrow][usable],
        "row_order": np.flatnonzero(usable),
    }
    row = np.flatnonzero(in_quiver)[usable]
    return _Prepared(
        cells, cell[usable], row, is_sae[usable], val[usable], test[usable], ranks, incomplete
    )


def _in_quiver(
    method: pd.Series,
    is_sae: np.ndarray,
    control: np.ndarray,
    baseline_methods: Sequence[str] | None,
) -> np.ndarray:
    if baseline_methods is None:
        return np.ones(len(method), dtype=bool)
    known = sorted(method[~is_sae & ~control].unique())
    unknown = sorted(set(baseline_methods) - set(known))
    if unknown:
        raise ValueError(
            f"No results of the baseline {', '.join(unknown)}; there are {', '.join(known)}."
        )
    return is_sae | method.isin(list(baseline_methods)).to_numpy(dtype=bool)


def _check_unique(rows: pd.DataFrame, cell: np.ndarray, arrow: np.ndarray, arrows: int) -> None:
    twice = pd.Series(cell * arrows + arrow).duplicated().to_numpy()
    if twice.any():
        where = rows.loc[twice, [*_CELL, *_ARROW]].iloc[0].to_dict()
        raise ValueError(
            f"{int(twice.sum())} fits occur twice, the first: "
            + ", ".join(f"{name}={value}" for name, value in where.items())
            + ". Keep one row of each."
        )


def _choose(prepared: _Prepared, rule: str) -> pd.DataFrame:
    if rule not in TIE_RULES:
        raise ValueError(f"Unknown tie rule {rule!r}; there are {', '.join(TIE_RULES)}.")
    baseline, baseline_row, _ = _pick(prepared, ~prepared.is_sae, rule)
    with_sae, chosen_row, tied = _pick(prepared, np.ones_like(prepared.is_sae), rule)
    has_sae = np.isin(np.arange(len(prepared.cells)), prepared.cell[prepared.is_sae])
    paired = np.isfinite(baseline) & has_sae
    table = prepared.cells.assign(
        baseline=baseline,
        with_sae=np.where(has_sae, with_sae, np.nan),
        delta=np.where(paired, with_sae - baseline, np.nan),
        tied=tied & paired,
        incomplete=prepared.incomplete & paired,
    )
    if rule == "neutral":
        return table.assign(sae_chosen=False)
    at = np.where(chosen_row < 0, 0, chosen_row)
    is_sae = prepared.is_sae[at] if len(prepared.row) else np.zeros(len(table), dtype=bool)
    return table.assign(
        sae_chosen=is_sae & paired,
        baseline_row=_positions(prepared.row, baseline_row),
        chosen_row=_positions(prepared.row, chosen_row),
    )


def _positions(row: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.append(row, -1)[index]  # index -1, no choice, takes the last entry


def _pick(
    prepared: _Prepared, members: np.ndarray, rule: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns per cell the test AUC chosen among `members`, the fit, and whether fits tied."""
    count = len(prepared.cells)
    tolerance = TOLERANCE if rule in ("documented_tolerance", "neutral") else 0.0
    top = np.full(count, -np.inf)
    np.maximum.at(top, prepared.cell[members], prepared.val[members])
    candidates = np.flatnonzero(members & (prepared.val >= top[prepared.cell] - tolerance))
    cell = prepared.cell[candidates]
    at_top = np.bincount(cell, minlength=count)
    auc, chosen = np.full(count, np.nan), np.full(count, -1)
    if rule == "neutral":
        sums = np.bincount(cell, weights=prepared.test[candidates], minlength=count)
        np.divide(sums, at_top, out=auc, where=at_top > 0)
    else:
        rank = prepared.ranks["documented" if rule == "documented_tolerance" else rule]
        order = np.lexsort((rank[candidates], cell))
        cells, first = np.unique(cell[order], return_index=True)
        chosen[cells] = candidates[order][first]
        auc[cells] = prepared.test[chosen[cells]]
    return auc, chosen, at_top > 1


def _unconverged(results: pd.DataFrame) -> pd.DataFrame:
    """Returns per group the number of fits with a known code and of those not converged."""
    code = results["code"] if "code" in results else pd.Series(pd.NA, index=results.index)
    # A degenerate fit (one class, a constant feature) has no optimum to converge to.
    bad = code.notna() & ~code.isin([codes.CONVERGED, codes.DEGENERATE])
    flags = results[_GROUP].assign(known=code.notna(), bad=bad)
    return flags.groupby(_GROUP, sort=False, dropna=False)[["known", "bad"]].sum().reset_index()


def _summarise(table: pd.DataFrame, fits: pd.DataFrame, rule: str) -> pd.DataFrame:
    rows = []
    for _, block in _by(table, _GROUP[:-2]):
        overall = []
        for key, part in _by(block, _GROUP[:-1]):
            group = dict(zip(_GROUP[:-1], key, strict=True))
            known = _matching(fits, group)
            apart = [
                group | _row(part[part["level"] == x], known[known["level"] == x], x, rule)
                for x in levels.in_common(part)
            ]
            together = group | _row(part, known, np.nan, rule)
            rows += [*_corrected(apart, part, "level"), together]
            overall.append(together)
        _corrected(overall, block, "regime")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    counts = ("sae_chosen", "not_converged", "wins", "losses")
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _corrected(rows: list[dict], cells: pd.DataFrame, look: str) -> list[dict]:
    """Fills in what depends on all the rows together, one row per value of the column `look`."""
    places = {row[look]: place for place, row in enumerate(rows)}
    paired = cells[cells["delta"].notna() & cells[look].isin(places)]
    values = paired["delta"].to_numpy(dtype=float)
    looks = paired[look].map(places).to_numpy(dtype=int)
    bands = {
        "band": simultaneous_bands(values, paired["task"].to_numpy(dtype=str), looks),
        "family_band": simultaneous_bands(values, paired["task_family"].to_numpy(dtype=str), looks),
    }
    p_values = holm(np.array([row["p_value"] for row in rows], dtype=float))
    for place, row in enumerate(rows):
        for name, band in bands.items():
            inside = place < len(band.low)  # the last looks may have no cell
            row[f"{name}_low"] = band.low[place] if inside else np.nan
            row[f"{name}_high"] = band.high[place] if inside else np.nan
        row["p_holm"] = p_values[place]
    return rows


def _by(table: pd.DataFrame, columns: list[str]) -> Iterable[tuple[tuple, pd.DataFrame]]:
    return ((key, part) for key, part in table.groupby(columns, sort=False, dropna=False))


def _matching(table: pd.DataFrame, group: dict) -> pd.DataFrame:
    same = np.ones(len(table), dtype=bool)
    for name, value in group.items():
        same &= (table[name].isna() if pd.isna(value) else table[name] == value).to_numpy(bool)
    return table[same]


def _row(part: pd.DataFrame, fits: pd.DataFrame, level: float, rule: str) -> dict:
    paired = part[part["delta"].notna()]
    values, tasks = paired["delta"].to_numpy(dtype=float), paired["task"].to_numpy(dtype=str)
    families = paired["task_family"].to_numpy(dtype=str)
    means = intervals.task_means(values, tasks)
    won = intervals.win_rate(means, margin=MARGIN)
    return {
        "level": level,
        "group": "" if np.isnan(level) else levels.group_of(part),
        "tie_rule": rule,
        "cells": len(paired),
        "tied": int(paired["tied"].sum()),
        "baseline": paired["baseline"].mean(),
        "with_sae": paired["with_sae"].mean(),
        **intervals.of_mean(values, tasks, families),
        "sae_chosen": pd.NA if rule == "neutral" else int(paired["sae_chosen"].sum()),
        "p_value": intervals.permutation_test(means),
        "p_sign": intervals.sign_test(means) if len(means) else np.nan,
        "wins": won.wins,
        "losses": won.losses,
        "win_rate": won.rate,
        "win_low": won.low,
        "win_high": won.high,
        "smallest_effect": intervals.smallest_effect(values, tasks),
        "tasks": paired["task"].nunique(),
        "families": paired["task_family"].nunique(),
        "unpaired": len(part) - len(paired),
        "incomplete": int(paired["incomplete"].sum()),
        "not_converged": int(fits["bad"].sum()) if fits["known"].sum() else pd.NA,
    }

"""Do newer SAE architectures probe better? The study's section on architectural progress.

Standard conditions only. Every architecture stands with one of its SAEs: the one whose mean
validation AUC is best (the study chose on test AUC, so that choice is shown beside). Only cells
that every SAE of a method has are looked at.
"""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from probejax.analysis import intervals
from probejax.analysis.facts import plain_sae_probe
from probejax.analysis.group import Group
from probejax.analysis.labels import architecture_name
from probejax.analysis.quiver import MARGIN

_YEAR = 365.25  # days
_REFERENCE = "logreg"
_ALL = "mean of all"


class Study(NamedTuple):
    """What one method's probes say about architectures, in one group.

    Attributes:
      group: what is compared, in words.
      method: the SAE probe, such as `sae_k16`.
      tasks: number of tasks.
      cells: number of cells (task and seed).
      against: what `delta` is measured from: logreg, or the mean of all architectures' chosen SAEs
        where there is no logreg.
      saes: one row per SAE, by architecture and L0: `architecture, released` (empty: unknown),
        `sae_id, l0, val_auc, test_auc`, `chosen` on validation, `best_on_test`, and `delta` with
        its intervals (see `intervals.of_mean`).
      wins: share of tasks, architectures as rows and columns, on which the row's chosen SAE is
        ahead of the column's by more than the margin.
      slope: change of test AUC per year of release date at the chosen SAEs, with its interval from
        draws of tasks; NaN with fewer than two dates.
      family_slope: the same from draws of families.
      dated: architectures with a date.
    """

    group: str
    method: str
    tasks: int
    cells: int
    against: str
    saes: pd.DataFrame
    wins: pd.DataFrame
    slope: intervals.Interval
    family_slope: intervals.Interval
    dated: int

    @property
    def chosen(self) -> pd.DataFrame:
        """The row of each architecture's chosen SAE."""
        return self.saes[self.saes["chosen"]].reset_index(drop=True)

    @property
    def with_l0(self) -> pd.Series:
        """Which SAEs have a known L0, to stand on a logarithmic axis."""
        return self.saes["l0"].between(0, np.inf, inclusive="neither")

    @property
    def by_test(self) -> pd.DataFrame:
        """The row of each architecture's best SAE on test AUC, in the order of `chosen`."""
        best = self.saes[self.saes["best_on_test"]].set_index("architecture", drop=False)
        return best.loc[self.chosen["architecture"]].reset_index(drop=True)


def studies(found: Sequence[Group]) -> list[Study]:
    """Returns a study for every group and method that has two architectures or more."""
    made = []
    for group in found:
        arrows = group.table.arrows
        usable = plain_sae_probe(arrows) & (arrows["sae_architecture"] != "").to_numpy(bool)
        for _, part in arrows[usable].groupby("k", sort=True):
            study = _study(group, _described(part))
            if study is not None:
                made.append(study)
    return made


def _described(arrows: pd.DataFrame) -> pd.DataFrame:
    """Returns the SAEs in reading order, with the column of each in the grid."""
    facts = {"sae_architecture": "architecture", "sae_released": "released", "sae_l0": "l0"}
    table = arrows.reset_index(names="place").rename(columns=facts)
    table["date"] = table["released"].where(table["released"] != "", "9999")
    table = table.sort_values(["date", "architecture", "l0"], kind="stable", ignore_index=True)
    return table[["architecture", "released", "sae_id", "l0", "method", "place"]]


def _study(group: Group, saes: pd.DataFrame) -> Study | None:
    here = group.table.in_regime("standard")
    val, test = (group.table.values[name][here] for name in ("val_auc", "test_auc"))
    places = saes["place"].to_numpy(int)
    whole = np.isfinite(val[:, places] + test[:, places]).all(axis=1)
    if saes["architecture"].nunique() < 2 or not whole.any():
        return None
    tasks, families = (each[whole] for each in group.table.tasks(here))
    val, test = val[whole], test[whole]
    saes = saes.assign(val_auc=val[:, places].mean(axis=0), test_auc=test[:, places].mean(axis=0))
    for flag, metric in (("chosen", "val_auc"), ("best_on_test", "test_auc")):
        best = saes.groupby("architecture")[metric].idxmax()  # the smaller L0 of equals
        saes = saes.assign(**{flag: saes.index.isin(best)})
    at = test[:, saes.loc[saes["chosen"], "place"].to_numpy(int)]  # [cells, architectures]
    against, reference = _ALL, at.mean(axis=1)
    arrows = group.table.arrows
    for place in arrows.index[arrows["method"] == _REFERENCE]:
        if np.isfinite(test[:, place]).all():
            against, reference = _REFERENCE, test[:, place]
    found = [intervals.of_mean(test[:, place] - reference, tasks, families) for place in places]
    saes = pd.concat([saes, pd.DataFrame(found, index=saes.index)], axis=1)
    names = saes.loc[saes["chosen"], "architecture"].tolist()
    dates = saes.loc[saes["chosen"], "released"].tolist()
    return Study(
        group=group.name,
        method=str(saes["method"].iloc[0]),
        tasks=len(set(tasks)),
        cells=len(tasks),
        against=against,
        saes=saes.drop(columns=["place", "method"]),
        wins=pd.DataFrame(_wins(at, tasks), index=pd.Index(names), columns=pd.Index(names)),
        slope=slope(at, dates, tasks),
        family_slope=slope(at, dates, families),
        dated=sum(map(bool, dates)),
    )


def _wins(auc: Float[np.ndarray, "cells A"], tasks: np.ndarray) -> Float[np.ndarray, "A A"]:
    """Returns how often the row is ahead of the column; NaN on the diagonal."""
    rates = np.full((auc.shape[1], auc.shape[1]), np.nan)
    for i, j in np.argwhere(~np.eye(len(rates), dtype=bool)):
        delta = intervals.task_means(auc[:, i] - auc[:, j], tasks)
        rates[i, j] = intervals.win_rate(delta, margin=MARGIN).rate
    return rates


def slope(
    auc: Float[np.ndarray, "cells A"], dates: Sequence[str], tasks: np.ndarray
) -> intervals.Interval:
    """Returns the least-squares slope of AUC on date, per year, with its interval over tasks.

    Every cell has a slope of its own over the architectures; their mean is the slope of the mean
    AUCs. Tasks are drawn, architectures are not: the interval is about other tasks.

    Args:
      auc: of each architecture.
      dates: ISO date of each, empty where unknown; those are left out.
      tasks: the task of each cell.
    """
    days = [datetime.date.fromisoformat(date).toordinal() if date else np.nan for date in dates]
    known = np.isfinite(days)
    if len(set(np.array(days)[known])) < 2:
        return intervals.Interval(np.nan, np.nan, np.nan)
    years = np.array(days)[known] / _YEAR
    years = years - years.mean()
    return intervals.paired_bootstrap(auc[:, known] @ years / np.sum(years**2), tasks)


def tables(found: Sequence[Study]) -> dict[str, pd.DataFrame]:
    """Returns the tables to be saved, by the names of their files.

    `architectures`: every SAE and method. `architecture_wins`: every ordered pair of architectures.
    `architecture_slopes`: every method; empty where dates are unknown.
    """
    if not found:
        return {}
    names = [{"group": study.group, "method": study.method} for study in found]
    saes = [study.saes.assign(**name) for study, name in zip(found, names, strict=True)]
    wins, slopes = [], []
    for study, name in zip(found, names, strict=True):
        for row in study.wins.index:
            for column in study.wins.columns.drop(row):
                rate = study.wins.loc[row, column]
                pair = {"architecture": row, "other": column, "tasks": study.tasks, "rate": rate}
                wins.append({**name, **pair})
        size = {"tasks": study.tasks, "cells": study.cells, "dated": study.dated}
        apart = {"family_low": study.family_slope.low, "family_high": study.family_slope.high}
        slopes.append({**name, **size, **study.slope._asdict(), **apart})
    joined = pd.concat(saes, ignore_index=True)
    first = ["group", "method"]
    joined = joined[[*first, *joined.columns.drop(first)]]
    against = [study.against for study in found for _ in range(len(study.saes))]
    renamed = {"mean": "slope_per_year", "low": "ci_low", "high": "ci_high"}
    return {
        "architectures": joined.assign(against=against),
        "architecture_wins": pd.DataFrame(wins),
        "architecture_slopes": pd.DataFrame(slopes).rename(columns=renamed),
    }


def slope_text(study: Study) -> str:
    """Returns what can be said of progress over time, in a sentence."""
    if not study.dated:
        return "No SAE here has a release date, so there is no slope."
    if np.isnan(study.slope.mean):
        return "Fewer than two release dates, so there is no slope."
    mean, low, high = study.slope
    text = f"{mean:+.4f} per year of release date"
    if np.isfinite(low):
        text += f" [95 % over tasks: {low:+.4f}, {high:+.4f}]"
    return f"Test AUC changes by {text}, {study.dated} architectures."


_LINE = "{:<12} {:<11} {:<24}  {:<26} {:>4} {:>7}"


def summary(found: Sequence[Study]) -> str:
    """Returns the studies as text of at most 100 columns."""
    lines = []
    for study in found:
        title = f"SAE architectures, {study.method}, standard conditions, {study.tasks} tasks"
        lines += [f"{title} ({study.group})", ""]
        difference = f"minus {study.against} [95 %]"
        lines.append(_LINE.format("", "", "chosen on validation AUC", "", "", "by test"))
        header = _LINE.format(
            *("architecture", "released", "    L0  val AUC test AUC", difference, "L0", "AUC")
        )
        lines += [header, "-" * len(header)]
        for (_, row), (_, test) in zip(
            study.chosen.iterrows(), study.by_test.iterrows(), strict=True
        ):
            interval = f"{row['delta']:+.4f}"
            if np.isfinite(row["ci_low"]):
                interval += f" [{row['ci_low']:+.4f},{row['ci_high']:+.4f}]"
            lines.append(
                _LINE.format(
                    architecture_name(row["architecture"]),
                    row["released"] or "no date",
                    f"{row['l0']:>6.0f} {row['val_auc']:>8.4f} {row['test_auc']:>8.4f}",
                    interval,
                    f"{test['l0']:.0f}",
                    f"{test['test_auc']:.4f}",
                )
            )
        lines += ["", slope_text(study), "", *_matrix(study), ""]
    return "\n".join(lines).rstrip()


def _matrix(study: Study) -> list[str]:
    names = [architecture_name(name) for name in study.wins.columns]
    lines = [f"Share of tasks on which the row is ahead by more than {MARGIN:g}:"]
    lines.append(" " * 12 + "".join(f"{name[:10]:>11}" for name in names))
    for name, row in zip(names, study.wins.to_numpy(), strict=True):
        cells = "".join(f"{'' if np.isnan(rate) else f'{rate:.0%}':>11}" for rate in row)
        lines.append(f"{name:<12}{cells}")
    return lines

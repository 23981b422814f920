"""Figures across regimes and tasks, in the forms of the study."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probejax.analysis.drawing import (
    BLUE,
    CYCLE,
    GREY,
    ORANGE,
    SOFT,
    Picture,
    canvas,
    legend,
)
from probejax.analysis.grid import CELL, GROUP
from probejax.analysis.group import Group
from probejax.analysis.intervals import paired_bootstrap
from probejax.analysis.labels import Value, number, tasks_in_order, title
from probejax.analysis.levels import BY_GROUP
from probejax.analysis.multi_token import METHOD, PANELS
from probejax.analysis.regime_figures import level_axis


def regimes(group: Group) -> Picture | None:
    """Returns logreg beside both quivers per regime, with intervals over tasks (figure 1)."""
    shown = [regime for regime in group.compared_regimes if group.row(regime) is not None]
    if not shown:
        return None
    picture = canvas("Mean test AUC per regime of logreg, the best of the baselines and the best "
                     "with SAEs")  # fmt: skip
    (axes,) = picture.axes
    arrows = group.table.arrows
    logreg = arrows.index[(arrows["family"] == "logreg") & ~arrows["is_control"]]
    series = [
        ("best of the baselines", "baseline", "#6db3e0"),
        ("best with SAEs", "with_sae", BLUE),
    ]
    heights: list[float] = []
    for i, regime in enumerate(shown):
        cells, here = group.compared(regime), group.table.in_regime(regime)
        values = {name: (cells[column].to_numpy(float), cells["task"].to_numpy(str), colour)
                  for name, column, colour in series}  # fmt: skip
        if len(logreg):
            auc = group.table.values["test_auc"][here, logreg[0]]
            own = group.table.cells[here].assign(auc=auc).set_index(CELL)["auc"]
            auc = own.reindex(pd.MultiIndex.from_frame(cells[CELL])).to_numpy(float)
            values = {"logreg": (auc, cells["task"].to_numpy(str), GREY)} | values
        for j, (name, (auc, tasks, colour)) in enumerate(values.items(), 3 - len(values)):
            known = np.isfinite(auc)
            if not known.any():
                continue
            mean, low, high = paired_bootstrap(auc[known], tasks[known])
            heights.append(mean)
            # Of values that are all alike the ends may round to the wrong side of the mean.
            ends = [[max(mean - low, 0)], [max(high - mean, 0)]] if np.isfinite(low) else None
            (bar,) = axes.bar(i + 0.27 * (j - 1), mean, 0.25, yerr=ends, color=colour,
                              label=None if i else name, error_kw={"ecolor": SOFT})  # fmt: skip
            picture.tell(bar, [f"{title(regime)}\n{name}: {number(mean)}"])
    axes.set_xticks(range(len(shown)), [title(r).replace(" ", "\n", 1) for r in shown], fontsize=8)
    axes.set_ylim(min([0.5, *(0.9 * height for height in heights)]), 1.0)
    axes.set_ylabel("mean test AUC")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return picture


def win_rates(group: Group) -> Picture | None:
    """Returns the tasks beyond the margin, for and against SAEs (figure 11)."""
    rows = [(title(r), row) for r in group.compared_regimes if (row := group.row(r)) is not None]
    if not rows:
        return None
    picture = canvas("Share of tasks that gain or lose more than 0.005 AUC with SAE probes", 5.2,
                     0.9 + 0.4 * len(rows))  # fmt: skip
    (axes,) = picture.axes
    for i, (_, row) in enumerate(rows):
        for sign, count in ((-1, row["losses"]), (1, row["wins"])):
            _win(axes, i, sign, 100 * count / row["tasks"], 1 + 100 * count / row["tasks"], count)
    _shares(axes, [name for name, _ in rows], "% of tasks worse | better by over 0.005 with SAEs")
    return picture


def _win(axes: Axes, place: int, sign: int, share: Value, end: Value, count: Value) -> None:
    axes.barh(place, sign * share, 0.6, color=BLUE if sign > 0 else ORANGE)
    side = "left" if sign > 0 else "right"
    axes.text(sign * end, place, str(count), ha=side, va="center")


def _shares(axes: Axes, names: list[str], text: str) -> None:
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-115, 115)
    axes.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
    axes.set_xlabel(text)


def curves(group: Group) -> Picture | None:
    """Returns AUC against the level: the mean, and the three tasks that change most (figure 5)."""
    shown = [
        regime
        for regime in group.compared_regimes
        if len(group.levels(regime)) > 1 and regime != BY_GROUP  # whose levels have no order
    ]
    if not shown:
        return None
    picture = canvas("Test AUC of both quivers against the level, of all tasks and of the three "
                     "that change most", 3.5 * len(shown), 3.6, len(shown))  # fmt: skip
    for axes, regime in zip(picture.axes, shown, strict=True):
        cells = group.compared(regime)
        delta = cells.groupby("task")["delta"].mean().abs().sort_values(ascending=False)
        for i, task in enumerate([None, *delta.index[:3]]):
            part = cells if task is None else cells[cells["task"] == task]
            means = part.groupby("level")[["baseline", "with_sae"]].mean()
            style = {"color": CYCLE[i], "linewidth": 2 if task is None else 1}
            axes.plot(means.index, means["baseline"], label=task or "all tasks", **style)
            axes.plot(means.index, means["with_sae"], "--", **style)
        level_axis(axes, regime, cells["level"].dropna().to_numpy(float))
        axes.set_title(title(regime))
        legend(axes, 1)
    picture.axes[0].set_ylabel("test AUC (dashed: with SAEs)")
    return picture


def shifted_tasks(group: Group) -> Picture | None:
    """Returns covariate shift task by task (figure 7)."""
    cells = group.compared("covariate_shift")
    if cells.empty:
        return None
    means = cells.groupby("task")[["baseline", "with_sae"]].mean()
    means = means.loc[tasks_in_order(means.index)]
    means.loc["mean"] = means.mean()
    picture = canvas("Test AUC of each task on shifted rows, without and with SAEs",
                     max(5.2, 1.6 + 0.6 * len(means)), 4.0)  # fmt: skip
    (axes,) = picture.axes
    names = group.head_to_head.get("covariate_shift", ("best of the baselines", "best with SAEs"))
    for side, column, colour, name in ((-0.2, "baseline", GREY, names[0]),
                                       (0.2, "with_sae", BLUE, names[1])):  # fmt: skip
        bars = axes.bar(np.arange(len(means)) + side, means[column], 0.38, color=colour, label=name)
        for bar, (task, auc) in zip(bars, means[column].items(), strict=True):
            picture.tell(bar, [f"{task}\n{name}: {number(auc)}"])
    axes.set_xticks(range(len(means)), means.index.tolist(), rotation=40, ha="right", fontsize=8)
    axes.axhline(0.5, color=SOFT, linewidth=0.8)
    axes.set_ylabel("test AUC on shifted rows")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.13))
    return picture


def token_panels(rows: pd.DataFrame) -> dict[str, Picture]:
    """Returns the panels of `multi_token` per regime, in the form of the study's figure 11."""
    if rows.empty:
        return {}
    rows = rows[(rows["panel"] != METHOD) & (rows["tasks"] > 0)]
    alone = len(rows[GROUP].drop_duplicates()) < 2
    found = {}
    for (protocol, model, site, regime), part in rows.groupby([*GROUP, "regime"], sort=False):
        name = "multi_token" if regime == "standard" else f"multi_token_{regime}"
        if name in found:
            name = f"{name}_{model}_{site}_{protocol}"
        where = "" if alone else f": {model}, {site}, {protocol} protocol"
        found[name] = _panels(part, where)
    return found


def _panels(rows: pd.DataFrame, where: str) -> Picture:
    several = rows["sae_id"].nunique() * rows["k"].nunique() > 1
    picture = canvas(f"Share of tasks that either side wins, with probes on all tokens{where}", 7.0,
                     1.2 + 0.55 * len(rows))  # fmt: skip
    (axes,) = picture.axes
    for i, row in enumerate(rows.to_dict("records")):
        for sign, side in ((-1, "loss"), (1, "win")):
            rate, low, high = (100 * row[f"{side}_{what}"] for what in ("rate", "low", "high"))
            _win(axes, i, sign, rate, high + 2, row["wins" if sign > 0 else "losses"])
            axes.plot([sign * low, sign * high], [i, i], color=SOFT, linewidth=1)
    names = [_panel_name(row, several) for row in rows.to_dict("records")]
    _shares(axes, names, f"% of {rows['tasks'].max()} tasks: baseline ahead | SAE probe ahead")
    return picture


def _panel_name(row: Mapping, several: bool) -> str:
    return PANELS[row["panel"]] + (f"\n{row['sae_id']}, k {row['k']}" if several else "")

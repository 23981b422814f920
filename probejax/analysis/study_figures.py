"""The study's types of figure, of one protocol, model and site; those that the results allow.

`figures.py` draws the change against the level (its figure 6) and the scatter of tasks (figure 4).
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probejax.analysis.architectures import Study
from probejax.analysis.facts import plain_sae_probe
from probejax.analysis.group import Group
from probejax.analysis.intervals import paired_bootstrap
from probejax.analysis.labels import (
    AXES,
    architecture_name,
    level_text,
    sae_names,
    tasks_in_order,
    title,
)
from probejax.sites import in_order

_BLUE, _LIGHT, _ORANGE, _GREY = "#0072B2", "#56B4E9", "#D55E00", "#666666"
_CYCLE = (_BLUE, _ORANGE, "#009E73", "#CC79A7", "#E69F00", _LIGHT, "#F0E442", _GREY)


Drawing = Callable[[], Figure | None]  # None where the results have nothing for it


def study_figures(group: Group) -> dict[str, Drawing]:
    """Returns what draws each type of figure, by name."""
    if not group.compared_regimes:
        return {}
    types: dict[str, Callable[[Group], Figure | None]] = {
        "regimes": _bars,
        "win_rates": _win_rates,
        "curves": _curves,
        "auc_against_k": _against_k,
        "auc_against_l0": _against_l0,
        "auc_against_width": _against_width,
        "l0_by_width": _l0_by_width,
        "difference_by_sae": _boxes,
        "covariate_shift_tasks": _task_bars,
    }
    found: dict[str, Drawing] = {name: partial(draw, group) for name, draw in types.items()}
    for regime in group.compared_regimes:
        if len(group.levels(regime)) > 1:
            found[f"tasks_{regime}"] = partial(_heat, group, regime)
            found[f"chosen_{regime}"] = partial(_chosen, group, regime)
    return found


def layer_figure(results: pd.DataFrame) -> Figure | None:
    """Returns the baselines by layer (the study's figure 13), None with a single layer."""
    rows = results[(results["regime"] == "standard") & (results["sae_id"] == "")]
    rows = rows[rows["test_auc"].notna()]
    if rows["site"].nunique() < 2:
        return None
    rows = rows[rows["model"] == rows["model"].iloc[0]]
    means = rows.pivot_table(index="site", columns="method", values="test_auc")
    order = in_order(means.index)
    best = rows.loc[rows.groupby(["site", "task", "seed", "protocol"])["test_auc"].idxmax()]
    counts = best.groupby(["site", "method"]).size().unstack(fill_value=0).loc[order]
    figure, (left, right) = _figure(9.0, 3.8, 2)
    for i, method in enumerate(means.columns):
        left.plot(order, means.loc[order, method], "o-", color=_colour(i), label=method)
    bottom = np.zeros(len(order))
    for method in counts.columns:
        colour = _colour(list(means.columns).index(method))
        right.bar(order, counts[method], bottom=bottom, color=colour, label=method)
        bottom += counts[method].to_numpy()
    left.set(xlabel="site", ylabel="mean test AUC")
    right.set(xlabel="site", ylabel="tasks on which it is best")
    left.legend(fontsize=8)
    return figure


def architecture_figure(studies: Sequence[Study]) -> Figure:
    """Returns AUC against L0 per architecture, a panel per study; rings mark the chosen SAEs.

    Raises:
        ValueError: no L0 is known.
    """
    if not any(study.with_l0.any() for study in studies):
        raise ValueError("the L0 of no SAE is known")
    figure, many = _figure(1.5 + 3.6 * len(studies), 3.8, len(studies))
    for axes, study in zip(many, studies, strict=True):
        for i, (name, part) in enumerate(
            study.saes[study.with_l0].groupby("architecture", sort=False)
        ):
            axes.plot(
                part["l0"], part["test_auc"], "o-", color=_colour(i), markersize=4,
                label=architecture_name(str(name)),
            )  # fmt: skip
        chosen = study.saes[study.with_l0 & study.saes["chosen"]]
        axes.scatter(chosen["l0"], chosen["test_auc"], s=70, facecolors="none", edgecolors=_GREY)
        axes.set(xlabel="L0 of the SAE", title=f"{study.method}, {study.tasks} tasks")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    many[0].set_ylabel("mean test AUC (ring: best validation AUC)")
    many[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _colour(place: int) -> str:
    return _CYCLE[place % len(_CYCLE)]


def _bars(group: Group) -> Figure | None:
    """Figure 1: logreg beside both quivers, per regime, with intervals over tasks."""
    regimes = [regime for regime in group.compared_regimes if group.row(regime) is not None]
    if not regimes:
        return None
    figure, (axes,) = _figure(7.0, 3.8)
    logreg = group.table.arrows.index[group.table.arrows["label"] == "logreg"]
    for j, (name, colour) in enumerate(
        (("logreg", _GREY), ("best of the baselines", _LIGHT), ("best with SAEs", _BLUE))
    ):
        for i, regime in enumerate(regimes):
            if name == "logreg" and len(logreg):
                here = group.table.in_regime(regime)
                values = group.table.values["test_auc"][here, logreg[0]]
                tasks = group.table.cells["task"].to_numpy(dtype=str)[here]
            elif name != "logreg":
                cells = group.compared(regime)
                column = "baseline" if j == 1 else "with_sae"
                values = cells[column].to_numpy(dtype=float)
                tasks = cells["task"].to_numpy(dtype=str)
            else:
                continue
            known = np.isfinite(values)
            mean, low, high = paired_bootstrap(values[known], tasks[known])
            # Of values that are all alike the ends may round to the wrong side of the mean.
            ends = [[max(mean - low, 0)], [max(high - mean, 0)]] if np.isfinite(low) else None
            label = name if i == 0 else None
            axes.bar(i + 0.27 * (j - 1), mean, 0.25, yerr=ends, color=colour, label=label)
    axes.set_xticks(range(len(regimes)), [title(r).replace(" ", "\n", 1) for r in regimes])
    axes.set_ylim(0.5, 1.0)
    axes.set_ylabel("mean test AUC")
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    return figure


def _win_rates(group: Group) -> Figure | None:
    """Figure 11: tasks beyond the margin, for and against SAEs."""
    rows = [(title(r), row) for r in group.compared_regimes if (row := group.row(r)) is not None]
    if not rows:
        return None
    figure, (axes,) = _figure(6.0, 3.2)
    for i, (_, row) in enumerate(rows):
        for sign, count, colour in ((-1, row["losses"], _ORANGE), (1, row["wins"], _BLUE)):
            axes.barh(i, sign * 100 * count / row["tasks"], color=colour)
            side = "left" if sign > 0 else "right"
            axes.text(sign * (100 * count / row["tasks"] + 1), i, str(count), ha=side, va="center")
    axes.axvline(0, color=_GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(-110, 110)
    axes.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
    axes.set_xlabel("% of tasks worse | better by over 0.005 with SAEs")
    return figure


def _curves(group: Group) -> Figure | None:
    """Figure 5: AUC against the level, mean and the three tasks that change most."""
    regimes = [regime for regime in group.compared_regimes if len(group.levels(regime)) > 1]
    if not regimes:
        return None
    figure, many = _figure(3.6 * len(regimes), 3.4, len(regimes))
    for axes, regime in zip(many, regimes, strict=True):
        cells = group.compared(regime)
        change = cells.groupby("task")["delta"].mean().abs().sort_values(ascending=False)
        for i, task in enumerate([None, *change.index[:3]]):
            part = cells if task is None else cells[cells["task"] == task]
            means = part.groupby("level")[["baseline", "with_sae"]].mean()
            style = {"color": _colour(i), "linewidth": 2 if task is None else 1}
            axes.plot(means.index, means["baseline"], label=task or "all tasks", **style)
            axes.plot(means.index, means["with_sae"], "--", **style)
        _level_axis(axes, regime)
        axes.legend(fontsize=7)
    many[0].set_ylabel("test AUC (dashed: with SAEs)")
    return figure


def _level_axis(axes: Axes, regime: str) -> None:
    axes.set_xlabel(AXES.get(regime, "level"))
    axes.set_title(title(regime))
    if regime == "scarcity":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _sae_means(group: Group, regime: str = "standard") -> pd.DataFrame:
    auc = group.table.values["test_auc"][group.table.in_regime(regime)]
    arrows = group.table.arrows
    known = np.any(np.isfinite(auc), axis=0) & plain_sae_probe(arrows)
    rows = arrows[known].assign(auc=np.nanmean(auc[:, known], axis=0))
    return rows.rename(columns={"sae_l0": "l0", "sae_width": "width"})


def _lines(rows: pd.DataFrame, x: str, by: list[str], names: str, axis: str) -> Figure | None:
    rows = rows[rows[x].astype(float).between(0, np.inf, inclusive="neither")]
    if rows.empty or rows.groupby(by)[x].nunique().max() < 2:
        return None
    figure, (axes,) = _figure(5.6, 4.0)
    for i, (_, part) in enumerate(rows.groupby(by, sort=True)):
        part = part.sort_values(x)
        axes.plot(
            part[x].astype(float), part["auc"], "o-", color=_colour(i), markersize=4,
            label=part[names].iloc[0],
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted(rows[x].astype(float).unique())
    axes.set_xticks(ticks[:: max(1, len(ticks) // 8)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set(xlabel=axis, ylabel="mean test AUC")
    if rows.groupby(by).ngroups <= 12:
        axes.legend(fontsize=8)
    return figure


def _against_k(group: Group) -> Figure | None:
    """Figures 3 and 15: AUC against the number of latents."""
    rows = _sae_means(group)
    rows = rows.assign(name=rows["sae_id"].map(sae_names(group.table.arrows)))
    return _lines(rows, "k", ["sae_id"], "name", "latents of the probe (k)")


def _against_l0(group: Group) -> Figure | None:
    """Figure 21: AUC against the L0 of the SAE."""
    rows = _sae_means(group)
    names = [f"{m}, width {w:,.0f}" for m, w in zip(rows["method"], rows["width"], strict=True)]
    return _lines(rows.assign(name=names), "l0", ["width", "method"], "name", "L0 of the SAE")


def _against_width(group: Group) -> Figure | None:
    """Figure 14b: AUC against the width of the SAE, the mean over its L0s."""
    rows = _sae_means(group).groupby(["method", "width"])[["auc"]].mean().reset_index()
    return _lines(rows, "width", ["method"], "method", "latents of the SAE")


def _l0_by_width(group: Group) -> Figure | None:
    """Figure 14a: mean AUC over k, L0 against width."""
    rows = _sae_means(group)
    rows = rows[np.isfinite(rows["l0"]) & np.isfinite(rows["width"])]
    if rows["width"].nunique() < 2 or rows.groupby("width")["l0"].nunique().max() < 2:
        return None
    table = rows.pivot_table(index="l0", columns="width", values="auc")
    figure, (axes,) = _figure(5.4, 4.4)
    image = axes.imshow(table.to_numpy(), cmap="viridis", aspect="auto", origin="lower")
    axes.set_xticks(range(len(table.columns)), [f"{width:,.0f}" for width in table.columns])
    axes.set_yticks(range(len(table.index)), [f"{l0:g}" for l0 in table.index])
    axes.set(xlabel="latents of the SAE", ylabel="L0")
    figure.colorbar(image, label="mean test AUC")
    return figure


def _boxes(group: Group) -> Figure | None:
    """Figure 12: each SAE probe minus logreg, over tasks under standard conditions."""
    arrows = group.table.arrows
    logreg = arrows.index[arrows["label"] == "logreg"]
    auc = group.table.values["test_auc"][group.table.in_regime("standard")]
    saes = arrows.index[arrows["is_sae"] & ~arrows["is_control"]]
    if not len(logreg) or not len(saes) or not auc.size:
        return None
    deltas = {arrows.loc[i, "label"]: auc[:, i] - auc[:, logreg[0]] for i in saes}
    deltas = {label: values[np.isfinite(values)] for label, values in deltas.items()}
    deltas = {str(label): values for label, values in deltas.items() if len(values)}
    if not deltas:
        return None
    figure, (axes,) = _figure(2.0 + 0.42 * len(deltas), 4.4)
    axes.boxplot(list(deltas.values()), showfliers=False, medianprops={"color": _ORANGE})
    axes.set_xticks(range(1, len(deltas) + 1), list(deltas), rotation=60, ha="right", fontsize=8)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_ylabel("test AUC minus logreg's, over tasks")
    return figure


def _task_bars(group: Group) -> Figure | None:
    """Figure 7: covariate shift task by task."""
    cells = group.compared("covariate_shift")
    if cells.empty:
        return None
    means = cells.groupby("task")[["baseline", "with_sae"]].mean()
    means = means.loc[tasks_in_order(means.index)]
    means.loc["mean"] = means.mean()
    figure, (axes,) = _figure(1.6 + 0.75 * len(means), 4.2)
    names = group.head_to_head.get("covariate_shift", ("best of the baselines", "best with SAEs"))
    places = np.arange(len(means))
    axes.bar(places - 0.2, means["baseline"], 0.38, color=_GREY, label=names[0])
    axes.bar(places + 0.2, means["with_sae"], 0.38, color=_BLUE, label=names[1])
    axes.set_xticks(places, means.index, rotation=40, ha="right", fontsize=8)
    axes.axhline(0.5, color=_GREY, linewidth=0.8)
    axes.set_ylabel("test AUC on shifted rows")
    axes.legend(fontsize=8)
    return figure


def _heat(group: Group, regime: str) -> Figure:
    """Figure 16: the change of AUC of every task at every level."""
    table = group.compared(regime).pivot_table(index="task", columns="level", values="delta")
    table = table.loc[tasks_in_order(table.index)]
    figure, (axes,) = _figure(6.4, 1.6 + 0.11 * len(table))
    image = axes.imshow(table.to_numpy(), cmap="RdBu", vmin=-0.15, vmax=0.15, aspect="auto")
    levels = [level_text(regime, level) for level in table.columns]
    axes.set_xticks(range(len(levels)), levels, rotation=60, fontsize=7)
    axes.set_yticks(range(len(table)), table.index, fontsize=5 if len(table) > 30 else 8)
    axes.set_xlabel(AXES.get(regime, "level"))
    axes.set_title(title(regime))
    figure.colorbar(image, label="change of test AUC with SAEs", shrink=0.4)
    return figure


def _chosen(group: Group, regime: str) -> Figure:
    """Figure 17: how often the quiver with SAEs chose an SAE."""
    cells = group.compared(regime)
    share = cells.groupby("level")["sae_chosen"].mean()
    figure, (axes,) = _figure(6.0, 3.4)
    places = np.arange(len(share))
    axes.bar(places, share, color=_BLUE, label="SAE probe")
    axes.bar(places, 1 - share, bottom=share, color="#C9CDD2", label="baseline")
    axes.set_xticks(places, [level_text(regime, x) for x in share.index], rotation=60, fontsize=7)
    axes.set(xlabel=AXES.get(regime, "level"), ylabel="share of cells", title=title(regime))
    axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure

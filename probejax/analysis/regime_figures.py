"""The figures of one regime: what adding SAE probes changes, task by task, and who was chosen."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from probejax.analysis.drawing import (
    BASELINES,
    BLUE,
    ENDS,
    GREY,
    ORANGE,
    SAES,
    SHADES,
    SOFT,
    Picture,
    canvas,
    legend,
)
from probejax.analysis.grid import Grid
from probejax.analysis.group import Group
from probejax.analysis.labels import (
    AXES,
    interval,
    level_text,
    number,
    one_name,
    percent,
    signed,
    tasks_in_order,
    title,
)
from probejax.analysis.levels import BY_GROUP
from probejax.analysis.verdict import NEUTRAL

_MANY = 5  # more SAE arrows than this are shown by their k
_SAME = 1e-12  # the same choice gives the same number; rounding of means over seeds is no change


def change(group: Group, regime: str) -> Picture | None:
    """Returns the change of AUC against the level, or of each task where there are no levels."""
    return _levels(group, regime) if len(group.levels(regime)) else _tasks(group, regime)


def _levels(group: Group, regime: str) -> Picture:
    rows, neutral = group.levels(regime), group.levels(regime, NEUTRAL)
    axis = AXES.get(regime, "level")
    picture = canvas(f"{title(regime)}: change of test AUC with SAE probes against {axis}")
    (axes,) = picture.axes
    axes.axhline(0, color=SOFT, linewidth=0.8)
    names, x = group.level_names(regime), rows["level"]
    draw = _bars if regime == BY_GROUP else _bands
    line = draw(axes, rows, neutral)
    picture.tell(line, [
        f"{axis}: {names[row['level']]}\n"
        f"change {signed(row['delta'])} ({interval(row['ci_low'], row['ci_high'])})\n"
        f"{number(row['baseline'])} \N{RIGHTWARDS ARROW} {number(row['with_sae'])}, "
        f"{row['cells']} cells, {row['tied']} tied"
        for _, row in rows.iterrows()
    ])  # fmt: skip
    if regime == BY_GROUP:
        axes.set_xticks(x, [_short(names[level]) for level in x])
        axes.set_xlabel(axis)
    else:
        level_axis(axes, regime, x.to_numpy(float))
    axes.set_ylabel("change of test AUC")
    axes.grid(True)
    legend(axes)
    return picture


def _bands(axes: Axes, rows: pd.DataFrame, neutral: pd.DataFrame) -> Line2D:
    """Draws the changes of rising levels as a line with its bands."""
    x = rows["level"]
    axes.fill_between(x, rows["band_low"], rows["band_high"], color=BLUE, alpha=0.11,
                      linewidth=0, label="95 %, all levels at once")  # fmt: skip
    axes.fill_between(x, rows["ci_low"], rows["ci_high"], color=BLUE, alpha=0.22,
                      linewidth=0, label="95 %, each level")  # fmt: skip
    (line,) = axes.plot(x, rows["delta"], "o-", color=BLUE, label="SAEs win ties")
    axes.plot(neutral["level"], neutral["delta"], "--", color=ORANGE, label="mean over ties")
    return line


def _bars(axes: Axes, rows: pd.DataFrame, neutral: pd.DataFrame) -> Line2D:
    """Draws the changes of levels that have no order as points with their bands."""
    x = rows["level"]
    axes.vlines(x, rows["band_low"], rows["band_high"], color=BLUE, alpha=0.3,
                label="95 %, all groups at once")  # fmt: skip
    axes.vlines(x, rows["ci_low"], rows["ci_high"], color=BLUE, alpha=0.5, linewidth=4,
                label="95 %, each group")  # fmt: skip
    (line,) = axes.plot(x, rows["delta"], "o", color=BLUE, label="SAEs win ties")
    axes.plot(neutral["level"], neutral["delta"], "x", color=ORANGE, label="mean over ties")
    return line


def level_axis(axes: Axes, regime: str, levels: np.ndarray) -> None:
    """Names and marks the levels of a regime on the horizontal axis."""
    axes.set_xlabel(AXES.get(regime, "level"))
    if regime == "scarcity":
        axes.set_xscale("log", base=2)
        powers = [2.0**i for i in range(1, 40) if levels.min() <= 2**i <= 1.5 * levels.max()]
        axes.xaxis.set_major_locator(FixedLocator(powers[:: 1 + len(powers) // 8]))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: level_text(regime, value))


def _tasks(group: Group, regime: str) -> Picture | None:
    cells = group.compared(regime)
    if cells.empty:
        return None
    by_task = cells.groupby("task")
    means = by_task[["baseline", "with_sae", "delta"]].mean()
    means = means.assign(chosen=by_task["sae_chosen"].sum(), cells=by_task.size())
    names = group.head_to_head.get(regime, ("best of the baselines", "best with SAEs"))
    picture = canvas(f"{title(regime)}: test AUC of each task without and with SAEs", 5.2, 5.0)
    (axes,) = picture.axes
    start = means[["baseline", "with_sae"]].to_numpy().min()
    margin = 0.03 * max(1 - start, 0.1)
    limits = (start - margin, 1 + margin)
    axes.plot(limits, limits, color=SOFT, linewidth=0.8)
    delta = means["delta"].where(means["delta"].abs() > _SAME, 0.0)
    for part, colour, word in (
        (delta == 0, GREY, "unchanged"),
        (delta < 0, ORANGE, "worse with SAEs"),
        (delta > 0, BLUE, "better with SAEs"),
    ):
        rows = means[part]
        marks = axes.scatter(
            rows["baseline"], rows["with_sae"], s=22, color=colour, alpha=0.7, linewidths=0,
            label=f"{word}: {part.sum()} of {len(part)}",
        )  # fmt: skip
        picture.tell(marks, [
            f"{task}\n{number(row['baseline'])} \N{RIGHTWARDS ARROW} {number(row['with_sae'])} "
            f"({signed(row['delta'])})"
            + ("" if regime in group.head_to_head
               else f"\nSAE chosen in {row['chosen']:g} of {row['cells']:g} cells")
            for task, row in rows.iterrows()
        ])  # fmt: skip
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel=f"test AUC, {names[0]}", ylabel=f"test AUC, {names[1]}")
    axes.legend(loc="upper left")
    return picture


def tasks_by_level(group: Group, regime: str) -> Picture | None:
    """Returns the change of AUC of every task at every level, tasks in the study's order."""
    cells = group.compared(regime)
    cells = cells[cells["level"].notna()]
    if cells["level"].nunique() < 2:
        return None
    spots = cells.groupby(["task", "level"])
    means = spots[["baseline", "with_sae", "delta"]].mean()
    means = means.join(spots[["baseline_label", "chosen_label"]].agg(one_name))
    names = group.level_names(regime)
    means["text"] = [
        f"{task}\n{names[level]}: {signed(delta, 3)}\n{before} {number(base, 3)} "
        f"\N{RIGHTWARDS ARROW} {after} {number(sae, 3)}"
        for (task, level), base, sae, delta, before, after in means.itertuples()
    ]
    order = tasks_in_order(means.index.unique("task"))
    table = means["delta"].unstack("level").loc[order]
    texts = means["text"].unstack("level").loc[order].fillna("")
    axis = AXES.get(regime, "level")
    label = f"{title(regime)}: change of test AUC of every task at every level"
    picture = canvas(label, 8.4, 1.3 + 0.115 * len(table))
    (axes,) = picture.axes
    mesh = axes.pcolormesh(table.to_numpy(float), cmap=SHADES[0], norm=SHADES[1],
                           edgecolors="none")  # fmt: skip
    picture.tell(mesh, texts.to_numpy().ravel().tolist())
    levels = [_short(names[level]) for level in table.columns]
    axes.set_xticks(np.arange(len(levels)) + 0.5, levels, fontsize=7)
    axes.set_yticks(np.arange(len(table)) + 0.5, [_short(task) for task in order], fontsize=6.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    bar = picture.figure.colorbar(mesh, ticks=[*(-end for end in ENDS[::-1]), *ENDS],
                                  location="top", aspect=50, shrink=0.8)  # fmt: skip
    bar.ax.set_xticklabels([signed(x, 3) for x in bar.get_ticks()], fontsize=7)
    bar.outline.set_visible(False)
    bar.set_label("change of test AUC with SAEs")
    return picture


def _short(task: str) -> str:
    return task if len(task) < 36 else f"{task[:34]}…"


def chosen(group: Group, regime: str) -> Picture | None:
    """Returns what the quiver with SAEs chose, in shares of the cells of each level."""
    cells = group.compared(regime)
    if cells.empty or regime in group.head_to_head:
        return None
    if group.levels(regime).empty:
        return _counts(group, regime, cells["chosen_label"].value_counts())
    cells = cells[cells["level"].notna()]
    kinds, colours = _categories(group.table)
    names = group.level_names(regime)
    shares = pd.crosstab(cells["level"], cells["chosen_label"].map(kinds), normalize="index")
    totals = cells.groupby("level").size().to_numpy()
    picture = canvas(f"{title(regime)}: share of cells in which each method was chosen")
    (axes,) = picture.axes
    places, base = np.arange(len(shares)), np.zeros(len(shares))
    for name in [name for name in colours if name in shares]:
        bars = axes.bar(places, shares[name], 0.88, base, color=colours[name], label=name)
        for bar, level, share, total in zip(bars, shares.index, shares[name], totals, strict=True):
            text = f"{round(share * total)} of {total} cells ({percent(share)})"
            picture.tell(bar, [f"{names[level]}: {name}\n{text}"])
        base += shares[name].to_numpy()
    levels = [_short(names[level]) for level in shares.index]
    step = 1 + len(levels) // 11
    axes.set_xticks(places[::step], levels[::step])
    axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    axes.set(xlabel=AXES.get(regime, "level"), ylabel="share of cells")
    legend(axes, 3)
    return picture


def _counts(group: Group, regime: str, counts: pd.Series) -> Picture:
    picture = canvas(f"{title(regime)}: how often each method was chosen", 5.2,
                     0.6 + 0.26 * max(len(counts), 3))  # fmt: skip
    (axes,) = picture.axes
    is_sae = dict(zip(group.table.arrows["label"], group.table.arrows["is_sae"], strict=True))
    for place, (name, count) in enumerate(counts.items()):
        (bar,) = axes.barh(place, count, 0.7, color=SAES[0] if is_sae[name] else BASELINES[0])
        picture.tell(bar, [f"{name}: {count} of {counts.sum()} cells"])
        axes.annotate(f" {count} ({percent(count / counts.sum())})", (count, place), va="center")
    axes.set_yticks(range(len(counts)), [str(name) for name in counts.index])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.25 * counts.max())
    axes.set_xlabel("cells (blue: SAE probes)")
    axes.invert_yaxis()
    return picture


def _categories(table: Grid) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the category of each arrow's label, and the colour of each category."""
    arrows = table.arrows[~table.arrows["is_control"]]
    many = arrows["is_sae"].sum() > _MANY
    names, colours = {}, {}
    for _, arrow in arrows.iterrows():
        grouped = many and arrow["is_sae"]
        names[arrow["label"]] = f"{arrow['method']}, any SAE" if grouped else arrow["label"]
    for is_sae, palette in ((False, BASELINES), (True, SAES)):
        found = dict.fromkeys(names[x] for x in arrows[arrows["is_sae"] == is_sae]["label"])
        colours |= {name: palette[i % len(palette)] for i, name in enumerate(found)}
    return names, colours

"""Test AUC against the layer: the first thing that people ask of a model."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probejax.analysis.by_layer import reference
from probejax.analysis.drawing import CYCLE, SOFT, Picture, canvas, legend
from probejax.analysis.labels import interval, number, signed, title
from probejax.sites import EMBEDDING, KINDS, in_order, parse

_BANDS = 3  # more methods than this, and only the one that chooses the site has its band drawn
_TICKS = 12
_EMBED = -1  # where what enters the first block stands on the axis


def layers(table: pd.DataFrame) -> dict[str, Picture]:
    """Returns mean test AUC against the layer, a picture for each model and protocol.

    Args:
      table: of `by_layer`.
    """
    found = {}
    parts = table.groupby(["protocol", "model"], sort=False) if len(table) else ()
    for (protocol, model), rows in parts:
        name = f"layers_{model}_{protocol}" if found else "layers"
        found[name] = _layers(rows, f"{model}, {protocol}")
    return found


def _layers(rows: pd.DataFrame, about: str) -> Picture:
    rows = rows.assign(kind=rows["site"].map(_kind), x=rows["site"].map(_x))
    kinds = [kind for kind in reversed(KINDS) if kind in set(rows["kind"])]
    regime = title(rows["regime"].iloc[0]).lower()
    label = f"Test AUC against layer, {about} protocol, {regime}"
    picture = canvas(label, 5.2 if len(kinds) == 1 else 3.4 * len(kinds), 3.8, len(kinds))
    methods, first = rows["method"].unique(), reference(rows)
    banded = set(methods) if len(methods) <= _BANDS else {first}
    places = sorted(set(rows["x"]))
    step = 1 + len(places) // _TICKS
    ticks = [x for x in places if x == _EMBED or (x % step == 0 and x >= step * (_EMBED in places))]
    ticks = ticks if len(ticks) > 1 else places
    for axes in picture.axes[1:]:
        axes.sharey(picture.axes[0])
        axes.tick_params(labelleft=False)
    for axes, kind in zip(picture.axes, kinds, strict=True):
        for i, method in enumerate(methods):
            part = rows[(rows["kind"] == kind) & (rows["method"] == method)]
            colour = CYCLE[i % len(CYCLE)]
            if len(part):
                _line(picture, axes, part, _chosen(rows, method), colour, method in banded)
            elif axes is picture.axes[0]:  # which has the key of all
                axes.plot([], [], "o-", color=colour, label=method)
        axes.set(xlabel="layer", xlim=(places[0] - 0.6, places[-1] + 0.6))
        axes.set_xticks(ticks, ["embed" if x == _EMBED else f"{x}" for x in ticks], fontsize=8)
        axes.grid(True)
        if len(kinds) > 1:
            axes.set_title(kind)
    picture.axes[0].set_ylabel("mean test AUC")
    picture.axes[0].scatter([], [], s=90, facecolors="none", edgecolors=SOFT,
                            label="best validation AUC")  # fmt: skip
    picture.axes[0].fill_between([], [], color=SOFT, alpha=0.2, linewidth=0,
                                 label="95 % of the difference, all sites")  # fmt: skip
    legend(picture.axes[0], 3)
    return picture


def _chosen(rows: pd.DataFrame, method: str) -> float:
    """Returns the test AUC of a method at its chosen site, from which its bands are measured."""
    aucs = rows["test_auc"][(rows["method"] == method) & rows["chosen"]]
    return float(aucs.iloc[0]) if len(aucs) else np.nan


def _line(
    picture: Picture, axes: Axes, part: pd.DataFrame, level: float, colour: str, banded: bool
) -> None:
    """Draws a method at the sites of one kind."""
    part = part.sort_values("x")
    method = part["method"].iloc[0]
    style = "o-" if len(part) > 1 else "o"
    (line,) = axes.plot(part["x"], part["test_auc"], style, color=colour, label=method)
    picture.tell(line, [_tip(row) for row in part.to_dict("records")])
    low, high = (level + part[end].where(~part["chosen"], 0.0) for end in ("band_low", "band_high"))
    if banded and len(part) > 1 and np.isfinite(low + high).any():
        axes.fill_between(part["x"], low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(level, color=colour, linewidth=0.8, linestyle=":")
    best = part[part["chosen"]]
    axes.scatter(best["x"], best["test_auc"], s=90, facecolors="none", edgecolors=colour)


def _tip(row: dict) -> str:
    text = f"{row['method']}, {row['site']}\ntest AUC {number(row['test_auc'])}"
    text += f", validation {number(row['val_auc'])}\n"
    if row["chosen"]:
        return f"{text}the best validation AUC"
    limits = interval(row["band_low"], row["band_high"])
    return f"{text}minus the chosen site {signed(row['delta'])}{f' ({limits})' * bool(limits)}"


def _kind(text: str) -> str:
    site = parse(text)
    return "resid_post" if site == EMBEDDING else site.kind


def _x(text: str) -> int:
    site = parse(text)
    return _EMBED if site == EMBEDDING else site.layer


def best_baselines(results: pd.DataFrame) -> dict[str, Picture]:
    """Returns on how many tasks each baseline is best at each site (the study's figure 13).

    Args:
      results: a results table; of it, standard conditions.
    """
    rows = results[(results["regime"] == "standard") & (results["sae_id"] == "")]
    rows = rows[rows["test_auc"].notna() & (rows["control"] == "")]
    found = {}
    for (protocol, model), part in rows.groupby(["protocol", "model"], sort=False):
        if part["site"].nunique() > 1 and part["method"].nunique() > 1:
            name = f"layers_best_{model}_{protocol}" if found else "layers_best"
            found[name] = _best(part, f"{model}, {protocol}")
    return found


def _best(rows: pd.DataFrame, about: str) -> Picture:
    order = in_order(rows["site"].unique())
    means = rows.groupby(["site", "task", "method"])["test_auc"].mean().reset_index()  # over seeds
    best = means.loc[means.groupby(["site", "task"])["test_auc"].idxmax()]
    counts = best.groupby(["site", "method"]).size().unstack(fill_value=0).loc[order]
    picture = canvas(f"The baseline with the best test AUC, {about} protocol")
    (axes,) = picture.axes
    bottom = np.zeros(len(order))
    for i, method in enumerate(counts.columns):
        bars = axes.bar(order, counts[method], bottom=bottom, color=CYCLE[i % len(CYCLE)],
                        label=method)  # fmt: skip
        for bar, site, count in zip(bars, order, counts[method], strict=True):
            picture.tell(bar, [f"{method}, {site}: best on {count} tasks"])
        bottom += counts[method].to_numpy()
    names = [parse(site).short for site in order]
    tilt = 0 if all(name.isdigit() for name in names) else 90
    axes.set_xticks(range(len(order)), names, fontsize=8, rotation=tilt)
    axes.set(xlabel="site", ylabel="tasks on which it is best")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return picture

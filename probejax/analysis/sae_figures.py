"""Figures that compare SAEs: test AUC against k, L0 and width, beside logreg, by architecture."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probejax.analysis.architectures import Study
from probejax.analysis.drawing import CYCLE, GREY, ORANGE, Picture, canvas, legend
from probejax.analysis.facts import plain_sae_probe
from probejax.analysis.group import Group
from probejax.analysis.labels import Value, architecture_name, number, sae_names


def against_k(group: Group) -> Picture | None:
    """Returns AUC against the number of latents, a line per SAE (the study's figures 3 and 15)."""
    rows = _means(group)
    rows = rows.assign(line=rows["sae_id"].map(sae_names(group.table.arrows)))
    return _against(group, rows, "k", "latents of the probe (k)")


def against_l0(group: Group) -> Picture | None:
    """Returns AUC against the SAE's L0, a line per width and k (figure 21)."""
    rows = _means(group)
    lines = [
        f"{method}, width {width:,.0f}" if np.isfinite(width) else method
        for method, width in zip(rows["method"], rows["sae_width"], strict=True)
    ]
    return _against(group, rows.assign(line=lines), "sae_l0", "L0 of the SAE")


def against_width(group: Group) -> Picture | None:
    """Returns AUC against the SAE's width, the mean over its L0s, a line per k (figure 14b)."""
    rows = _means(group).groupby(["method", "sae_width"])[["auc"]].mean().reset_index()
    return _against(group, rows.assign(line=rows["method"]), "sae_width", "latents of the SAE")


def _means(group: Group) -> pd.DataFrame:
    """Returns the SAE probes under standard conditions, with their mean test AUC."""
    auc = group.table.values["test_auc"][group.table.in_regime("standard")]
    known = np.isfinite(auc).any(axis=0) & plain_sae_probe(group.table.arrows)
    return group.table.arrows[known].assign(auc=np.nanmean(auc[:, known], axis=0))


def _logreg(group: Group) -> np.ndarray | None:
    """Returns the test AUCs of logreg under standard conditions."""
    arrows = group.table.arrows
    places = arrows.index[(arrows["family"] == "logreg") & ~arrows["is_control"]]
    auc = group.table.values["test_auc"][group.table.in_regime("standard")]
    return auc[:, places[0]] if len(places) and np.isfinite(auc[:, places[0]]).any() else None


def _against(group: Group, rows: pd.DataFrame, x: str, axis: str) -> Picture | None:
    rows = rows[rows[x].astype(float).between(0, np.inf, inclusive="neither")]
    if rows.empty or rows.groupby("line")[x].nunique().max() < 2:
        return None
    picture = canvas(f"Mean test AUC under standard conditions against the {axis}")
    (axes,) = picture.axes
    for i, (name, part) in enumerate(rows.groupby("line")):
        part = part.sort_values(x)
        at, auc = part[x].astype(float), part["auc"]
        label = str(name) if i < 12 else None
        (line,) = axes.plot(at, auc, "o-", color=CYCLE[i % len(CYCLE)], label=label)
        picture.tell(line, [f"{name}\n{a:,.0f}: {number(b)}" for a, b in zip(at, auc, strict=True)])
    if (logreg := _logreg(group)) is not None:
        mean = float(np.nanmean(logreg))
        axes.axhline(mean, color=GREY, linestyle="--", label=f"logreg {number(mean, 3)}")
    _log(axes, sorted(rows[x].astype(float).unique()))
    axes.set(xlabel=axis, ylabel="mean test AUC")
    axes.grid(True)
    legend(axes)
    return picture


def _log(axes: Axes, ticks: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks[:: 1 + len(ticks) // 8])
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.minorticks_off()


def _short(x: Value) -> str:
    """Returns a count as `16`, `16k` or `1M`."""
    power = 2 if x >= 1e6 else 1 if x >= 1000 else 0
    return f"{x / 1000**power:.3g}{'kM'[power - 1] if power else ''}"


def l0_by_width(group: Group) -> Picture | None:
    """Returns mean AUC over k, L0 against width (figure 14a)."""
    rows = _means(group).dropna(subset=["sae_l0", "sae_width"])
    if rows["sae_width"].nunique() < 2 or rows.groupby("sae_width")["sae_l0"].nunique().max() < 2:
        return None
    table = rows.pivot_table(index="sae_l0", columns="sae_width", values="auc")
    picture = canvas("Mean test AUC for each width and L0 of the SAE")
    (axes,) = picture.axes
    mesh = axes.pcolormesh(table.to_numpy(float), cmap="viridis")
    picture.tell(mesh, [
        f"width {width:,.0f}, L0 {l0:g}\n{number(auc)}"
        for l0, row in table.iterrows() for width, auc in row.items()
    ])  # fmt: skip
    axes.set_xticks(np.arange(table.shape[1]) + 0.5, [_short(width) for width in table.columns])
    axes.set_yticks(np.arange(table.shape[0]) + 0.5, [f"{l0:g}" for l0 in table.index])
    axes.set(xlabel="latents of the SAE", ylabel="L0")
    picture.figure.colorbar(mesh, label="mean test AUC")
    return picture


def beside_logreg(group: Group) -> Picture | None:
    """Returns each SAE probe minus logreg, over tasks under standard conditions (figure 12)."""
    arrows = group.table.arrows
    auc = group.table.values["test_auc"][group.table.in_regime("standard")]
    logreg, saes = _logreg(group), arrows.index[arrows["is_sae"] & ~arrows["is_control"]]
    if logreg is None:
        return None
    deltas = {str(arrows.loc[i, "label"]): auc[:, i] - logreg for i in saes}
    deltas = {label: delta[np.isfinite(delta)] for label, delta in deltas.items()}
    deltas = {label: delta for label, delta in deltas.items() if len(delta)}
    if not deltas:
        return None
    label = "Test AUC of each SAE probe minus logreg's, over tasks under standard conditions"
    picture = canvas(label, max(5.2, 2.0 + 0.42 * len(deltas)), 4.2)
    (axes,) = picture.axes
    axes.boxplot(list(deltas.values()), showfliers=False, medianprops={"color": ORANGE})
    axes.set_xticks(range(1, len(deltas) + 1), list(deltas), rotation=60, ha="right")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylabel("test AUC minus logreg's")
    return picture


def architectures(studies: Sequence[Study]) -> Picture | None:
    """Returns AUC against L0 per architecture, a panel per study; rings mark the chosen SAEs.

    Raises:
        ValueError: no L0 is known.
    """
    if not studies:
        return None
    if not any(study.with_l0.any() for study in studies):
        raise ValueError("the L0 of no SAE is known")
    picture = canvas("Mean test AUC against the SAE's L0, by architecture",
                     1.6 + 3.6 * len(studies), 4.0, len(studies))  # fmt: skip
    for axes, study in zip(picture.axes, studies, strict=True):
        rows = study.saes[study.with_l0]
        for i, (name, part) in enumerate(rows.groupby("architecture", sort=False)):
            name = architecture_name(str(name))
            (line,) = axes.plot(part["l0"], part["test_auc"], "o-", color=CYCLE[i % len(CYCLE)],
                                label=name)  # fmt: skip
            picture.tell(line, [
                f"{name}, L0 {l0:.0f}\n{number(auc)}{', chosen' if chosen else ''}"
                for l0, auc, chosen in zip(part["l0"], part["test_auc"], part["chosen"],
                                           strict=True)
            ])  # fmt: skip
        chosen = rows[rows["chosen"]]
        axes.scatter(chosen["l0"], chosen["test_auc"], s=70, facecolors="none", edgecolors=GREY)
        axes.set(xlabel="L0 of the SAE", title=f"{study.method}, {study.tasks} tasks")
        if len(rows):
            _log(axes, sorted(rows["l0"].unique()))
    picture.axes[0].set_ylabel("mean test AUC (ring: best validation AUC)")
    picture.axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return picture

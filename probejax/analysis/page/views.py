"""The charts of one regime, from a group's cells and grid."""

import numpy as np
import pandas as pd

from probejax.analysis.facts import plain_sae_probe
from probejax.analysis.grid import Grid
from probejax.analysis.group import Group
from probejax.analysis.labels import (
    AXES,
    Value,
    interval,
    level_text,
    number,
    sae_names,
    signed,
    tasks_in_order,
)
from probejax.analysis.page import charts
from probejax.analysis.page.charts import Band, Point, Series
from probejax.analysis.verdict import NEUTRAL

_MANY = 5  # more SAE arrows than this are shown by their k
_BASELINES = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")
_SAES = ("s0", "s1", "s2", "s3", "s4", "s5")


def delta_chart(group: Group, regime: str) -> str:
    """Returns the change of AUC against the level, with both bands and the neutral rule."""
    rows, neutral = group.levels(regime), group.levels(regime, NEUTRAL)
    if rows.empty:
        return ""
    x, level = rows["level"].tolist(), neutral["level"].tolist()
    tips = [
        f"{AXES.get(regime, 'level')}: {level_text(regime, row['level'])}\n"
        f"change {signed(row['delta'])} ({interval(row['ci_low'], row['ci_high'])})\n"
        f"{number(row['baseline'])} \N{RIGHTWARDS ARROW} {number(row['with_sae'])}, "
        f"{row['cells']} cells, {row['tied']} tied"
        for _, row in rows.iterrows()
    ]
    return charts.lines(
        [
            Series("SAEs win ties", "accent", x, rows["delta"].tolist(), tips),
            Series("mean over ties", "second dashed", level, neutral["delta"].tolist()),
        ],
        AXES.get(regime, "level"),
        "change of test AUC",
        f"Change of test AUC with SAEs against {AXES.get(regime, 'level')}",
        bands=[
            Band("95 %, all levels", "accent wide", x, *_columns(rows, "band_low", "band_high")),
            Band("95 %, each level", "accent", x, *_columns(rows, "ci_low", "ci_high")),
        ],
        log=regime == "scarcity",
        zero=True,
        x_text=lambda level: level_text(regime, level),
    )


def _columns(rows: pd.DataFrame, *names: str) -> list[list[float]]:
    return [rows[name].tolist() for name in names]


def means_chart(group: Group, regime: str) -> str:
    """Returns the mean AUC of both quivers against the level."""
    rows = group.levels(regime)
    if rows.empty:
        return ""
    x, axis = rows["level"].tolist(), AXES.get(regime, "level")
    tips = [
        [f"{axis}: {level_text(regime, level)}\n{name}: {number(value)}" for level, value in
         zip(x, rows[column], strict=True)]
        for column, name in (("baseline", "baselines"), ("with_sae", "with SAEs"))
    ]  # fmt: skip
    return charts.lines(
        [
            Series("best of the baselines", "base", x, rows["baseline"].tolist(), tips[0]),
            Series("best with SAEs", "accent dashed", x, rows["with_sae"].tolist(), tips[1]),
        ],
        axis,
        "test AUC",
        f"Test AUC of both quivers against {axis}",
        log=regime == "scarcity",
        x_text=lambda level: level_text(regime, level),
    )


def scatter_chart(group: Group, regime: str) -> str:
    """Returns one point per task: without against with SAEs."""
    cells = group.compared(regime)
    means = cells.groupby("task")[["baseline", "with_sae", "delta"]].mean()
    means = means.assign(
        sae=cells.groupby("task")["sae_chosen"].sum(), cells=cells.groupby("task").size()
    )
    names = group.head_to_head.get(regime, ("best of the baselines", "best with SAEs"))
    points = []
    for task, row in means.iterrows():
        style = "same" if abs(row["delta"]) < 1e-12 else "better" if row["delta"] > 0 else "worse"
        text = f"{task}\n{number(row['baseline'])} \N{RIGHTWARDS ARROW} {number(row['with_sae'])}"
        text += f" ({signed(row['delta'])})"
        if regime not in group.head_to_head:
            text += f"\nSAE chosen in {row['sae']:g} of {row['cells']:g} cells"
        points.append(Point(row["baseline"], row["with_sae"], style, text))
    entries = []
    for style, word in (("better", "better with SAEs"), ("worse", "worse"), ("same", "unchanged")):
        total = sum(point.style == style for point in points)
        entries.append((style, f"{word}: {total}"))
    return charts.scatter(
        points, f"test AUC, {names[0]}", f"test AUC, {names[1]}",
        "Test AUC of each task without and with SAEs", entries,
    )  # fmt: skip


def heat_chart(group: Group, regime: str) -> str:
    """Returns the change of AUC per task and level, tasks in the study's order."""
    cells = group.compared(regime)
    cells = cells[cells["level"].notna()]
    if cells["level"].nunique() < 2:
        return ""
    spots = cells.groupby(["task", "level"], sort=True)
    means = spots[["baseline", "with_sae", "delta"]].mean().reset_index()
    names = spots[["baseline_label", "chosen_label"]].agg(_names).reset_index(drop=True)
    means = pd.concat([means, names], axis=1)
    order = tasks_in_order(means["task"].unique())
    levels = sorted(means["level"].unique())
    place = means["task"].map({task: i for i, task in enumerate(order)}).to_numpy()
    column = np.searchsorted(levels, means["level"])
    values = np.full((len(order), len(levels)), np.nan)
    values[place, column] = means["delta"]
    texts = [[""] * len(levels) for _ in order]
    columns = [means[c].tolist() for c in ("level", "baseline", "with_sae", "delta")]
    labels = [means[c].tolist() for c in ("baseline_label", "chosen_label")]
    for i, j, level, base, sae, delta, before, after in zip(
        place, column, *columns, *labels, strict=True
    ):
        texts[i][j] = (
            f"{level_text(regime, level)}: {signed(delta, 3)}\n{before} {number(base, 3)}"
            f" \N{RIGHTWARDS ARROW} {after} {number(sae, 3)}"
        )
    columns = [level_text(regime, level) for level in levels]
    axis = AXES.get(regime, "level")
    return charts.heat(
        order, columns, values, texts, axis, f"Change of test AUC per task and {axis}"
    )


def _names(labels: pd.Series) -> str:
    """Returns the one name, or how many there are: over several seeds choices may differ."""
    names = labels.unique()
    return names[0] if len(names) == 1 else f"{len(names)} methods"


def chosen_chart(group: Group, regime: str) -> str:
    """Returns what the quiver with SAEs chose, stacked, per level."""
    if regime in group.head_to_head:
        return ""
    cells = group.compared(regime)
    if cells.empty:
        return ""
    if cells["level"].isna().all():
        counts = cells["chosen_label"].value_counts()
        styles = dict(zip(group.table.arrows["label"], group.table.arrows["is_sae"], strict=True))
        bars = [(str(x), int(n), "s0" if styles[x] else "b0") for x, n in counts.items()]
        return charts.bars(bars, [("b0", "baseline"), ("s0", "SAE probe")])
    names, styles = _categories(group.table)
    cells = cells[cells["level"].notna()]
    category = cells["chosen_label"].map(names)
    levels = sorted(cells["level"].unique())
    keys = list(styles)
    counts = np.zeros((len(levels), len(keys)))
    place = np.searchsorted(levels, cells["level"])
    np.add.at(counts, (place, category.map(keys.index).to_numpy(dtype=int)), 1)
    used = [j for j in range(len(keys)) if counts[:, j].any()]
    bars = [level_text(regime, level) for level in levels]
    return charts.stacked(
        bars, counts[:, used], [(styles[keys[j]], keys[j]) for j in used],
        AXES.get(regime, ""), "What the quiver with SAEs chose",
    )  # fmt: skip


def _categories(table: Grid) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the category of each arrow's label, and the style of each category."""
    arrows = table.arrows[~table.arrows["is_control"]]
    many = arrows["is_sae"].sum() > _MANY
    names, styles = {}, {}
    for _, arrow in arrows.iterrows():
        grouped = many and arrow["is_sae"]
        name = arrow["method"] if grouped else arrow["label"]
        names[arrow["label"]] = f"{name}, any SAE" if grouped else name
    for is_sae, palette in ((False, _BASELINES), (True, _SAES)):
        found = dict.fromkeys(names[x] for x in arrows[arrows["is_sae"] == is_sae]["label"])
        styles |= {name: palette[i % len(palette)] for i, name in enumerate(found)}
    return names, styles


def by_k(group: Group, regime: str) -> str:
    """Returns AUC against the number of latents, one line per SAE."""
    rows = _sae_means(group, regime)
    rows = rows[plain_sae_probe(rows)]
    if rows["k"].nunique() < 2:
        return ""
    names = sae_names(group.table.arrows)
    series = []
    for i, (sae_id, part) in enumerate(rows.groupby("sae_id", sort=False)):
        part = part.sort_values("k")
        x, y = _columns(part.astype({"k": float}), "k", "auc")
        tips = [f"{sae_id}\nk = {k:g}: {number(auc)}" for k, auc in zip(x, y, strict=True)]
        name = names[str(sae_id)] if i < len(_SAES) else ""
        series.append(Series(name, _SAES[i % len(_SAES)], x, y, tips))
    return _with_reference(group, regime, series, "latents of the probe (k)")  # fmt: skip


def by_l0(group: Group, regime: str) -> str:
    """Returns AUC against the SAE's L0, one line per width and k."""
    rows = _sae_means(group, regime)
    rows = rows.assign(x=rows["sae_l0"], other=rows["sae_width"].fillna(np.inf))
    return _by(group, regime, rows, "mean active latents of the SAE (L0)", "width")


def by_width(group: Group, regime: str) -> str:
    """Returns AUC against the SAE's width, the mean over its L0s, one line per k."""
    rows = _sae_means(group, regime)
    rows = rows.assign(x=rows["sae_width"], other=np.inf)
    rows = rows.groupby(["x", "other", "method"])[["auc"]].mean().reset_index()
    return _by(group, regime, rows, "latents of the SAE (width)", "")


def _by(group: Group, regime: str, rows: pd.DataFrame, axis: str, other: str) -> str:
    rows = rows[rows["x"].between(0, np.inf, inclusive="neither")]
    if rows.empty or rows.groupby("other")["x"].nunique().max() < 2:
        return ""
    series = []
    for i, (key, part) in enumerate(rows.groupby(["other", "method"], sort=True)):
        part = part.sort_values("x")
        name, value = str(key[1]), part["other"].iloc[0]
        name += f", {other} {value:,.0f}" if other and np.isfinite(value) else ""
        x, y = _columns(part, "x", "auc")
        tips = [f"{name}\n{at:,.0f}: {number(auc)}" for at, auc in zip(x, y, strict=True)]
        shown = name if i < len(_SAES) else ""
        series.append(Series(shown, _SAES[i % len(_SAES)], x, y, tips))
    return _with_reference(group, regime, series, axis)


def _sae_means(group: Group, regime: str) -> pd.DataFrame:
    auc = group.table.values["test_auc"][group.table.in_regime(regime)]
    arrows = group.table.arrows
    known = np.isfinite(auc).any(axis=0) & (arrows["is_sae"] & ~arrows["is_control"]).to_numpy(bool)
    return arrows[known].assign(auc=np.nanmean(auc[:, known], axis=0))


def _short(x: Value) -> str:
    """Returns a count as `16`, `16k` or `1M`."""
    power = 2 if x >= 1e6 else 1 if x >= 1000 else 0
    return f"{x / 1000**power:.3g}{'kM'[power - 1] if power else ''}"


def _with_reference(group: Group, regime: str, series: list[Series], axis: str) -> str:
    """Draws lines and, across them, the mean AUC of logreg."""
    auc = group.table.values["test_auc"][group.table.in_regime(regime)]
    logreg = group.table.arrows.index[group.table.arrows["label"] == "logreg"]
    ends = [min(min(s.x) for s in series), max(max(s.x) for s in series)]
    if len(logreg) and np.isfinite(auc[:, logreg[0]]).any():
        mean = float(np.nanmean(auc[:, logreg[0]]))
        series.append(Series(f"logreg {number(mean, 3)}", "base dashed", ends, [mean, mean]))
    return charts.lines(
        series, axis, "mean test AUC", f"Mean test AUC against {axis}", log=True, x_text=_short
    )

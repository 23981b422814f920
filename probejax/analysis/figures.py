"""One figure per regime: what adding SAE probes to the quiver does to test AUC."""

import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from probejax import foreign, storage
from probejax.analysis.architectures import Study
from probejax.analysis.group import Group, groups
from probejax.analysis.head_to_head import pairs
from probejax.analysis.intervals import paired_bootstrap
from probejax.analysis.labels import AXES, TITLES
from probejax.analysis.left_out import attempt
from probejax.analysis.multi_token import figures as multi_token_figures
from probejax.analysis.quiver import choices, quiver
from probejax.analysis.study_figures import (
    Drawing,
    architecture_figure,
    layer_figure,
    study_figures,
)

# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "probejax",  # the same figure gives the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a task's name is one
}


def write_figures(
    out: epath.PathLike,
    results: pd.DataFrame,
    found: Sequence[Group] = (),
    studies: Sequence[Study] = (),
    left_out: list[str] | None = None,
) -> list[epath.Path]:
    """Writes figures as PNG and SVG: one per regime that can be compared, and the study's types.

    The first of the groups has its figures in `figures/`, and the study's other types of figure
    too; any other that can be compared has those of its regimes in a folder of its own below.

    Args:
        out: the run's folder.
        results: the results table.
        found: its groups, if they are known.
        studies: of SAE architectures.
        left_out: gets a line for every figure that cannot be drawn, see `attempt`.

    Returns:
        The files written.

    Raises:
        StorageError: the folder is unwritable.
    """
    found = found or groups(results, quiver(results, tie_rule=("documented", "neutral")))
    left_out = [] if left_out is None else left_out
    written = []
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box in the PNG
        for name, draw in _drawings(results, found, studies, left_out):
            save = functools.partial(_save, draw, epath.Path(out), name)
            written += attempt(left_out, f"figures/{name}", save) or []
    return written


def _drawings(
    results: pd.DataFrame, found: Sequence[Group], studies: Sequence[Study], left_out: list[str]
) -> Iterator[tuple[str, Drawing]]:
    """Yields the path of each figure, without its ending, and what draws it."""
    for place, group in enumerate(found):
        folder = f"{group.model}_{group.site}_{group.protocol}"
        folder = f"{foreign.file_name(folder)}/" if place else ""
        rows = group.rows(results)
        for regime in group.compared_regimes:
            yield folder + foreign.file_name(regime), functools.partial(draw, rows, regime)
    if found:
        tokens = functools.partial(multi_token_figures, found[0])
        more = attempt(left_out, "figures of probes on all tokens", tokens) or {}
        for name, drawing in (study_figures(found[0]) | more).items():
            yield foreign.file_name(name), drawing
    yield "layers", functools.partial(layer_figure, results)
    if studies:
        yield "architectures", functools.partial(architecture_figure, studies)


def _save(draw: Drawing, out: epath.Path, name: str) -> list[epath.Path]:
    """Draws a figure and writes it, unless there is nothing that it could show."""
    if not (figure := draw()):
        return []
    kinds: dict[str, dict[str, Any]] = {"png": {"dpi": 200}, "svg": {"metadata": {"Date": None}}}
    written = []
    for kind, options in kinds.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **options)
        figure.set_layout_engine("none")  # the first has arranged it; that takes half of the time
        written.append(out / "figures" / f"{name}.{kind}")
        storage.write_atomic(written[-1], buffer.getvalue())
    return written


def draw(results: pd.DataFrame, regime: str) -> Figure | None:
    """Returns the figure of one regime, or None where no cell can be compared."""
    rows = results[results["regime"] == regime]
    with matplotlib.rc_context(_STYLE):
        if rows["level"].notna().any():
            return _draw_levels(rows, regime)
        return _draw_tasks(rows, regime)


def _draw_levels(rows: pd.DataFrame, regime: str) -> Figure | None:
    table = quiver(rows, tie_rule=("documented", "neutral"))
    table = table[table["cells"] > 0]
    if table.empty:
        return None
    overall = table[table["level"].isna() & (table["tie_rule"] == "documented")].iloc[0]
    levels = table[table["level"].notna()]
    figure, axes = _figure(7.0, 4.2)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    main = levels[levels["tie_rule"] == "documented"]
    neutral = levels[levels["tie_rule"] == "neutral"]
    axes.fill_between(
        main["level"],
        main["ci_low"],
        main["ci_high"],
        color=_BLUE,
        alpha=0.2,
        linewidth=0,
        label="95 %, paired, over tasks",
    )
    axes.plot(main["level"], main["delta"], "o-", color=_BLUE, markersize=4, label="SAEs win ties")
    axes.plot(
        neutral["level"],
        neutral["delta"],
        "--",
        color=_ORANGE,
        label="mean over ties",
    )
    _level_axis(axes, regime, main["level"].to_numpy(dtype=float))
    axes.set_ylabel("change in test AUC\n(with SAEs minus baselines)")
    axes.legend(loc="best", fontsize=9)
    _title(axes, regime, overall["delta"], overall["ci_low"], overall["ci_high"])
    return figure


def _level_axis(axes: Axes, regime: str, levels: np.ndarray) -> None:
    axes.set_xlabel(AXES.get(regime, "level"))
    if regime != "scarcity":
        return
    axes.set_xscale("log", base=2)
    marks = [n for n in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if n <= 1.5 * levels.max()]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")


def _draw_tasks(rows: pd.DataFrame, regime: str) -> Figure | None:
    table, labels = _task_pairs(rows)
    if table.empty:
        return None
    delta, low, high = paired_bootstrap(
        table["delta"].to_numpy(dtype=float), table["task"].to_numpy(dtype=str)
    )
    per_task = table.groupby("task")[["baseline", "with_sae", "delta"]].mean()
    figure, axes = _figure(5.6, 5.6)
    start = min(per_task["baseline"].min(), per_task["with_sae"].min())
    margin = 0.03 * max(1 - start, 0.1)
    limits = (start - margin, 1 + margin)
    axes.plot(limits, limits, color=_GREY, linewidth=0.8)
    # A choice of the same row gives the same number; rounding of means over seeds is no change.
    change = per_task["delta"].where(per_task["delta"].abs() > 1e-12, 0.0)
    for part, colour, word in (
        (change == 0, _GREY, "unchanged"),
        (change < 0, _ORANGE, "worse with SAEs"),
        (change > 0, _BLUE, "better with SAEs"),
    ):
        axes.scatter(
            per_task.loc[part, "baseline"],
            per_task.loc[part, "with_sae"],
            s=22,
            color=colour,
            alpha=0.7,
            linewidths=0,
            label=f"{word}: {part.sum()} of {len(part)} tasks",
        )
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_aspect("equal")
    axes.set_xlabel(f"test AUC, {labels[0]}")
    axes.set_ylabel(f"test AUC, {labels[1]}")
    axes.legend(loc="upper left", fontsize=9)
    _title(axes, regime, delta, low, high)
    return figure


def _task_pairs(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, str]]:
    """Returns the compared cells; without validation AUCs, those of the only two methods."""
    table = choices(rows)
    table = table[table["delta"].notna()]
    arrows = rows[["method", "sae_id", "k"]].drop_duplicates()
    if len(table) or len(arrows) != 2:
        return table, ("best of the baselines", "best with SAEs")
    is_sae = arrows["sae_id"] != ""
    if is_sae.sum() != 1:
        return table, ("", "")
    sae, method = arrows[is_sae].iloc[0], arrows[~is_sae].iloc[0]["method"]
    table = pairs(rows, method, sae["sae_id"], int(sae["k"]), sae["method"]).rename(
        columns={"sae": "with_sae"}
    )
    return table[table["delta"].notna()], (method, f"SAE probe (k={sae['k']})")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _title(axes: Axes, regime: str, delta: float, low: float, high: float) -> None:
    text = f"{TITLES.get(regime, regime)}\ntest AUC {delta:+.4f} with SAEs"
    if np.isfinite(low):
        text += f" (95 %: {low:+.4f} to {high:+.4f})"
    axes.set_title(text.replace("-", "\N{MINUS SIGN}"))

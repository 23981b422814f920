"""The scores of a task's test rows, by class."""

import numpy as np
from jaxtyping import Float

from probejax.analysis.drawing import BLUE, ORANGE, SOFT, Picture, canvas
from probejax.analysis.scored import TaskScores

_BINS = 40
_WIDEST = 0.98  # share of the logits that the axis shows at their place; the rest is at its ends
_HALF = 0.44  # height of a side, of the distance between two methods


def scores(found: TaskScores) -> Picture:
    """Returns a row for each method: its logits, of label 1 above the line, of label 0 below.

    Each row has a scale of its own; in the middle is the logit 0, where a method decides.
    """
    count = len(found.methods)
    what = f"Test scores by class, {found.task}"
    picture = canvas(what, 5.2, 0.8 + 0.36 * count)
    (axes,) = picture.axes
    edges = np.linspace(-1, 1, _BINS + 1)
    ends = (len(found.classes[0]), len(found.classes[1]))
    for place, each in enumerate(found.methods):
        z = _scaled(each.logits)
        known = np.isfinite(z)
        for label, side, colour in ((1, -1, BLUE), (0, 1, ORANGE)):  # the axis runs downward
            own = z[known & (found.labels == label)]
            heights = np.histogram(own, edges)[0] / max(len(own), 1)
            tall = np.sqrt(heights / max(heights.max(), 1e-9))  # so that few wrong ones are seen
            base = place + 0.02 * side
            axes.stairs(
                base + side * _HALF * tall, edges, baseline=base, fill=True, color=colour,
                label=None if place else _named(found.classes[label], max(ends)),
            )  # fmt: skip
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_yticks(range(count), [each.label for each in found.methods], fontsize=8)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(-1.02, 1.02)
    axes.set_xticks([-0.55, 0, 0.55], ["← says class 0", "0", "says class 1 →"])
    axes.tick_params(length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return picture


def _named(name: str, longest: int) -> str:
    return f"class {name}" if longest < 24 else f"class {name[:22]}…"


def _scaled(logits: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Returns logits with their usual size as 1, larger ones cut to that; NaN stays."""
    logits = logits.astype(float)
    sizes = np.abs(logits[np.isfinite(logits)])
    usual = float(np.quantile(sizes, _WIDEST)) if len(sizes) else 0.0
    return np.clip(np.where(np.isnan(logits), np.nan, logits) / (usual or 1.0), -1, 1)

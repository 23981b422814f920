"""Many looks at the same tasks: bands that hold at all of them together, corrected p-values.

A regime is looked at level by level. With twenty levels, one 95 % interval in twenty excludes zero
by chance alone; what a reader may conclude from "somewhere on this curve" needs these.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from probejax.analysis import intervals


class Bands(NamedTuple):
    """Limits per look, in the unit of the values, and the largest deviation in standard errors."""

    low: Float[np.ndarray, " J"]
    high: Float[np.ndarray, " J"]
    critical: float


def simultaneous_bands(
    values: Float[np.ndarray, " n"],
    tasks: Shaped[np.ndarray, " n"],
    looks: Int[np.ndarray, " n"],
    *,
    confidence: float = 0.95,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> Bands:
    """Returns bands that hold all means of `looks` together with the given confidence.

    A bootstrap over tasks of the largest standardised deviation (Romano & Wolf 2005). The looks of
    one draw come from the same tasks, so their correlation is used and the bands are narrower than
    Bonferroni's. A bootstrap's error knows nothing of its own uncertainty, which is large where
    tasks are few: so the limit is that of Student's t with the same probability, and the error that
    of n - 1 degrees of freedom.

    Args:
        values: paired differences, one per cell.
        tasks: the task of each value; its values are drawn together.
        looks: which of the looks 0..J-1 (a level, a regime) each value belongs to.
        confidence: that all bands hold their mean at once.
        resamples: number of bootstrap draws.
        seed: of the draws.

    Returns:
        NaN for a look at fewer than two tasks.
    """
    count = int(looks.max(initial=-1)) + 1
    _, which = np.unique(tasks, return_inverse=True)
    places, shape = which * count + looks, (int(which.max(initial=-1)) + 1, count)
    counts = np.bincount(places, minlength=shape[0] * count).reshape(shape).astype(np.float64)
    sums = np.bincount(places, values, minlength=shape[0] * count).reshape(shape)
    known = (counts > 0).sum(axis=0) >= 2
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    if not known.any():
        return Bands(low, high, float("nan"))
    sums, counts = sums[:, known], counts[:, known]
    centre = sums.sum(axis=0) / counts.sum(axis=0)
    draws = intervals.task_draws(shape[0], resamples, seed)
    drawn = draws @ counts
    # A draw may leave out every task of a look; it then says nothing about that look.
    deviation = np.divide(draws @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    deviation -= centre
    error = np.sqrt(np.nanmean(deviation**2, axis=0))
    t = np.divide(
        np.abs(deviation), error, out=np.zeros_like(deviation), where=error > 1e-12 * np.abs(centre)
    )
    # NaN where all tasks that were drawn belong to looks of which nothing is known.
    critical = float(np.nanquantile(np.fmax.reduce(t, axis=1), confidence))
    number = (counts > 0).sum(axis=0)  # of tasks
    width = stats.t.isf(stats.norm.sf(critical), number - 1) * np.sqrt(number / (number - 1))
    low[known], high[known] = centre - width * error, centre + width * error
    return Bands(low, high, critical)


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Returns p-values corrected for their number (Holm 1979); NaN stays and does not count."""
    corrected = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected

"""How sure a difference is: intervals and tests over paired values, one value per cell.

Tasks are the units that were sampled; levels and seeds of one task are not independent. So the
bootstrap draws tasks, and everything measured on a task goes with it. Tasks that share prompts are
not independent either: beside each interval over tasks stands one over families of tasks.
"""

import functools
import math
import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 4000
COLUMNS = ("delta", "ci_low", "ci_high", "family_low", "family_high")  # see `of_mean`


class Interval(NamedTuple):
    """An estimate with its lower and upper limit, in the unit of the values."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    values: Float[np.ndarray, " n"],
    tasks: Shaped[np.ndarray, " n"],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the mean of all values and its percentile bootstrap interval over tasks.

    Args:
        values: paired differences, one per cell (task x level x seed).
        tasks: the task of each value; its values are drawn together.
        confidence: share of the interval, 0.95 for 95 %.
        resamples: number of bootstrap draws.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        NaN limits with fewer than two tasks (nothing says how tasks differ); all NaN if empty.
    """
    if values.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    sums, counts = _per_task(values, tasks)
    if sums.size < 2:
        return Interval(mean, np.nan, np.nan)
    draws = task_draws(sums.size, resamples, seed)  # [B, T]
    means = (draws @ sums) / (draws @ counts)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def of_mean(
    values: Float[np.ndarray, " n"],
    tasks: Shaped[np.ndarray, " n"],
    families: Shaped[np.ndarray, " n"],
) -> dict[str, float]:
    """Returns the mean of paired differences with its 95 % intervals, as columns of a table.

    Args:
        values: one difference per cell.
        tasks: the task of each.
        families: the family of each task.

    Returns:
        `delta`; `ci_low` and `ci_high`, over tasks; `family_low` and `family_high`, over families.
    """
    delta, low, high = paired_bootstrap(values, tasks)
    alone = len(np.unique(families)) == len(np.unique(tasks))
    _, *apart = (delta, low, high) if alone else paired_bootstrap(values, families)
    return dict(zip(COLUMNS, (delta, low, high, *apart), strict=True))


@functools.lru_cache(maxsize=8)  # every level of a regime uses the same draws
def task_draws(tasks: int, resamples: int, seed: int) -> Float[np.ndarray, "B T"]:
    """Returns how often each bootstrap draw takes each task."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples).astype(np.float64)
    draws.flags.writeable = False
    return draws


def _per_task(
    values: Float[np.ndarray, " n"], tasks: Shaped[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    _, which = np.unique(tasks, return_inverse=True)
    sums = np.bincount(which, weights=values).astype(np.float64)  # int where there are none
    return sums, np.bincount(which).astype(np.float64)


def task_means(
    values: Float[np.ndarray, " n"], tasks: Shaped[np.ndarray, " n"]
) -> Float[np.ndarray, " T"]:
    """Returns the mean of each task's values, tasks in sorted order."""
    sums, counts = _per_task(values, tasks)
    return sums / counts


def sign_test(differences: Float[np.ndarray, " n"]) -> float:
    """Returns the exact two-sided p-value of the split into positive and negative differences.

    Zeros are left out. Pass one difference per task (`task_means`), since the test takes them as
    independent.
    """
    positive, negative = int((differences > 0).sum()), int((differences < 0).sum())
    n, fewer = positive + negative, min(positive, negative)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)


def permutation_test(
    differences: Float[np.ndarray, " n"], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Returns the two-sided p-value of the mean under random flips of the signs.

    Pass one difference per task (`task_means`). The observed signs count as one of the draws
    (Phipson & Smyth 2010), so that the p-value is never 0; NaN without differences.
    """
    if differences.size == 0:
        return float("nan")
    signs = _signs(differences.size, resamples, seed)
    observed = abs(differences.sum())
    # The slack counts the observed signs' own sum, added up in another order, as equal.
    extreme = np.abs(signs @ differences) >= observed - 1e-12 * np.abs(differences).sum()
    return float((extreme.sum() + 1) / (resamples + 1))


@functools.lru_cache(maxsize=2)
def _signs(tasks: int, resamples: int, seed: int) -> Float[np.ndarray, "B T"]:
    rng = np.random.default_rng(seed)
    signs = 2.0 * rng.integers(0, 2, size=(resamples, tasks)) - 1.0
    signs.flags.writeable = False
    return signs


def smallest_effect(
    values: Float[np.ndarray, " n"],
    tasks: Shaped[np.ndarray, " n"],
    *,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float:
    """Returns the smallest mean that this design would have found, in the unit of the values.

    That is the true mean at which a two-sided test at `1 - confidence` rejects zero with
    probability `power`, with the standard error that these tasks have (one draw per task, its
    cells together) and a normal mean; NaN with fewer than two tasks.
    """
    sums, counts = _per_task(values, tasks)
    if sums.size < 2:
        return float("nan")
    spread = sums - counts * (sums.sum() / counts.sum())
    error = np.sqrt(sums.size / (sums.size - 1) * np.sum(spread**2)) / counts.sum()
    normal = statistics.NormalDist()
    return float((normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)) * error)


class WinRate(NamedTuple):
    """How often one side is ahead by more than a margin, as counts and as a rate with limits."""

    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float


def win_rate(
    differences: Float[np.ndarray, " n"], *, margin: float = 0.005, confidence: float = 0.95
) -> WinRate:
    """Returns how often a difference exceeds `margin`, with Wilson's score interval of the rate.

    The margin of 0.005 AUC is the study's (strict on both sides); ties stay in the denominator.
    """
    wins, losses = int((differences > margin).sum()), int((differences < -margin).sum())
    n = differences.size
    low, high = wilson(wins, n, confidence=confidence)
    rate = wins / n if n else float("nan")
    return WinRate(wins, losses, n - wins - losses, rate, low, high)


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's (1927) score interval of a binomial rate; NaN without trials."""
    if trials == 0:
        return float("nan"), float("nan")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z / (1 + z * z / trials)
    spread *= float(np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2)))
    return max(0.0, centre - spread), min(1.0, centre + spread)

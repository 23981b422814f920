"""How many rows each regime trains and tests on, and what a task lacks that cannot have it."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from probejax.rules import MAX_ROWS

REGIMES = ("standard", "scarcity", "imbalance", "label_noise", "covariate_shift")

# fmt: off
SCARCITY_SIZES = (
    2, 3, 4, 5, 7, 10, 14, 20, 28, 38, 53, 74, 103, 143, 198, 275, 382, 531, 737, 1024,
)
# fmt: on
"""Training rows: round(2**x) at 20 evenly spaced x from 1 to 10."""

IMBALANCE_FRACTIONS = tuple(step / 20 for step in range(1, 20))
"""Positive fractions, 0.05 to 0.95. Literal twentieths, as the study's baselines take them: its SAE
code has 0.5499999999999999 for 0.55 and so one positive test row less on 41 tasks."""

NOISE_FRACTIONS = tuple(step / 20 for step in range(11))
"""Fractions of flipped training labels, 0 to 0.5."""

SHIFT_HEAD = 1500  # covariate shift draws its training rows from the first 1500

MAX_TRAIN = 1024
_HELD_BACK = 100  # rows that no training set may take, so that a test set remains
_BALANCED = -(-(_HELD_BACK + 2) // 2)  # rows of each label of the smallest balanced task
_RARE = 97  # rows of each label of the smallest task of which either may be 95 %


class Plan(NamedTuple):
    """The sizes of one condition.

    Attributes:
        level: see `Condition`.
        train: training rows.
        test: test rows.
        positive: share of label 1 in both.
    """

    level: float | None
    train: int
    test: int
    positive: float = 0.5


def plans(regime: str, labels: Int[np.ndarray, " n"]) -> list[Plan]:
    """Returns the sizes of a regime's conditions; empty if the task is too small for any.

    Half the rows of most are positive, so of a task that is not balanced as many rows are drawn
    from as the rarer label fills half of: the study's rule, applied to a balanced task within it.

    Raises:
        ValueError: there is no such regime.
    """
    if regime not in REGIMES:
        raise ValueError(f"there is no regime {regime!r}; the regimes are {', '.join(REGIMES)}")
    ones = int(np.count_nonzero(labels == 1))
    zeros = len(labels) - ones
    if regime == "imbalance":
        # As many rows as the rarer label can fill when it makes up 95 %.
        n = int(min(zeros / 0.95, ones / 0.95))
        train = min(n - _HELD_BACK, MAX_TRAIN)
        test = max(_HELD_BACK, n - train - 1)
        return [Plan(each, train, test, each) for each in IMBALANCE_FRACTIONS if train >= 2]
    if regime == "covariate_shift":
        return [Plan(None, MAX_TRAIN, 0)]
    if regime == "scarcity":
        found = [_standard(zeros, ones, size) for size in SCARCITY_SIZES]
        return [plan._replace(level=float(plan.train)) for plan in found if plan]
    plan = _standard(zeros, ones)
    if plan is None:
        return []
    if regime == "standard":
        return [plan]
    return [plan._replace(level=each) for each in NOISE_FRACTIONS]


def lacking(
    regime: str, labels: Int[np.ndarray, " n"], shifted: Int[np.ndarray, " s"] | None = None
) -> str | None:
    """Says what a task lacks for a regime, None if it has all of it.

    Args:
        regime: one of `REGIMES`.
        labels: the task's, zeros and ones.
        shifted: labels of its shifted test set; without one covariate shift has no condition, and
            so lacks nothing.

    Raises:
        ValueError: there is no such regime.
    """
    if regime == "covariate_shift":
        if shifted is None:
            return None
        if len(set(shifted.tolist())) < 2:
            return f"needs both labels in its shifted test set, which has {_counted(shifted)}"
        if len(shifted) > MAX_ROWS:
            return _too_many(len(shifted))
        least, rows, where = MAX_TRAIN // 2, labels[:SHIFT_HEAD], f"its first {SHIFT_HEAD:,}"
        found = np.bincount(rows, minlength=2).min() >= least
    else:
        found = plans(regime, labels)
        if found and (most := max(plan.test for plan in found)) > MAX_ROWS:
            return _too_many(most)
        least = _RARE if regime == "imbalance" else _BALANCED
        rows, where = labels, "it"
    if found:
        return None
    counts = np.bincount(rows, minlength=2)
    more = [f"{least - n} more of label {y}" for y, n in enumerate(counts.tolist()) if n < least]
    verb = "have" if where != "it" else "has"
    return (
        f"needs {least} prompts of each label where {where} {verb} {_counted(rows)}: "
        f"add {' and '.join(more)}"
    )


def _standard(zeros: int, ones: int, train: int | None = None) -> Plan | None:
    """Returns the sizes of a balanced split, None if there are too few rows."""
    n = zeros + ones
    if not _fits(zeros, ones, _sizes(n, train)):
        n = 2 * min(zeros, ones)
    sizes = _sizes(n, train)
    return Plan(None, *sizes) if 2 <= sizes[0] <= n - _HELD_BACK else None


def _sizes(n: int, train: int | None) -> tuple[int, int]:
    train = min(n - _HELD_BACK, MAX_TRAIN) if train is None else train
    return train, n - train - 1  # one row goes unused: so the study has it


def _fits(zeros: int, ones: int, sizes: tuple[int, int]) -> bool:
    positives = sum(math.ceil(size / 2) for size in sizes)
    return positives <= ones and sum(sizes) - positives <= zeros


def _counted(labels: np.ndarray) -> str:
    zeros, ones = np.bincount(labels, minlength=2).tolist()
    return f"{zeros:,} of label 0 and {ones:,} of label 1"


def _too_many(rows: int) -> str:
    return f"has a test set of {rows:,} prompts where {MAX_ROWS:,} can be scored: remove some"

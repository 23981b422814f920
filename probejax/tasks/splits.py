"""The study's regimes: which rows train and which rows test, bit for bit.

All draws come from numpy's legacy generator, whose `choice(replace=False)` consumes one whole
permutation of what it draws from. For a fixed task and seed the training sets are therefore nested
in their size and in their positive fraction, and flipped labels are nested in the fraction flipped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

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

_MAX_TRAIN = 1024
_HELD_BACK = 100  # rows that no training set may take, so that a test set remains
_SHIFT_HEAD = 1500  # covariate shift draws its training rows from the first 1500


@dataclass(frozen=True, eq=False)
class Condition:
    """A regime at one level, for one seed.

    `train` [n] and `test` [m] are rows of ONE feature matrix: the task's prompts come first, the
    shifted prompts (covariate shift only) after them. `y_train` [n] holds the labels to train on,
    flipped ones included; `y_test` [m] is always clean. `level` is the number of training rows, the
    positive fraction or the flipped fraction, and None where the regime has a single level.
    """

    regime: str
    level: float | None
    seed: int
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray


def split_rows(
    labels: Int[np.ndarray, " n"],
    n_train: int,
    n_test: int,
    positive_fraction: float = 0.5,
    seed: int = 42,
) -> tuple[Int[np.ndarray, " n_train"], Int[np.ndarray, " n_test"]]:
    """Draws disjoint, shuffled training and test rows (arXiv 2502.16681, reference code).

    Args:
        labels: zeros and ones.
        n_train: training rows; ceil(positive_fraction * n_train) of them are positive.
        n_test: test rows, with positives counted likewise.
        positive_fraction: share of label 1 in both sets.
        seed: of numpy's legacy generator; the study uses 42.

    Returns:
        The training rows and the test rows, indices into `labels`.

    Raises:
        ValueError: a size or the fraction is out of range, or a class has too few rows.
    """
    if n_train < 1 or n_test < 0 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            f"cannot split {len(labels)} rows into {n_train} training and {n_test} test rows with "
            f"positive fraction {positive_fraction}; expected n_train >= 1, n_test >= 0 and a "
            "fraction from 0 to 1"
        )
    rng = np.random.RandomState(seed)
    pools = [np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)]
    parts: list[list[np.ndarray]] = []
    for size in (n_train, n_test):
        positives = math.ceil(positive_fraction * size)
        wanted = (positives, size - positives)
        for kind, pool, count in zip(("positive", "negative"), pools, wanted, strict=True):
            if count > len(pool):
                raise ValueError(
                    f"splitting {len(labels)} rows into {n_train} training and {n_test} test rows "
                    f"with positive fraction {positive_fraction} needs {count} {kind} rows where "
                    f"{len(pool)} are left; use a larger or more balanced task"
                )
        drawn = [rng.choice(p, n, replace=False) for p, n in zip(pools, wanted, strict=True)]
        pools = [np.setdiff1d(p, rows) for p, rows in zip(pools, drawn, strict=True)]
        parts.append(drawn)
    train, test = (rng.permutation(np.concatenate(drawn)) for drawn in parts)
    return train, test


def flip_labels(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int = 42
) -> Int[np.ndarray, " n"]:
    """Returns a copy of `labels` with int(n * fraction) of them flipped, whatever their class.

    Args:
        labels: zeros and ones.
        fraction: share to flip, from 0 to 1; the flips of a smaller share are among those of a
            larger one.
        seed: of numpy's legacy generator; the study uses 42.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"cannot flip a fraction {fraction} of the labels; expected 0 to 1")
    rng = np.random.RandomState(seed)
    flipped = labels.copy()
    rows = rng.choice(len(labels), int(len(labels) * fraction), replace=False)
    flipped[rows] = 1 - flipped[rows]
    return flipped


def conditions(
    labels: Int[np.ndarray, " n"],
    regimes: Sequence[str],
    seeds: Sequence[int] = (42,),
    shifted_labels: Int[np.ndarray, " s"] | None = None,
) -> list[Condition]:
    """Lists every condition of the given regimes, by regime, then seed, then level.

    Args:
        labels: the task's labels, zeros and ones.
        regimes: some of `REGIMES`.
        seeds: one set of draws for each; the study uses 42.
        shifted_labels: labels of the shifted test set, whose feature rows follow the task's own;
            without it covariate shift has no condition.

    Returns:
        The conditions. Scarcity leaves out the sizes that would leave fewer than 100 rows.

    Raises:
        ValueError: a regime does not exist, or the task is too small or unbalanced for one.
    """
    if unknown := [regime for regime in regimes if regime not in REGIMES]:
        raise ValueError(f"there is no regime {unknown[0]!r}; the regimes are {', '.join(REGIMES)}")
    return [
        condition
        for regime in regimes
        for seed in seeds
        for condition in _LISTINGS[regime](labels, seed, shifted_labels)
    ]


_Listing = Callable[[np.ndarray, int, np.ndarray | None], Iterator[Condition]]


def _standard_rows(
    labels: np.ndarray, seed: int, n_train: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    if n_train is None:
        n_train = min(len(labels) - _HELD_BACK, _MAX_TRAIN)
    if n_train < 2:
        raise ValueError(
            f"the task has {len(labels)} rows; at least {_HELD_BACK + 2} are needed, because "
            f"{_HELD_BACK} are held back for testing"
        )
    # One row goes unused: so the study has it.
    return split_rows(labels, n_train, len(labels) - n_train - 1, seed=seed)


def _standard(labels: np.ndarray, seed: int, _: object) -> Iterator[Condition]:
    train, test = _standard_rows(labels, seed)
    yield Condition("standard", None, seed, train, labels[train], test, labels[test])


def _scarcity(labels: np.ndarray, seed: int, _: object) -> Iterator[Condition]:
    for size in SCARCITY_SIZES:
        if size <= len(labels) - _HELD_BACK:
            train, test = _standard_rows(labels, seed, size)
            level = float(size)
            yield Condition("scarcity", level, seed, train, labels[train], test, labels[test])


def _imbalance(labels: np.ndarray, seed: int, _: object) -> Iterator[Condition]:
    positives = np.count_nonzero(labels == 1)
    # As many rows as the rarer class can fill when it makes up 95 %.
    usable = int(min((len(labels) - positives) / 0.95, positives / 0.95))
    n_train = min(usable - _HELD_BACK, _MAX_TRAIN)
    if n_train < 2:
        raise ValueError(
            f"the task has {positives} positives in {len(labels)} rows; imbalance needs at least "
            "97 rows of each class"
        )
    n_test = max(_HELD_BACK, usable - n_train - 1)
    for fraction in IMBALANCE_FRACTIONS:
        train, test = split_rows(labels, n_train, n_test, fraction, seed)
        yield Condition("imbalance", fraction, seed, train, labels[train], test, labels[test])


def _label_noise(labels: np.ndarray, seed: int, _: object) -> Iterator[Condition]:
    train, test = _standard_rows(labels, seed)
    for fraction in NOISE_FRACTIONS:
        noisy = flip_labels(labels[train], fraction, seed)
        yield Condition("label_noise", fraction, seed, train, noisy, test, labels[test])


def _covariate_shift(
    labels: np.ndarray, seed: int, shifted_labels: np.ndarray | None
) -> Iterator[Condition]:
    if shifted_labels is None:
        return
    train, _ = split_rows(labels[:_SHIFT_HEAD], _MAX_TRAIN, 0, seed=seed)
    test = len(labels) + np.arange(len(shifted_labels))
    yield Condition("covariate_shift", None, seed, train, labels[train], test, shifted_labels)


_LISTINGS: dict[str, _Listing] = {
    "standard": _standard,
    "scarcity": _scarcity,
    "imbalance": _imbalance,
    "label_noise": _label_noise,
    "covariate_shift": _covariate_shift,
}

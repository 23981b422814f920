"""The study's regimes: which rows train and which rows test, bit for bit.

All draws come from numpy's legacy generator, whose `choice(replace=False)` consumes one whole
permutation of what it draws from. For a fixed task and seed the training sets are therefore nested
in their size and in their positive fraction, and flipped labels are nested in the fraction flipped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from probejax.inputs import binary
from probejax.tasks.plans import REGIMES as REGIMES
from probejax.tasks.plans import SHIFT_HEAD, lacking, plans


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
    labels: Shaped[np.ndarray, " n"],
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
        ValueError: a size or the fraction is out of range, a class has too few rows, or a label is
            neither 0 nor 1.
    """
    labels = binary(labels)
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
                    f"{len(pool)} are left; draw fewer rows, or add {kind} ones"
                )
        drawn = [rng.choice(p, n, replace=False) for p, n in zip(pools, wanted, strict=True)]
        pools = [np.setdiff1d(p, rows) for p, rows in zip(pools, drawn, strict=True)]
        parts.append(drawn)
    train, test = (rng.permutation(np.concatenate(drawn)) for drawn in parts)
    return train, test


def flip_labels(
    labels: Shaped[np.ndarray, " n"], fraction: float, seed: int = 42
) -> Int[np.ndarray, " n"]:
    """Returns a copy of `labels` with int(n * fraction) of them flipped, whatever their class.

    Args:
        labels: zeros and ones.
        fraction: share to flip, from 0 to 1; the flips of a smaller share are among those of a
            larger one.
        seed: of numpy's legacy generator; the study uses 42.

    Raises:
        ValueError: the fraction is out of range, or a label is neither 0 nor 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"cannot flip a fraction {fraction} of the labels; expected 0 to 1")
    rng = np.random.RandomState(seed)
    flipped = binary(labels)  # a copy
    rows = rng.choice(len(labels), int(len(labels) * fraction), replace=False)
    flipped[rows] = 1 - flipped[rows]
    return flipped


def conditions(
    labels: Shaped[np.ndarray, " n"],
    regimes: Sequence[str],
    seeds: Sequence[int] = (42,),
    shifted_labels: Shaped[np.ndarray, " s"] | None = None,
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
        ValueError: a regime does not exist, the task is too small or unbalanced for one, a label is
            neither 0 nor 1, or a seed is out of range.
    """
    labels = binary(labels)
    shifted_labels = None if shifted_labels is None else binary(shifted_labels)
    for regime in regimes:
        if reason := lacking(regime, labels, shifted_labels):
            raise ValueError(f"{regime}: the task {reason}")
    for seed in seeds:
        check_seed(seed)
    return [
        condition
        for regime in regimes
        for seed in seeds
        for condition in _drawn(regime, labels, seed, shifted_labels)
    ]


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that is out of range."""
    if not 0 <= seed < 2**31:
        raise ValueError(f"the seed {seed} is out of range; expected 0 to {2**31 - 1:,}")


def _drawn(
    regime: str, labels: np.ndarray, seed: int, shifted: np.ndarray | None
) -> Iterator[Condition]:
    """Draws the conditions of a regime, for one seed."""
    if regime == "covariate_shift" and shifted is None:
        return
    for plan in plans(regime, labels):
        some = labels[:SHIFT_HEAD] if regime == "covariate_shift" else labels
        train, test = split_rows(some, plan.train, plan.test, plan.positive, seed)
        y_train, y_test = labels[train], labels[test]
        if regime == "label_noise":
            assert plan.level is not None, "noise has levels"
            y_train = flip_labels(y_train, plan.level, seed)
        if shifted is not None and regime == "covariate_shift":
            test, y_test = len(labels) + np.arange(len(shifted)), shifted
        yield Condition(regime, plan.level, seed, train, y_train, test, y_test)

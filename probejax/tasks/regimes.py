"""The regimes: what each is called, what its levels are, and how it draws from own data.

To add one, write a function that draws and a line in `ALL_REGIMES`. The study's tasks are drawn as
the study has it (`plans`, `splits`); everything else as follows, for each seed:

- The rows of either label are shuffled once. Test rows are taken from the front and training rows
  from the back, both by the data's own share of label 1. So all regimes have the same test rows,
  and smaller training sets are parts of larger ones.
- A quarter of n rows is for testing: of fewer than 80 rows 20, of fewer than 40 half. Training sets
  have at most 1,024 rows; what these leave is for testing, too, up to 4,096 rows.
- A training set has at least two rows of either label (one, if it has two or three rows); its
  order spreads them evenly, so that the part of it that validates has its share of both.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from probejax.tasks.plans import (
    IMBALANCE_FRACTIONS,
    MAX_TRAIN,
    NOISE_FRACTIONS,
    SCARCITY_SIZES,
)
from probejax.tasks.splits import Condition, flip_labels

MAX_TEST = 4096
MAX_GROUPS = 100
_LEAST_TEST = 20
_LEAST = 2  # rows of either label in a training set of four or more
_LEAST_IMBALANCED = 40  # rows, test and training together, from which a share of 5 % makes sense


class Pool(NamedTuple):
    """What a task can be drawn from.

    Attributes:
        labels: zeros and ones.
        names: what labels 0 and 1 are called.
        shifted: labels of the shifted test set, whose rows follow the task's; None without one.
        groups: the group of each row; empty without groups.
    """

    labels: Int[np.ndarray, " n"]
    names: tuple[str, str] = ("0", "1")
    shifted: Int[np.ndarray, " s"] | None = None
    groups: tuple[str, ...] = ()


class Drawn(NamedTuple):
    """The conditions of a regime for one seed, and a line for each that cannot be had."""

    conditions: list[Condition]
    left_out: tuple[str, ...] = ()


class Regime(NamedTuple):
    """A regime.

    Attributes:
        draw: returns the conditions of a pool for a seed.
        title: its name as a heading.
        axis: what its levels are; empty if it has one alone.
        level: how a level is written, a format specification.
        short: its name where there is little room.
    """

    draw: Callable[[Pool, int], Drawn]
    title: str
    axis: str = ""
    level: str = "g"
    short: str = ""


def _standard(pool: Pool, seed: int) -> Drawn:
    test, train = _sizes(len(pool.labels))
    return _own_balance(pool, seed, "standard", test, {None: train})


def _scarcity(pool: Pool, seed: int) -> Drawn:
    test, train = _sizes(len(pool.labels))
    levels = {float(size): size for size in SCARCITY_SIZES if size <= train}
    return _own_balance(pool, seed, "scarcity", test, levels)


def _label_noise(pool: Pool, seed: int) -> Drawn:
    conditions, left_out = _standard(pool, seed)
    noisy = [
        dataclasses.replace(
            c, regime="label_noise", level=each, y_train=flip_labels(c.y_train, each, seed)
        )
        for c in conditions
        for each in NOISE_FRACTIONS
    ]
    return Drawn(noisy, left_out)


def _imbalance(pool: Pool, seed: int) -> Drawn:
    """Draws equally many rows at every share of label 1 that both labels can fill.

    As many as the rarer label fills when it makes up 95 %, but 40 at least. A share of so few
    training rows that it is fewer than two of them is left out: it would be another share.
    """
    rows = _shuffled(pool.labels, seed)
    fewest = min(map(len, rows))
    n = min(max(_LEAST_IMBALANCED, int((fewest - 1) / 0.95)), MAX_TRAIN + MAX_TEST)
    test, train = _sizes(n)
    found = []
    for level in IMBALANCE_FRACTIONS:
        front, back = _counts(test, level, 1), _counts(train, level, _LEAST)
        is_share = back == _counts(train, level, 0)
        if is_share and all(
            f + b <= len(each) for f, b, each in zip(front, back, rows, strict=True)
        ):
            found.append(_condition("imbalance", level, seed, pool.labels, rows, front, back))
    where = f"of {pool.names[1]!r} among {n} rows, drawn from {_have(pool)}"
    if len(found) < 2:
        return Drawn([], (f"there are no two shares {where}",))
    if len(found) < len(IMBALANCE_FRACTIONS):
        low, high = (f"{100 * found[end].level:.0f}" for end in (0, -1))
        return Drawn(found, (f"it has only shares from {low} to {high} % {where}",))
    return Drawn(found)


def _covariate_shift(pool: Pool, seed: int) -> Drawn:
    """Trains on up to 1,024 rows of the task, and tests on up to 4,096 of its shifted test set."""
    if pool.shifted is None:
        return Drawn([])
    inside = len(pool.labels) + np.arange(len(pool.shifted))
    labels = np.concatenate([pool.labels, pool.shifted])
    return _apart(pool, labels, np.arange(len(pool.labels)), inside, None, seed, "covariate_shift")


def _group_shift(pool: Pool, seed: int) -> Drawn:
    """Holds out each group once; the level is its place among the names, sorted."""
    if not pool.groups:
        return Drawn([])
    names, which = np.unique(pool.groups, return_inverse=True)
    if len(names) > MAX_GROUPS:
        return Drawn([], (f"there are {len(names):,} groups, more than {MAX_GROUPS}",))
    found, left_out = [], []
    for level, name in enumerate(names.tolist()):
        rest, group = np.flatnonzero(which != level), np.flatnonzero(which == level)
        drawn = _apart(pool, pool.labels, rest, group, float(level), seed, "group_shift")
        found += drawn.conditions
        left_out += [f"group {name!r}: {why}" for why in drawn.left_out]
    return Drawn(found, tuple(left_out))


ALL_REGIMES = {
    "standard": Regime(_standard, "Standard conditions"),
    "scarcity": Regime(_scarcity, "Data scarcity", "training examples"),
    "imbalance": Regime(
        _imbalance, "Class imbalance", "share of positives, in training and test", ".0%"
    ),
    "label_noise": Regime(
        _label_noise, "Label noise", "share of training labels flipped", ".0%", "noise"
    ),
    "covariate_shift": Regime(_covariate_shift, "Covariate shift", short="shift"),
    "group_shift": Regime(_group_shift, "Group shift", "group held out", short="groups"),
}  # fmt: skip
"""All regimes by name, in the order of reports."""


def _sizes(n: int) -> tuple[int, int]:
    """Returns how many of n rows test, and how many train."""
    test = min(max(n // 4, min(_LEAST_TEST, n // 2), n - MAX_TRAIN), MAX_TEST)
    return test, min(n - test, MAX_TRAIN)


def _own_balance(pool: Pool, seed: int, regime: str, test: int, levels: dict) -> Drawn:
    """Draws training sets of some sizes, and one test set, by the share that the pool has."""
    rows = _shuffled(pool.labels, seed)
    least = 2 * _LEAST  # two to train on, two to test on
    if min(map(len, rows)) < least:
        return Drawn([], (f"it needs {least} of either class and has {_have(pool)}",))
    most = (len(rows[0]) - _LEAST, len(rows[1]) - _LEAST)
    front = _counts(test, _share(rows), _LEAST, most)
    rest = [each[count:] for each, count in zip(rows, front, strict=True)]
    found = [
        _condition(
            regime, level, seed, pool.labels, rows, front, _counts(size, _share(rest), _LEAST)
        )
        for level, size in levels.items()
    ]
    return Drawn(found)


def _apart(
    pool: Pool, labels: np.ndarray, outside, inside, level: float | None, seed: int, regime: str
) -> Drawn:
    """Draws training rows from some rows and test rows from others, each by their own share."""
    back, front = (
        [rows[each] for each in _shuffled(labels[rows], seed)] for rows in (outside, inside)
    )
    for what, rows in (("to test on", front), ("to train on", back)):
        if min(map(len, rows)) < _LEAST:
            counts = " and ".join(
                f"{len(r)} of {n!r}" for r, n in zip(rows, pool.names, strict=True)
            )
            return Drawn([], (f"it needs {_LEAST} of either class {what} and has {counts}",))
    test = _counts(min(len(inside), MAX_TEST), _share(front), _LEAST)
    train = _counts(min(len(outside), MAX_TRAIN), _share(back), _LEAST)
    rows = [np.concatenate(each) for each in zip(front, back, strict=True)]
    return Drawn([_condition(regime, level, seed, labels, rows, test, train)])


def _shuffled(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Returns the rows of label 0 and of label 1, in the order of the seed."""
    rng = np.random.RandomState(seed)
    return [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]


def _share(rows: list[np.ndarray]) -> float:
    return len(rows[1]) / (len(rows[0]) + len(rows[1]))


def _counts(
    size: int, share: float, least: int, most: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Returns how many rows of label 0 and 1 there are among `size`, at least so many of each."""
    least = min(least, size // 2)
    ones = min(max(int(share * size + 0.5), least), size - least)
    if most:
        ones = min(max(ones, size - most[0]), most[1])
    return size - ones, ones


def _condition(regime, level, seed, labels, rows, front, back) -> Condition:
    """Makes a condition that tests on so many rows of each label from the front, as above."""
    test = np.concatenate([each[:count] for each, count in zip(rows, front, strict=True)])
    parts = [each[len(each) - count :][::-1] for each, count in zip(rows, back, strict=True)]
    places = np.concatenate([np.arange(1, len(part) + 1) / len(part) for part in parts])
    train = np.concatenate(parts)[np.argsort(places, kind="stable")]
    return Condition(regime, level, seed, train, labels[train], test, labels[test])


def _have(pool: Pool) -> str:
    counts = np.bincount(pool.labels, minlength=2).tolist()
    return " and ".join(f"{n:,} of {name!r}" for n, name in zip(counts, pool.names, strict=True))

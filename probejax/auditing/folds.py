"""Folds in which equal prompts stay together: no probe judges a row whose prompt it has seen."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from probejax.probes.rows import Rows, batches
from probejax.tasks import Condition

FOLDS = 5
MOST_TRAIN = 8192  # rows that a fold trains on; of more, as many are drawn
_TOGETHER = 1 << 17  # training rows, padding included, that are fitted together at most


class Fold(NamedTuple):
    """One cut of a dataset.

    Attributes:
      train: [m] rows to train on.
      val: [m] which of them validate, to choose the strength of the regularisation.
      test: [t] rows to be judged.
    """

    train: Int[np.ndarray, " m"]
    val: Bool[np.ndarray, " m"]
    test: Int[np.ndarray, " t"]


def folds(
    y: Int[np.ndarray, " n"], same: Int[np.ndarray, " n"], repeats: int = 1, seed: int = 0
) -> list[Fold]:
    """Cuts a dataset into five stratified folds, some times over.

    A fifth of a fold's training rows validates. Rows of one prompt are never on two sides, of
    either cut.

    Args:
      y: labels, 0 or 1.
      same: a number for each prompt, the same for equal ones.
      repeats: how often; each row is judged once in each.
      seed: of the shuffles.

    Returns:
      The folds, five of a repeat after five of another.
    """
    return [
        _inner(y, same, train, test, seed + repeat)
        for repeat in range(repeats)
        for train, test in split(y, same, FOLDS, seed + repeat)
    ]


def _inner(y, same, train, test, seed: int) -> Fold:
    rng = np.random.RandomState(seed)
    train = np.sort(rng.permutation(train)[:MOST_TRAIN])
    val = np.zeros(len(train), bool)
    val[next(split(y[train], same[train], FOLDS, seed))[1]] = True
    return Fold(train, val, test)


def split(
    y: Int[np.ndarray, " n"], same: Int[np.ndarray, " n"], count: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields which rows are on either side of each of so many stratified cuts.

    Args:
      y: labels, 0 or 1.
      same: a number for each prompt, which is on one side alone.
      count: of parts; each is the second side once.
      seed: of the shuffle.
    """
    _, unit, sizes = np.unique(same, return_inverse=True, return_counts=True)
    kinds = np.stack([-sizes, np.bincount(unit, y).astype(int)], axis=1)
    rng = np.random.RandomState(seed)
    part, filled = np.zeros(len(sizes), int), np.zeros((2, count), int)
    # Prompts of as many rows of either label are dealt out in turn, the largest first, and what is
    # left of a round goes where there are fewest rows of their label, or else fewest rows.
    for kind in np.unique(kinds, axis=0):
        own = rng.permutation(np.flatnonzero((kinds == kind).all(axis=1)))
        size, ones = -kind[0], kind[1]
        turn = np.lexsort((filled.sum(axis=0), filled[int(2 * ones > size)]))
        part[own] = np.resize(turn, len(own))
        dealt = np.bincount(part[own], minlength=count)
        filled += np.stack([(size - ones) * dealt, ones * dealt])
    for number in range(count):
        second = part[unit] == number
        yield np.flatnonzero(~second), np.flatnonzero(second)


def lanes(cuts: list[Fold], labels: Int[np.ndarray, "L n"]) -> list[tuple[tuple[int, ...], Rows]]:
    """Packs one fit per fold into batches of lanes.

    Args:
      cuts: L folds.
      labels: the labels of the whole dataset, for each of them.

    Returns:
      For every batch, which folds its lanes are, and their rows; no row is tested, since logits of
      all rows are asked of the fitted probes.
    """
    none = np.zeros(0, int)
    conditions = [
        Condition("audit", None, number, cut.train, y[cut.train], none, none)
        for number, (cut, y) in enumerate(zip(cuts, labels, strict=True))
    ]
    return batches(
        conditions, most_rows=_TOGETHER, folds=lambda condition: cuts[condition.seed].val[None]
    )

"""Conditions as padded lanes: what every probe takes beside the feature matrix."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from probejax import inputs, sizes
from probejax.probes.folds import paper_folds
from probejax.tasks.splits import Condition

FoldRule = Callable[[Condition], np.ndarray]


def paper_rule(condition: Condition) -> np.ndarray:
    """Returns the study's folds of a condition, see `paper_folds`."""
    return paper_folds(condition.y_train, condition.seed)


class Rows(NamedTuple):
    """Rows of one feature matrix for L lanes, each padded with row 0 and mask False.

    `val[l, f]` marks the validation rows of fold f of lane l; the fold trains on
    `train_mask[l] & ~val[l, f]`. Folds where `fold_mask` is False are padding. `seed` is the lane's
    condition's, for methods that draw.
    """

    train: Int32[np.ndarray, "L n"]
    train_mask: Bool[np.ndarray, "L n"]
    y_train: Int32[np.ndarray, "L n"]
    val: Bool[np.ndarray, "L F n"]
    fold_mask: Bool[np.ndarray, "L F"]
    test: Int32[np.ndarray, "L m"]
    test_mask: Bool[np.ndarray, "L m"]
    y_test: Int32[np.ndarray, "L m"]
    seed: Int32[np.ndarray, " L"]


def batches(
    conditions: Sequence[Condition],
    groups: Sequence[int] | None = None,
    most_rows: int | None = None,
    folds: FoldRule = paper_rule,
) -> list[tuple[tuple[int, ...], Rows]]:
    """Packs conditions into batches of lanes, by padded training size.

    Args:
        conditions: what to fit; the order within a batch is theirs.
        groups: the padded training sizes; `sizes.TRAIN` when None. Beyond the largest, sizes grow
            by an eighth at a time.
        most_rows: training rows of a batch at most, padding included; None is no limit.
        folds: which rows of a condition validate, one line per fold.

    Returns:
        For every batch, by rising size: which conditions the lanes are, as indices into
        `conditions`, and their rows.

    Raises:
        ValueError: a condition has not as many labels as rows, a label that is neither 0 nor 1, or
            a row number that is none.
    """
    conditions = [_checked(condition) for condition in conditions]
    groups = sorted(sizes.TRAIN if groups is None else groups)
    members: dict[int, list[int]] = {}
    for index, condition in enumerate(conditions):
        members.setdefault(sizes.up(len(condition.train), groups), []).append(index)
    longest = max((len(condition.test) for condition in conditions), default=0)
    m = sizes.up(longest, sizes.TEST) if longest else 0
    found = []
    for size, lanes in sorted(members.items()):
        most = len(lanes) if most_rows is None else max(1, most_rows // size)
        for start in range(0, len(lanes), max(1, most)):
            part = tuple(lanes[start : start + most])
            found.append((part, _pack([conditions[lane] for lane in part], size, m, folds)))
    return found


def _checked(condition: Condition) -> Condition:
    """Returns a condition with its labels as whole numbers."""
    found = {}
    for rows, labels in (("train", "y_train"), ("test", "y_test")):
        every, found[labels] = inputs.lanes(
            np.ones(np.shape(getattr(condition, rows)), bool), getattr(condition, labels)
        )
        inputs.within(getattr(condition, rows), every, 2**31)
    return dataclasses.replace(condition, **found)


def _pack(conditions: list[Condition], n: int, m: int, rule: FoldRule) -> Rows:
    folds = [rule(condition) for condition in conditions]
    f = max(len(masks) for masks in folds)
    lanes = len(conditions)
    rows = Rows(
        train=np.zeros((lanes, n), np.int32),
        train_mask=np.zeros((lanes, n), bool),
        y_train=np.zeros((lanes, n), np.int32),
        val=np.zeros((lanes, f, n), bool),
        fold_mask=np.zeros((lanes, f), bool),
        test=np.zeros((lanes, m), np.int32),
        test_mask=np.zeros((lanes, m), bool),
        y_test=np.zeros((lanes, m), np.int32),
        seed=np.array([condition.seed for condition in conditions], np.int32),
    )
    for lane, (condition, masks) in enumerate(zip(conditions, folds, strict=True)):
        trained, tested = len(condition.train), len(condition.test)
        rows.train[lane, :trained] = condition.train
        rows.train_mask[lane, :trained] = True
        rows.y_train[lane, :trained] = condition.y_train
        rows.val[lane, : len(masks), :trained] = masks
        rows.fold_mask[lane, : len(masks)] = True
        rows.test[lane, :tested] = condition.test
        rows.test_mask[lane, :tested] = True
        rows.y_test[lane, :tested] = condition.y_test
    return rows

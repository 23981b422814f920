"""One task at one layer, ready for every method."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax import probes
from probejax.activations.ragged import Activations
from probejax.tasks import Condition, Task


class Lanes(NamedTuple):
    """Conditions packed for fitting; those that are the same fit share a lane.

    The standard condition, the largest scarcity and no noise are such.

    Attributes:
      conditions: [C], what is asked for.
      batches: for every padded size, the fits that are its lanes, and their rows.
      fit_of: [C], which fit each condition is.
    """

    conditions: list[Condition]
    batches: list[tuple[tuple[int, ...], probes.Rows]]
    fit_of: np.ndarray


class TaskData(NamedTuple):
    """One task at one layer.

    Attributes:
      conditions: what is fitted.
      features: [N, d_model] float32: the last token of the task's prompts, then of the shifted ones
        if there are any.
      groups: the names of the task's groups, sorted; empty without groups.
      task: the task's prompts, of which a shifted test set is none.
      rows: which rows of the whole task these are.
      tokens: all tokens of the same prompts, on the disk; None if no method reads them.
    """

    conditions: list[Condition]
    features: Float[np.ndarray, "N d_model"]
    task: Task
    rows: Int[np.ndarray, " n"]
    groups: tuple[str, ...] = ()
    tokens: Activations | None = None


def pack(conditions: list[Condition], most_rows: int | None = None) -> Lanes:
    """Packs conditions into lanes, of at most so many training rows in a batch."""
    places: dict[tuple, int] = {}
    distinct, fit_of = [], []
    for c in conditions:
        arrays = (c.train, c.y_train, c.test, c.y_test)
        key = (c.seed, *(array.tobytes() for array in arrays))
        if places.setdefault(key, len(distinct)) == len(distinct):
            distinct.append(c)
        fit_of.append(places[key])
    return Lanes(conditions, probes.batches(distinct, most_rows=most_rows), np.array(fit_of, int))


def shuffle(conditions: Sequence[Condition]) -> list[Condition]:
    """Returns the conditions with their training labels permuted, each by its seed."""
    return [
        dataclasses.replace(c, y_train=np.random.RandomState(c.seed).permutation(c.y_train))
        for c in conditions
    ]

"""The independent units of a dataset: rows of one prompt, which no split and no shuffle parts."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from probejax.tasks import digests


def of(x: Float[np.ndarray, "n d"], texts: Sequence[str] | None) -> Int[np.ndarray, " n"]:
    """Returns a number for each row, the same for rows of one prompt.

    Rows are of one prompt where their texts are equal, or their activations: a model that reads
    the last tokens of two long texts may see one text. So are rows that a third one ties together.

    Args:
      x: activations.
      texts: the prompts, where they are known.
    """
    by_x = equal(digests(x))
    if texts is None:
        return by_x
    by_text = len(x) + equal(texts)
    edges = sparse.coo_array((np.ones(len(x)), (by_x, by_text)), shape=(2 * len(x), 2 * len(x)))
    _, component = connected_components(edges, directed=False)
    return equal(component[by_x].tolist())


def equal(things: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Returns a number for each thing, such as a text, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(thing, len(numbers)) for thing in things], int)


def multiplicity(same: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Returns for each row how many rows its unit has."""
    _, unit, counts = np.unique(same, return_inverse=True, return_counts=True)
    return counts[unit]


def shuffled(
    values: Shaped[np.ndarray, " n"],
    same: Int[np.ndarray, " n"],
    count: int,
    seed: int = 0,
    y: Int[np.ndarray, " n"] | None = None,
) -> Shaped[np.ndarray, "q n"]:
    """Permutes what is known of rows, whole units among those that have as many rows.

    What the rows of a unit have, its copies' labels for one, stays together: an order that tears
    copies apart has far more independent labels than the data, and chance comes out too small.
    Where every prompt is distinct these are plain permutations.

    Args:
      values: of each row.
      same: a number for each unit.
      count: how many permutations.
      seed: of them.
      y: labels 0 and 1, where what a row's label is has to stay as it is: units are permuted among
        those that have as many ones.
    """
    rng = np.random.RandomState(seed)
    found = np.tile(values, (count, 1))
    for each in found:
        for rows in _by_size(same):
            ones = y[rows].sum(axis=1) if y is not None else np.zeros(len(rows), int)
            for alike in (rows[ones == number] for number in np.unique(ones)):
                each[alike] = values[alike[rng.permutation(len(alike))]]
    return found


def stuck(values: Shaped[np.ndarray, " n"], same: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Tells which rows `shuffled` never changes: all units of their size have the same values."""
    found = np.zeros(len(values), bool)
    for rows in _by_size(same):
        found[rows] = (values[rows] == values[rows[:1]]).all()
    return found


def _by_size(same: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, "units size"]]:
    """Returns the rows of each unit, units of one size together, those that come first first."""
    _, first, unit, counts = np.unique(
        same, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first[unit], kind="stable")
    sizes = counts[unit][order]
    return [order[sizes == size].reshape(-1, size) for size in np.unique(counts)]

"""Lanes, some at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable, lanes: tuple, batch: int) -> Any:
    """Applies a function of lanes to one batch of them after the other; the result is NumPy's.

    However many lanes there are, so many go together, of which some may be spare: one program
    gives a lane the same numbers in whatever company.
    """
    count = len(lanes[0])

    def piece(begin):
        which = np.arange(begin, begin + batch)
        which[which >= count] = begin  # spare slots repeat a lane
        found = function(*jax.tree.map(lambda leaf: leaf[which], lanes))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: count - begin], found)

    pieces = map(piece, range(0, count, batch))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)

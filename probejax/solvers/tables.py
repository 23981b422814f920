"""Rows of one table for many lanes: an accelerator is sent the table once, then row numbers.

The lanes of a task are hundreds of choices among the same few thousand rows. On a CPU NumPy picks
them; a device with a memory of its own keeps a copy of the table as long as the table lives.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from probejax import devices, sizes

_copies: dict[tuple, Array] = {}
_copying = threading.Lock()
_only_shapes: ContextVar[bool] = ContextVar("only_shapes", default=False)


def rows(
    table: Float[np.ndarray, "N d"], numbers: Int[np.ndarray, "L n"]
) -> Float[Array | np.ndarray, "L n d"]:
    """Returns table[numbers], where programs read it.

    Args:
        table: never changed after this.
        numbers: of its rows, which exist.
    """
    there = _there(table)
    return table[numbers] if there is None else _rows(there, numbers)


def squares(
    products: Float[np.ndarray, "N N"], numbers: Int[np.ndarray, "L n"]
) -> Float[Array | np.ndarray, "L n n"]:
    """Returns the inner products of some rows with each other, from those of all with all."""
    there = _there(products)
    if there is None:
        return products[numbers[:, :, None], numbers[:, None, :]]
    return _squares(there, numbers)


@contextlib.contextmanager
def only_shapes() -> Iterator[None]:
    """Sends nothing anywhere: who loads rows meanwhile asks for their shapes."""
    before = _only_shapes.set(True)
    try:
        yield
    finally:
        _only_shapes.reset(before)


def _there(table: np.ndarray) -> Array | None:
    """Returns the copy of a table on this thread's device, None where programs read the host's."""
    if not devices.apart() or _only_shapes.get():
        return None
    kind = jax.dtypes.canonicalize_dtype(table.dtype)  # float64 only where that is enabled
    key = id(table), devices.own()[0], kind
    with _copying:
        if key not in _copies:
            spare = sizes.up(len(table), sizes.TABLE) - len(table)
            padded = np.pad(table, ((0, spare), *((0, 0),) * (table.ndim - 1)))
            _copies[key] = jax.device_put(padded)
            weakref.finalize(table, _copies.pop, key, None)
        return _copies[key]


@jax.jit
def _rows(table, numbers):
    return table.at[numbers].get(mode="promise_in_bounds")


@jax.jit
def _squares(products, numbers):
    """Whole rows, then whole rows of what is left: a TPU picks single numbers slowly."""

    def square(own):
        some = products.at[own].get(mode="promise_in_bounds").T
        return some.at[own].get(mode="promise_in_bounds")

    return jax.vmap(square)(numbers)

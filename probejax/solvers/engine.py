"""The driver of lanes: whoever has many problems of one form hands them over here.

Lanes go together in batches of a fixed width, so that one program serves any number of them and
gives a lane the same numbers in whatever company; spare slots of a batch repeat a lane. Where there
are more of them than a batch holds, all devices that the thread uses take a batch each, side by
side: what is called must be compiled by `spread.over_lanes`.

- `each`: one call of a function per batch.
- `drive`: problems that end at different times. A slot whose lane has ended takes the next one.
- `distinct`: lanes that ask for the same thing are worked on once.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from probejax import devices

_States = TypeVar("_States")


def each(
    function: Callable, lanes: Any, width: int, threads: int = 1, *, spread: bool = True
) -> Any:
    """Applies a function to one batch of lanes after the other.

    Several threads pay where the work is numpy's in part. Work that ends in LAPACK must have one:
    jaxlib 0.10 factors a batch of matrices in a thread of XLA's pool that waits for others of that
    pool, and two batches at once wait for ever.

    Args:
        function: is given `lanes` with `width` of them, the leaves as separate arguments if it is a
            tuple.
        lanes: a pytree of arrays on the host with L lanes first.
        width: lanes of a batch on a device.
        threads: that work.
        spread: whether devices may share the work; not where the function is no program of lanes.

    Returns:
        What the function returns, its leaves as NumPy arrays with L lanes first; a list of lists
        becomes one list.
    """
    count = len(jax.tree.leaves(lanes)[0])
    device, share = _shared(count, width) if spread else (_default(), 1)
    width *= share

    def piece(begin: int):
        which = np.arange(begin, begin + width)
        which[which >= count] = begin
        some = jax.tree.map(lambda leaf: leaf[which], lanes)
        with jax.default_device(device):
            found = function(*some) if isinstance(some, tuple) else function(some)
        if isinstance(found, list):
            return found[: count - begin]
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: count - begin], found)

    begins = range(0, count, width)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            pieces = list(pool.map(piece, begins))
    else:
        pieces = list(map(piece, begins))
    if isinstance(pieces[0], list):
        return [entry for part in pieces for entry in part]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def drive(
    advance: Callable[[Int[np.ndarray, " w"], _States, int, int], tuple[_States, Any]],
    states: _States,
    live: Int[np.ndarray, " r"],
    widths: Sequence[int],
) -> _States:
    """Runs lanes to their ends, the widest batch at a time.

    Args:
        advance: given the lane in each slot, their states, how many lanes wait and how many the
            next narrower batch holds (0 where there is none), returns the states some steps later
            and which of the slots still run. It decides how long to go on; while none waits it
            may stop when the narrower batch would do.
        states: of all lanes, a pytree with L lanes first.
        live: the lanes to run, in the order in which they shall begin.
        widths: how many slots a batch may have on a device, rising: few, as each is a program.

    Returns:
        The states of all lanes at their ends.
    """
    busy, waiting = np.zeros(0, int), np.asarray(live, int)
    device, share = _shared(len(waiting), widths[-1])
    widths = [0, *(share * width for width in widths)]
    with jax.default_device(device):
        while len(busy) + len(waiting):
            room = widths[-1] - len(busy)
            busy, waiting = np.append(busy, waiting[:room]), waiting[room:]
            place = next(i for i, width in enumerate(widths) if width >= len(busy))
            slots = np.resize(busy, widths[place])
            moved, running = advance(slots, take(states, slots), len(waiting), widths[place - 1])
            states = put(states, slots, moved)
            busy = busy[np.asarray(running)[: len(busy)]]
    return states


def _shared(count: int, width: int) -> tuple[Any, int]:
    """Returns where so many lanes run, and on how many devices: on one if its batch holds them."""
    places = devices.own()
    if count > width or len(places) == 1:
        return _default(), len(places)
    return places[0], 1


def _default() -> Any:
    """Returns the device that this thread has been given; threads do not inherit it."""
    return jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]


def distinct(*fields: Iterable[np.ndarray]) -> list[list[int]]:
    """Returns groups of lanes at which all fields hold the same arrays."""
    places: dict[bytes, list[int]] = {}
    for index, arrays in enumerate(zip(*fields, strict=True)):
        places.setdefault(b"".join(array.tobytes() for array in arrays), []).append(index)
    return list(places.values())


def once(
    function: Callable, fields: Sequence[np.ndarray], width: int, *, spread: bool = True
) -> tuple[Any, Int[np.ndarray, " L"]]:
    """Applies a function to lanes, once where they are alike.

    Args:
        function: is given the numbers [width] of some lanes that differ.
        fields: what makes lanes alike, each [L, ...].
        width: lanes of a batch, see `each`.
        spread: whether devices may share the work.

    Returns:
        What was found for every kind of lane, and the kind of each lane.
    """
    groups = distinct(*fields)
    kind = np.zeros(sum(map(len, groups)), int)
    for number, group in enumerate(groups):
        kind[group] = number
    firsts = np.array([group[0] for group in groups])
    return each(function, firsts, width, spread=spread), kind


def take(states: _States, slots: Int[np.ndarray, " w"]) -> _States:
    """Returns some lanes of all leaves; what is on the host stays there."""
    if _on_host(states):
        return jax.tree.map(lambda leaf: leaf[slots], states)
    return _take(states, slots)


def put(states: _States, slots: Int[np.ndarray, " w"], moved: _States) -> _States:
    """Writes lanes back, in place on the host; spare slots write what their lane's own does."""
    if not _on_host(states):
        return _put_there(states, slots, moved)
    jax.tree.map(lambda leaf, new: leaf.__setitem__(slots, np.asarray(new)), states, moved)
    return states


def _on_host(states) -> bool:
    return all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(states))


@jax.jit
def _take(states, slots):
    return jax.tree.map(lambda leaf: leaf[slots], states)


@functools.partial(jax.jit, donate_argnames="states")
def _put_there(states, slots, moved):
    return jax.tree.map(lambda leaf, new: leaf.at[slots].set(new), states, moved)

"""The driver of lanes: whoever has many problems of one form hands them over here.

Lanes go together in batches of a fixed width, so that one program serves any number of them and
gives a lane the same numbers in whatever company; spare slots of a batch repeat a lane. Programs of
`spread.over_lanes` go further: where there are more lanes than a batch holds, all devices that the
thread uses take a batch each, side by side, and lanes of tasks that work side by side go together,
see `meeting`.

- `each`: one call of a function per batch.
- `whole`: one call of a function for all lanes.
- `drive`: problems that end at different times. A slot whose lane has ended takes the next one.
- `distinct`: lanes that ask for the same thing are worked on once.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from probejax import devices, sizes
from probejax.solvers import meeting, tables
from probejax.solvers.spread import is_program

_States = TypeVar("_States")


class _Source(NamedTuple):
    """Lanes of one task.

    Attributes:
      lanes: a pytree of arrays on the host with L lanes first.
      load: returns, given some of the lanes, what the function is given of them; None is that.
    """

    lanes: Any
    load: Callable[..., Any] | None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.lanes)[0])

    def some(self, which: np.ndarray) -> Any:
        lanes = jax.tree.map(lambda leaf: leaf[which], self.lanes)
        if self.load is None:
            return lanes
        return self.load(*lanes) if isinstance(lanes, tuple) else self.load(lanes)


def each(
    function: Callable,
    lanes: Any,
    width: int,
    *shared: Any,
    load: Callable[..., Any] | None = None,
    threads: int = 1,
) -> Any:
    """Applies a function to one batch of lanes after the other.

    Several threads pay where the work is numpy's in part. Work that ends in LAPACK must have one:
    jaxlib 0.10 factors a batch of matrices in a thread of XLA's pool that waits for others of that
    pool, and two batches at once wait for ever.

    Args:
        function: is given `lanes` with `width` of them, the leaves as separate arguments if it is a
            tuple, then what is shared. Where it is a program of `over_lanes`, devices share the
            work, and tasks that work side by side do it together.
        lanes: a pytree of arrays on the host with L lanes first.
        width: lanes of a batch on a device.
        *shared: arguments that are the same for all lanes.
        load: returns what the function is given of some lanes, where that is not themselves but,
            for example, the rows whose numbers they are.
        threads: that work.

    Returns:
        What the function returns, its leaves as NumPy arrays with L lanes first; a list of lists
        becomes one list.
    """
    source = _Source(lanes, load)

    def compute(sources: list[_Source]) -> list[Any]:
        return _split(_in_batches(function, sources, width, shared, threads), sources)

    key = _key(function, width, shared, source)
    return meeting.ask(key, source, compute)


def whole(function: Callable, lanes: tuple, *shared: Any) -> Any:
    """Applies a function to all lanes at once, those of tasks that work side by side among them.

    Args:
        function: is given the lanes, then what is shared; gives a lane the same result in any
            company.
        lanes: pytrees of arrays on the host with L lanes first.
        *shared: what is the same for all.
    """
    source = _Source(lanes, None)

    def compute(sources: list[_Source]) -> list[Any]:
        every = source.lanes if len(sources) == 1 else _joined([each.lanes for each in sources])
        return _split(function(*every, *shared), sources)

    return meeting.ask(_key(function, None, shared, source), source, compute)


def _in_batches(function, sources: list[_Source], width: int, shared: tuple, threads: int) -> Any:
    ends = np.cumsum([len(source) for source in sources])
    count = int(ends[-1])
    device, share = _shared(count, width) if is_program(function) else (devices.default(), 1)
    width *= share

    def piece(begin: int):
        which = np.arange(begin, begin + width)
        which[which >= count] = begin
        with jax.default_device(device):
            some = _batch(sources, ends, which)
            found = function(*some, *shared) if isinstance(some, tuple) else function(some, *shared)
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


def _batch(sources: list[_Source], ends, which) -> Any:
    """Returns what the function is given of some lanes of all.

    Each source loads a whole batch, with its first lane in the places of others: so whatever is on
    a device has one shape, however many sources share the batch.
    """
    owner = np.searchsorted(ends, which, side="right")
    batch = None
    for number in np.unique(owner):
        mine, first = owner == number, ends[number] - len(sources[number])
        some = sources[number].some(np.where(mine, which - first, 0))
        merge = functools.partial(_merged, mine)
        batch = some if batch is None else jax.tree.map(merge, some, batch)
    return batch


def _merged(mine: np.ndarray, new, old):
    """Returns lanes of which some are new."""
    if not isinstance(new, np.ndarray):
        return _chosen(mine, new, old)
    return np.where(mine.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


@jax.jit
def _chosen(mine, new, old):
    return jax.vmap(jnp.where)(mine, new, old)


def _joined(trees: list[Any]) -> Any:
    """Returns lanes one after the other."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaf: np.concatenate(leaf), *trees)


def _split(found: Any, sources: list[_Source]) -> list[Any]:
    """Returns what was found for the lanes of each source."""
    if len(sources) == 1:
        return [found]
    ends = np.cumsum([len(source) for source in sources])
    parts = [range(end - len(source), end) for source, end in zip(sources, ends, strict=True)]
    if isinstance(found, list):
        return [[found[lane] for lane in part] for part in parts]
    return [take(found, np.array(part)) for part in parts]


def _key(function, width: int | None, shared: tuple, source: _Source) -> Hashable:
    """Returns what makes work the same, None where it is like no other."""
    if not meeting.seated() or (width is not None and not is_program(function)):
        return None
    settings, form = jax.tree.flatten(shared)
    if any(isinstance(leaf, jax.Array) for leaf in settings):
        return None  # on the device of one task
    values = tuple(
        (leaf.shape, leaf.dtype, leaf.tobytes())
        if isinstance(leaf, np.ndarray)
        else (type(leaf), leaf)
        for leaf in settings
    )
    with tables.only_shapes():
        leaves, tree = jax.tree.flatten(source.some(np.zeros(1, int)))
    shapes = tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
    return function, width, form, values, tree, shapes


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
        The states of all lanes at their ends. Meanwhile they stay on the device, see `settled`.
    """
    begun, count = states, len(jax.tree.leaves(states)[0])
    busy, waiting = np.zeros(0, int), np.asarray(live, int)
    device, share = _shared(len(waiting), widths[-1])
    widths = [0, *(share * width for width in widths)]
    with jax.default_device(device):
        states = settled(begun)
        sent = states is not begun
        while len(busy) + len(waiting):
            room = widths[-1] - len(busy)
            busy, waiting = np.append(busy, waiting[:room]), waiting[room:]
            place = next(i for i, width in enumerate(widths) if width >= len(busy))
            slots = np.resize(busy, widths[place])
            moved, running = advance(slots, take(states, slots), len(waiting), widths[place - 1])
            states = put(states, slots, moved)
            busy = busy[np.asarray(running)[: len(busy)]]
    return jax.tree.map(lambda leaf: np.array(leaf)[:count], states) if sent else states


def _shared(count: int, width: int) -> tuple[Any, int]:
    """Returns where so many lanes run, and on how many devices: on one if its batch holds them."""
    places = devices.own()
    if count > width or len(places) == 1:
        return devices.default(), len(places)
    return places[0], 1


def distinct(*fields: Iterable[np.ndarray]) -> list[list[int]]:
    """Returns groups of lanes at which all fields hold the same arrays."""
    places: dict[bytes, list[int]] = {}
    for index, arrays in enumerate(zip(*fields, strict=True)):
        places.setdefault(b"".join(array.tobytes() for array in arrays), []).append(index)
    return list(places.values())


def once(
    function: Callable,
    lanes: tuple[np.ndarray, ...],
    width: int,
    *shared: Any,
    load: Callable[..., Any] | None = None,
    threads: int = 1,
) -> tuple[Any, Int[np.ndarray, " L"]]:
    """Applies a function to lanes, once where they are alike.

    Args:
        function: as for `each`.
        lanes: what makes lanes alike, each [L, ...].
        width: lanes of a batch, see `each`.
        *shared: as for `each`.
        load: as for `each`.
        threads: as for `each`.

    Returns:
        What was found for every kind of lane, and the kind of each lane.
    """
    groups = distinct(*lanes)
    kind = np.zeros(sum(map(len, groups)), int)
    for number, group in enumerate(groups):
        kind[group] = number
    firsts = tuple(leaf[[group[0] for group in groups]] for leaf in lanes)
    return each(function, firsts, width, *shared, load=load, threads=threads), kind


def settled(lanes: _States) -> _States:
    """Sends lanes to a device that has a memory of its own, where `take` and `put` leave them.

    There are more of them then, up to a size that programs are compiled for. Where programs read
    the memory of the host, and where lanes are on a device already, they are returned as they are.
    """
    if not devices.apart() or not _on_host(lanes):
        return lanes
    count = len(jax.tree.leaves(lanes)[0])
    every = np.resize(np.arange(count), sizes.up(count, sizes.LANES))
    return jax.tree.map(lambda leaf: jax.device_put(leaf[every]), lanes)


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

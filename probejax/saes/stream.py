"""Streams over the width: latents block by block, on one device or shared among several.

Whatever the dictionary, a caller sees blocks of latents `[rows, block]` in the order of their
indices. A top-k dictionary is streamed twice: first for who wins in each row.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from probejax import sizes
from probejax.devices import own
from probejax.saes import winners
from probejax.saes.sae import SAE, Encoder, activate, pre_activations, prepare, strength
from probejax.saes.stored import StoredSAE
from probejax.saes.winners import Best, Keep
from probejax.solvers.engine import each

State = TypeVar("State")


@runtime_checkable
class Custom(Protocol):
    """Anything that encodes: `encode(x [n, d_model])` returns latents `[n, d_sae]`."""

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Returns the latents."""
        ...


Dictionary = SAE | StoredSAE | Custom


class Block(NamedTuple):
    """Some latents of all rows; the first has the index `start`."""

    start: int
    latents: Float[Array, "n b"]


def fold(
    sae: Dictionary,
    x: Num[Array, "n d_model"],
    begin: State,
    add: Callable[[State, Block], State],
    join: Callable[[State, State], State],
    *,
    block: int,
    devices: Sequence[Any] | None = None,
) -> State:
    """Folds over all blocks of latents.

    Each device takes a range of neighbouring blocks and the work on them overlaps; `join` then
    joins the states of two ranges, the lower one first.

    Args:
      sae: the dictionary.
      x: raw activations.
      begin: the state before any block.
      add: adds a block to a state; it should be jitted.
      join: joins two states.
      block: latents at a time.
      devices: where to compute; the default device when None.

    Raises:
      ValueError: a latent is not finite, of a dictionary that is not ours.
    """
    if not isinstance(sae, SAE | StoredSAE):
        dense = _dense(sae, x)
        if not np.isfinite(dense).all():
            latent = int(np.argmin(np.isfinite(dense).all(axis=0)))
            raise ValueError(
                f"latent {latent} of {type(sae).__name__} is NaN or infinite on a row, and cannot "
                "be ranked; expected finite latents of encode(x)"
            )
        starts = range(0, dense.shape[1], block)
        blocks = (Block(i, jnp.asarray(dense[:, i : i + block])) for i in starts)
        return functools.reduce(add, blocks, begin)
    won = row_winners(sae, x, block=block, devices=devices)

    def one(state: State, start: int, here: tuple) -> State:
        inputs, won = here
        encoder, index = _read(sae, start, block, inputs, state)
        return add(state, Block(start, _latents(encoder, sae.keep, inputs, won, index)))

    return _over(sae, begin, (prepared(sae, x), won), one, join, block, devices)


def row_winners(
    sae: SAE | StoredSAE,
    x: Num[Array | np.ndarray, "n d_model"],
    *,
    block: int,
    devices: Sequence[Any] | None = None,
) -> Int[Array, "n k"] | None:
    """Returns the winners of each row, None for a dictionary without competition."""
    keep = sae.keep
    if keep.kind == "all":
        return None

    def one(best: Best, start: int, inputs: Array) -> Best:
        encoder, index = _read(sae, start, block, inputs, best)
        return _winners(best, encoder, keep, inputs, index, sae.d_sae)

    begin, join = winners.begin(keep, len(x)), functools.partial(winners.join, keep)
    return _over(sae, begin, prepared(sae, x), one, join, block, devices).index


def columns(
    sae: Dictionary,
    x: Num[Array | np.ndarray, "n d_model"],
    latents: np.ndarray,
    *,
    block: int,
    devices: Sequence[Any] | None = None,
) -> Float[np.ndarray, "n m"]:
    """Returns the activations of some latents; of the others only who wins is computed.

    Raises:
      ValueError: a latent does not exist.
    """
    if not isinstance(sae, SAE | StoredSAE):
        dense = _dense(sae, x)
        _exist(latents, dense.shape[1])
        return dense[:, latents]
    _exist(latents, sae.d_sae)
    wanted, place = np.unique(latents, return_inverse=True)
    wanted = np.pad(wanted, (0, sizes.up(len(wanted), sizes.COLUMNS) - len(wanted)), mode="edge")
    won = row_winners(sae, x, block=block, devices=devices)
    encoder, index = jax.device_put((sae.columns(wanted), wanted.astype(np.int32)))

    def some(x, won=None):
        return _latents(encoder, sae.keep, prepared(sae, x), won, index)

    rows = (np.asarray(x),) if won is None else (np.asarray(x), np.asarray(won))
    return each(some, rows, sizes.BLOCK)[:, place]


def prepared(
    sae: SAE | StoredSAE, x: Num[Array | np.ndarray, "n d_model"]
) -> Float[Array, "n d_model"]:
    """Returns what the encoder's matrix reads."""
    if sae.center is None and sae.normalise == "none" and x.dtype == np.float32:
        return jax.device_put(x)
    return _prepared(sae.center, sae.normalise, x)


_prepared = jax.jit(prepare, static_argnums=1)


def width(sae: Dictionary, x: Num[Array | np.ndarray, "n d_model"]) -> int:
    """Returns the number of latents."""
    return sae.d_sae if isinstance(sae, SAE | StoredSAE) else _dense(sae, x[:1]).shape[1]


def _dense(sae: Custom, x: Num[Array | np.ndarray, "n d_model"]) -> np.ndarray:
    """Returns all latents of a dictionary that can do no less.

    Raises:
      ValueError: it does not encode to one row of latents for each row.
    """
    found = np.asarray(sae.encode(np.asarray(x)), np.float32)
    if found.ndim != 2 or len(found) != len(x):
        raise ValueError(
            f"encode(x) of {type(sae).__name__} made {found.shape} of {len(x)} rows; expected one "
            "row of latents for each, [n, d_sae]"
        )
    return found


def _exist(latents: np.ndarray, count: int) -> None:
    wrong = np.ravel(latents)[(np.ravel(latents) < 0) | (np.ravel(latents) >= count)]
    if len(wrong):
        raise ValueError(f"latent {wrong[0]} does not exist: the SAE has {count:,}, from 0 on")


def _read(
    sae: SAE | StoredSAE, start: int, block: int, inputs: Array, state: Any
) -> tuple[Encoder, Array]:
    """Reads a block while the device still works on the one before, and waits for that."""
    stop = min(start + block, sae.d_sae)
    index = np.arange(start, stop, dtype=np.int32)
    found = jax.device_put((sae.encoder(start, stop), index), inputs.device)
    jax.block_until_ready(state)  # or blocks would pile up in memory
    return found


def _over(
    sae: SAE | StoredSAE,
    begin: State,
    here: Any,
    one: Callable[[State, int, Any], State],
    join: Callable[[State, State], State],
    block: int,
    devices: Sequence[Any] | None,
) -> State:
    """Folds `one` over the starts of all blocks, a range of them on each device."""
    starts = range(0, sae.d_sae, block)
    places = list(devices or own()[:1])
    share = -(-len(starts) // len(places))
    ranges = [starts[i : i + share] for i in range(0, len(starts), share)]
    places = places[: len(ranges)]
    states = [jax.device_put(begin, place) for place in places]
    copies = [jax.device_put(here, place) for place in places]
    for together in itertools.zip_longest(*ranges):
        for i, start in enumerate(together):
            if start is not None:
                states[i] = one(states[i], start, copies[i])
    return functools.reduce(join, (jax.device_put(state, places[0]) for state in states))


@functools.partial(jax.jit, static_argnames="keep")
def _latents(encoder: Encoder, keep: Keep, inputs, won, index) -> Float[Array, "n b"]:
    return activate(encoder, keep, pre_activations(encoder, inputs), won, index)


@functools.partial(jax.jit, static_argnames=("keep", "d_sae"))
def _winners(best: Best, encoder: Encoder, keep: Keep, inputs, index, d_sae: int) -> Best:
    found = strength(encoder, keep, pre_activations(encoder, inputs))
    return winners.add(keep, best, found, index, d_sae)

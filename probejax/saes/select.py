"""Ranks latents by how far their class means lie apart, without ever holding all latents.

The width is streamed: encode a block of latents, compare the class means of every lane with two
matrix products, keep a running top k, drop the block.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import sizes
from probejax.saes import stream
from probejax.saes.stream import Block, Dictionary

Ranking = Literal["raw", "normalised", "random"]
"""What a run may rank by; `random`, a control, draws from the latents that fire."""
RANKINGS = get_args(Ranking)


class _Lanes(NamedTuple):
    """Training rows of each lane as weights over the rows of one matrix, [lanes, rows] each."""

    contrast: Array | np.ndarray  # 1/n1 on rows of class 1, -1/n0 on rows of class 0; float64
    member: Array | np.ndarray  # how often it is a training row; float32


class _Best(NamedTuple):
    """The best latents of each lane so far, best first."""

    score: Float[Array | np.ndarray, "lanes k"]  # float64
    index: Int[Array | np.ndarray, "lanes k"]


class Contest(NamedTuple):
    """A ranking over blocks of latents: fold `add` from `begin`; `join` joins two ranges.

    Attributes:
      rows: the rows of the feature matrix whose latents the blocks must hold, rising.
      begin: the state before any block; its `index` [lanes, k] is the result after the last, padded
        lanes behind the real ones.
      add: adds a block to a state.
      join: joins the states of two ranges of latents, the lower first.
    """

    rows: Int[np.ndarray, " n"]
    begin: _Best
    add: Callable[[_Best, Block], _Best]
    join: Callable[[_Best, _Best], _Best]


def top_latents(
    sae: Dictionary,
    x: Float[Array | np.ndarray, "n d_model"],
    train: Int[np.ndarray, "lanes rows"],
    mask: Bool[np.ndarray, "lanes rows"],
    labels: Int[np.ndarray, "lanes rows"],
    k: int,
    *,
    ranking: str = "normalised",
    block: int = 2048,
    devices: Sequence[Any] | None = None,
) -> Int[np.ndarray, "lanes k"]:
    """Returns the k latents of each lane whose class means differ most, best first.

    `raw` ranks by |mean over class 1 - mean over class 0| (the study's first version); `normalised`
    first divides each latent by its mean non-zero activation over the lane's training rows (the
    study's code since March 2025: sum / (count + 1e-6) + 1e-6). Equal scores go by index.

    Args:
      sae: the dictionary: loaded, in its file, or anything with `encode(x)`.
      x: one feature matrix; only its training rows are encoded.
      train: rows of `x` that each lane trains on.
      mask: False where `train` is padding.
      labels: labels of these rows, 0 or 1.
      k: latents to keep, at most `d_sae`.
      ranking: `raw`, `normalised` or `random`.
      block: latents encoded at a time.
      devices: where; each takes a part of the width. The default device when None.

    Raises:
      ValueError: k larger than the dictionary.
    """
    x = np.asarray(x)
    if k > (d_sae := stream.width(sae, x[:1])):
        raise ValueError(f"k={k} latents were asked for, but the SAE has only {d_sae}.")
    race = contest(train, mask, labels, k, ranking, sizes.RANKED)
    begin, add, join = race.begin, race.add, race.join
    own = jax.device_put(x[race.rows])
    best = stream.fold(sae, own, begin, add, join, block=block, devices=devices)
    return np.asarray(best.index)[: len(train)]


def contest(
    train: Int[np.ndarray, "lanes rows"],
    mask: Bool[np.ndarray, "lanes rows"],
    labels: Int[np.ndarray, "lanes rows"],
    k: int,
    ranking: str,
    padded: Sequence[int] = (),
) -> Contest:
    """Prepares the ranking of `top_latents` for whoever has the blocks; arguments as there.

    Both lanes and rows are padded, the lanes behind the real ones.

    Args:
      train: rows of each lane.
      mask: which of them count.
      labels: their labels.
      k: latents to keep.
      ranking: how to rank.
      padded: numbers of rows, to one of which the last row is repeated; by default not at all.

    Raises:
      ValueError: there is no such ranking.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"there is no ranking {ranking!r}; expected {' or '.join(RANKINGS)}")
    rows, inverse = np.unique(train[mask], return_inverse=True)
    count = len(train)
    if padded:
        rows = np.pad(rows, (0, sizes.up(len(rows), padded) - len(rows)), mode="edge")
    contrast = np.zeros((sizes.up(count, sizes.LANES), len(rows)))
    member = np.zeros(contrast.shape, np.float32)
    lane = np.nonzero(mask)[0]
    positive, count = (labels * mask).sum(axis=1), mask.sum(axis=1)
    share = np.where(
        labels == 1,
        1 / np.maximum(positive, 1)[:, None],
        -1 / np.maximum(count - positive, 1)[:, None],
    )
    np.add.at(contrast, (lane, inverse), share[mask])  # a row may stand in a lane twice
    np.add.at(member, (lane, inverse), 1)
    none = np.full((len(contrast), k), -1.0)
    with jax.enable_x64(True):
        lanes = jax.device_put(_Lanes(contrast, member))
        begin = jax.device_put(_Best(none, none.astype(np.int32)))

    def add(best, block):
        with jax.enable_x64(True):
            return _merge(best, block, lanes, ranking)

    def join(low, high):
        with jax.enable_x64(True):
            return _join(low, high)

    return Contest(rows, begin, add, join)


@functools.partial(jax.jit, static_argnames="ranking")
def _merge(best: _Best, block: Block, lanes: _Lanes, ranking: str) -> _Best:
    """Scores one block of latents and keeps the best k of those seen so far.

    In float64: where rows are few many latents have one score but for a millionth, and float32
    would leave their order to the rounding of the machine.
    """
    product = functools.partial(jnp.matmul, precision="highest")
    latents = block.latents.astype(jnp.float64)
    score = jnp.abs(product(lanes.contrast, latents))
    index = block.start + jnp.arange(score.shape[1], dtype=jnp.int32)[None, :]
    if ranking == "random":
        fired = product(lanes.member, (latents != 0).astype(jnp.float32)) > 0
        score = jnp.where(fired, _draw(index), -_draw(index)).astype(jnp.float64)
    if ranking == "normalised":
        fired = product(lanes.member, (latents != 0).astype(jnp.float32)).astype(jnp.float64)
        mean = product(lanes.member.astype(jnp.float64), latents) / (fired + 1e-6)
        score = score / (jnp.abs(mean) + 1e-6)  # the mean is negative only where latents are signed
    return _join(best, _Best(score, jnp.broadcast_to(index, score.shape)))


def _draw(index):
    """Returns a number from 0 to 1 for every latent, whatever block it stands in."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(index[0])
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)[None, :]


@jax.jit
def _join(low: _Best, high: _Best) -> _Best:
    """Joins two ranges of latents, the lower first: equal scores go by index."""
    score, index = (jnp.concatenate(pair, axis=1) for pair in zip(low, high, strict=True))
    score, place = jax.lax.top_k(score, low.score.shape[1])
    return _Best(score, jnp.take_along_axis(index, place, axis=1))


def encode_columns(
    sae: Dictionary,
    x: Float[Array | np.ndarray, "n d_model"],
    latents: Int[np.ndarray, " m"] | Int[Array, " m"],
    *,
    block: int = 2048,
    devices: Sequence[Any] | None = None,
) -> Float[np.ndarray, "n m"]:
    """Returns the activations of some latents only.

    The others are not computed, except for who wins in each row of a top-k dictionary; `devices`
    share that work.
    """
    return stream.columns(sae, x, np.asarray(latents), block=block, devices=devices)

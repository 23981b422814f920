"""Runs prompts through the model and keeps its activations at the positions that matter."""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax import devices
from probejax.activations.packing import Batch, pack
from probejax.models.transformer import Transformer, read_sites
from probejax.positions import ALL, LAST, MEAN
from probejax.sites import Site

BATCH_TOKENS = 2048


class Part(NamedTuple):
    """The harvest of one batch.

    Attributes:
      prompts: int [p], which prompts.
      counts: int [p], rows kept of each: its number of tokens for `all`, else 1.
      rows: site -> [sum(counts), d_model], prompt after prompt.
      tokens: real tokens that passed the model.
    """

    prompts: np.ndarray
    counts: np.ndarray
    rows: dict[Site, np.ndarray]
    tokens: int


def batches(prompts: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Returns the batches that a harvest of these token ids consists of, in their order."""
    return pack(prompts, batch_tokens)


def run(
    transformer: Transformer,
    todo: Sequence[Batch],
    sites: tuple[Site, ...],
    position: str = LAST,
    places: Int[np.ndarray, " n"] | None = None,
) -> Iterator[Part]:
    """Yields the activations of each batch.

    A device with a memory of its own works on the next one while the caller has this one.

    Args:
      transformer: a model that holds the blocks up to the last site.
      todo: batches of packed prompts.
      sites: where it is read.
      position: `all` keeps every token of a prompt, BOS first if there is one; any other keeps one
        vector, see `probejax.positions`.
      places: the token of each of the n prompts that is read, counted from its end, see
        `reading.from_end`; of `mean` the first that counts. None is the last.
    """
    under_way, most = collections.deque(), 1 if devices.apart() else 0
    for batch in todo:
        read = np.ones_like(batch.lengths) if places is None else places[batch.prompts]
        under_way.append(_start(transformer, batch, sites, position, read))
        if len(under_way) > most:
            yield _end(under_way.popleft())
    yield from map(_end, under_way)


class _Started(NamedTuple):
    """A batch that is on its way through the model.

    Attributes:
      batch: it.
      rows: site -> rows that are kept, on the device, with others after them.
      counts: int [p], rows of each prompt among them.
      means: whether those of a prompt become one.
    """

    batch: Batch
    rows: dict[Site, Array]
    counts: np.ndarray
    means: bool


def _start(transformer, batch: Batch, sites, position: str, read: np.ndarray) -> _Started:
    """Tells the device what to do with a batch, and does not wait for it."""
    ends, counts = batch.starts + batch.lengths, np.ones_like(batch.lengths)
    if position == ALL:
        keep, counts = _ranges(batch.starts, batch.lengths), batch.lengths
    elif position == MEAN:
        keep, counts = _ranges(ends - read, read), read
    else:
        keep = ends - read
    found = _read_sites(transformer, batch.tokens, batch.segments, sites)
    rows = {site: _take(x, keep) for site, x in found.items()}
    return _Started(batch, rows, counts, position == MEAN)


def _end(started: _Started) -> Part:
    """Waits for the device, and returns the harvest of a batch."""
    batch, counts = started.batch, started.counts
    rows = {site: np.asarray(x)[: counts.sum()] for site, x in started.rows.items()}
    if started.means:
        rows = {site: _means(x, counts) for site, x in rows.items()}
        counts = np.ones_like(counts)
    return Part(batch.prompts, counts, rows, int(batch.lengths.sum()))


def _means(
    x: Float[np.ndarray, "t d_model"], lengths: Int[np.ndarray, " p"]
) -> Float[np.ndarray, "p d_model"]:
    """Returns the mean of the rows of each prompt, summed in float64."""
    sums = np.add.reduceat(x.astype(np.float64), np.cumsum(lengths) - lengths, axis=0)
    return (sums / lengths[:, None]).astype(x.dtype)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns start, start + 1, ..., start + length - 1 for every prompt in turn."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


_read_sites = jax.jit(read_sites, static_argnames="sites")


def _take(x: Array, keep: np.ndarray) -> Array:
    """Gathers rows on the device; padded to a power of two, so that few shapes compile."""
    places = np.zeros(1 << (len(keep) - 1).bit_length(), np.int32)
    places[: len(keep)] = keep
    return _gather(x, places)


@jax.jit
def _gather(x: Float[Array, "B T d_model"], places: Int[Array, " p"]) -> Float[Array, "p d_model"]:
    return jnp.reshape(x, (-1, x.shape[-1]))[places]

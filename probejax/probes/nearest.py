"""Exact search for the nearest of some rows, for many small searches over one feature matrix.

Distances come from float32 products. Rows whose order their rounding could change are compared
again in float64, where that decides which are the k nearest.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from probejax.probes import scale
from probejax.solvers import tables
from probejax.solvers.engine import distinct, each, once
from probejax.solvers.spread import over_lanes

_WIDTH = 1024  # rows sought among by one product
_QUERIES = 512  # rows at a time whose neighbours are sought
_SPARE = 8  # neighbours looked at beyond the last that matters
_ROUNDING = 32 * float(np.finfo(np.float32).eps)  # eight times the largest that was measured
_FAR = 1e30  # squared distance of rows that may not be found


class Search(NamedTuple):
    """One search for the nearest of some training rows.

    Attributes:
      rows: a lane's training rows.
      among: which of them may be found.
      scale: what each feature is divided by.
      queries: rows of the features, whose neighbours are sought.
      k: the numbers of neighbours that matter, ascending.
    """

    rows: Int[np.ndarray, " n"]
    among: Bool[np.ndarray, " n"]
    scale: Float[np.ndarray, " d"]
    queries: Int[np.ndarray, " m"]
    k: Int[np.ndarray, " P"]


def learn_scales(
    x: Float[np.ndarray, "N d"], rows: Int[np.ndarray, "S n"], seen: Bool[np.ndarray, "S n"]
) -> tuple[Float[np.ndarray, "S d"], Float[np.ndarray, "S d"]]:
    """Returns mean and scale of every training set, learnt once where sets are equal.

    Args:
      x: features, float64.
      rows: training rows.
      seen: those to learn from.
    """
    load = lambda rows, seen: (tables.rows(x, rows), seen)
    with jax.enable_x64(True):
        found, kind = once(_learn, (rows, seen), max(1, _WIDTH // rows.shape[1]), load=load)
    return found.mean[kind], found.scale[kind]


def nearest(
    x: Float[np.ndarray, "N d"], searches: Sequence[Search]
) -> Iterator[tuple[int, Int[np.ndarray, "m K"]]]:
    """Finds the nearest rows of every search; searches that agree in all but k are done once.

    Args:
      x: all features, float64 and centred somewhere near the data.
      searches: over training sets of one padded size.

    Yields:
      The index of a search and, for its queries, the positions in `rows` of the nearest ones. For
      each k that matters the first k are the nearest k; equally near ones go by position.
    """
    groups = distinct(*list(zip(*searches, strict=True))[:4])
    k = {group[0]: np.unique(np.concatenate([searches[i].k for i in group])) for group in groups}
    weights = np.stack([searches[i].scale ** -2.0 for i in k], axis=1)
    lengths = dict(zip(k, ((x * x) @ weights).T, strict=True))  # squared, in the scale of each

    def search(which):
        some = list(dict.fromkeys(which.tolist()))  # a spare slot repeats one
        chosen = [searches[i]._replace(k=k[i]) for i in some]
        return _search(x, chosen, np.stack([lengths[i] for i in some], axis=1), chunk)

    # A program takes as many as fill it; on a CPU, which has none, a search has its own size.
    chunk = 1 if _on_host() else max(1, _WIDTH // len(searches[0].rows))
    firsts = np.array([group[0] for group in groups])
    found = each(search, firsts, chunk, threads=os.cpu_count() or 1)
    for group, positions in zip(groups, found, strict=True):
        for index in group:
            yield index, positions


def _search(x, chosen: Sequence[Search], lengths, chunk: int) -> list[np.ndarray]:
    """Returns the nearest of each of a few searches, which share their products.

    Args:
      x: all features, float64.
      chosen: the searches.
      lengths: [N, S], squared length of every row in the scale of each search.
      chunk: how many searches the products are made for.
    """
    fill = [i % len(chosen) for i in range(chunk)]
    rows, among = (np.stack([chosen[i][field] for i in fill]) for field in (0, 1))
    most = max(int(search.k[-1]) for search in chosen)
    if _on_host():  # padding stands behind the rows
        last = np.flatnonzero(among.any(axis=0)).max(initial=0) + 1
        rows, among = (array[:, : max(last, most)] for array in (rows, among))
    norm = np.where(among, lengths.T[np.array(fill)[:, None], rows], _FAR)
    longest = np.sqrt(np.where(norm < _FAR, norm, 0).max(axis=1))
    queries = np.unique(np.concatenate([search.queries for search in chosen]))
    parts = [np.zeros((0, len(chosen), most), np.int32)]
    # What float32 multiplies is near one in size, however large or small a feature is.
    scales = np.stack([chosen[i].scale for i in fill])
    size = np.sqrt(scales.min(axis=0)) * np.sqrt(scales.max(axis=0))
    base = (x[rows] / size).astype(np.float32) * ((size / scales) ** 2).astype(np.float32)[:, None]
    known = (base, norm.astype(np.float32))
    with jax.enable_x64(True):
        known = known if _on_host() else jax.device_put(known)  # once for all queries
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            asked = block if _on_host() else np.resize(block, _QUERIES)
            distance = _product((x[asked] / size).astype(np.float32), *known)
            length = np.sqrt(lengths[block])
            doubt = _ROUNDING * longest[: len(chosen)] * (length + longest[: len(chosen)])
            for count in (min(most + _SPARE, rows.shape[1]), rows.shape[1]):
                smallest = _smallest(distance, count)[: len(block), : len(chosen)]
                found, settled = _settle(x, chosen, block, smallest, doubt)
                if settled or count == rows.shape[1]:
                    break
            parts.append(found[:, :, :most])
    found = np.concatenate(parts)
    return [found[np.searchsorted(queries, search.queries), i] for i, search in enumerate(chosen)]


def _settle(x, chosen: Sequence[Search], queries, keys, doubt) -> tuple[np.ndarray, bool]:
    """Puts neighbours in their exact order where rounding could decide which are the k nearest.

    Neighbours follow in runs of distances that differ by no more than the doubt. A run is put in
    order when it holds both rows inside the k nearest and rows outside.

    Args:
      x: all features, float64.
      chosen: S searches.
      queries: [m].
      keys: [m, S, T], the smallest in order.
      doubt: [m, S], the difference of two distances that rounding may make.

    Returns:
      The positions [m, S, T], and whether all such runs end before the last of them.
    """
    found, value = (keys & np.iinfo(np.int32).max).astype(np.int32), _value(keys >> 32)
    cut = np.zeros(keys.shape[1:], bool)  # between a neighbour and the one before
    for i, search in enumerate(chosen):
        cut[i, search.k[search.k < keys.shape[2]]] = True
    near = np.diff(value, axis=2) <= doubt[:, :, None]
    of, which = np.nonzero((near & cut[:, 1:]).any(axis=2))
    near, position = near[of, which], found[of, which]  # [R, T]
    run = np.pad(np.cumsum(~near, axis=1), ((0, 0), (1, 0)))
    mixed = np.zeros(run.shape, bool)  # by number of the run
    r, j = np.nonzero(near & cut[which, 1:])
    mixed[r, run[r, j]] = True
    again = np.take_along_axis(mixed, run, axis=1)
    r, j = np.nonzero(again)
    rows, scales = (np.stack([search[i] for search in chosen]) for i in (0, 2))
    apart = (x[queries[of[r]]] - x[rows[which[r], position[r, j]]]) / scales[which[r]]
    exact = np.zeros(run.shape)
    exact[r, j] = (apart * apart).sum(axis=1)
    order = np.lexsort((position, exact, run), axis=1)
    found[of, which] = np.take_along_axis(position, order, axis=1)
    return found, not again[:, -1].any()


def _on_host() -> bool:
    """Tells whether NumPy searches: on a CPU it selects ten times as fast as XLA sorts."""
    return jax.default_backend() == "cpu"


def _product(queries, base, norm):
    """Returns squared distances [m, S, n], but for the first of three terms.

    In |(q - y) / s|^2 = |q / s|^2 - 2 q.(y / s^2) + |y / s|^2 the first is the same for all y, so
    the queries need no scaling, and the scaler's mean falls out.

    Args:
      queries: [m, d], q.
      base: [S, n, d], y / s^2 of each search.
      norm: [S, n], the last term.
    """
    if not isinstance(base, np.ndarray):
        return _product_there(queries, base, norm)
    return norm[None] - 2 * (queries @ base.reshape(-1, base.shape[2]).T).reshape(-1, *norm.shape)


@jax.jit
def _product_there(queries, base, norm):
    product = jnp.matmul(queries, base.reshape(-1, base.shape[2]).T, precision="highest")
    return norm[None] - 2 * product.reshape(-1, *norm.shape)


def _smallest(distance, most: int) -> Int[np.ndarray, "m S K"]:
    """Returns the keys of the smallest distances in order.

    Of equal ones at the end of them NumPy returns any; `_settle` sees that these do not end there.
    """
    if not isinstance(distance, np.ndarray):
        return np.asarray(_sort(distance)[..., :most])
    position = np.argpartition(distance, most - 1, axis=-1)[..., :most]
    return np.sort(_keys(np.take_along_axis(distance, position, axis=-1), position), axis=-1)


@jax.jit
def _sort(distance):
    position = jnp.arange(distance.shape[-1])[None, None, :]
    return jnp.sort(_keys(distance, position), axis=-1)


def _keys(distance, position):
    """Returns keys in the order of float32 distances, ties in that of the positions.

    The bits of a float sort like whole numbers once those of negative ones are turned; below them
    stands the position.
    """
    bits = distance.view(np.int32)
    bits = bits ^ ((bits >> 31) & np.iinfo(np.int32).max)
    return (bits.astype(np.int64) << 32) | position


def _value(bits) -> Float[np.ndarray, "*batch"]:
    """Returns the float32 of which `_keys` made a whole number."""
    bits = bits.astype(np.int32)
    return np.where(bits < 0, bits ^ np.iinfo(np.int32).max, bits).view(np.float32)


@over_lanes
@jax.vmap
def _learn(own, seen):
    return scale.learn(own, seen)

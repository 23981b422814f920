"""Ragged prompts as tiles of one size: few shapes compile, and little is padding.

A tile is a fixed number of tokens, read as rows of one length, one prompt to a row. So whatever is
done per token is one product over the tile, and whatever is done per prompt is a reduction over the
rows' second axis. On a CPU a tile stays in its cache from the first product to the last.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from probejax.activations.ragged import Activations

_LENGTHS = (
    8,
    16,
    32,
    64,
    128,
    256,
)  # each is a program of its own, which takes a second to compile
_SIZE = 1024


class Form(NamedTuple):
    """The shape of tiles.

    Attributes:
      size: tokens of a tile.
      lengths: the lengths that its rows may have, rising.
    """

    size: int
    lengths: tuple[int, ...]

    @property
    def most(self) -> int:
        """Rows of a tile of the shortest rows."""
        return self.size // self.lengths[0]


class Tiles(NamedTuple):
    """Which prompts and tokens lie where.

    Attributes:
      form: their shape.
      kind: of each tile, which of the lengths its rows have.
      prompts: per row of a tile, the index into the list of prompts; -1 for none. A tile of long
        rows has few, so most of its last are -1.
      rows: per place of a tile, the row in `Activations.x`; 0 where there is none.
      real: whether a place holds a token.
    """

    form: Form
    kind: Int[np.ndarray, " tiles"]
    prompts: Int[np.ndarray, "tiles most"]
    rows: Int[np.ndarray, "tiles size"]
    real: Bool[np.ndarray, "tiles size"]


def tile(tokens: Activations, prompts: Int[np.ndarray, " m"], size: int | None = None) -> Tiles:
    """Lays out some prompts.

    Prompts go into the shortest rows that hold them; the few that would fill less than half a tile
    join those of the next length.

    Args:
      tokens: of all prompts.
      prompts: which to lay out.
      size: tokens of a tile, a multiple of 1,024; None is that on a CPU and more elsewhere. The
        longest prompt may make it larger.
    """
    counts = tokens.counts[prompts]
    form = _form(int(counts.max(initial=1)), size)
    found, kinds = [], []
    waiting = np.zeros(0, np.int64)
    below = 0
    for kind, length in enumerate(form.lengths):
        fresh = np.flatnonzero((counts > below) & (counts <= length))
        below, per_tile = length, form.size // length
        waiting = np.append(waiting, fresh)
        no_longer = counts.max(initial=0) <= length
        while len(waiting) and (no_longer or 2 * len(waiting) > per_tile):
            found.append(waiting[:per_tile])
            kinds.append(kind)
            waiting = waiting[per_tile:]
    tiles = Tiles(
        form,
        np.array(kinds, np.int32),
        np.full((len(found), form.most), -1, np.int32),
        np.zeros((len(found), form.size), np.int64),
        np.zeros((len(found), form.size), bool),
    )
    for i, (members, kind) in enumerate(zip(found, kinds, strict=True)):
        length = form.lengths[kind]
        starts, counts = tokens.starts[prompts[members]], tokens.counts[prompts[members]]
        inside = np.arange(length) < counts[:, None]
        tiles.prompts[i, : len(members)] = members
        tiles.real[i].reshape(-1, length)[: len(members)] = inside
        places = np.where(inside, starts[:, None] + np.arange(length), 0)
        tiles.rows[i].reshape(-1, length)[: len(members)] = places
    return tiles


def _form(longest: int, size: int | None) -> Form:
    if size is None:
        size = _SIZE if jax.default_backend() == "cpu" else 64 * _SIZE
    while size < longest:
        size *= 2
    return Form(size, (*_LENGTHS, size))


def read(
    tokens: Activations, tiles: Tiles, which: slice = slice(None)
) -> Shaped[np.ndarray, "t s d"]:
    """Reads the tokens of some tiles, 0 where there is none, in their own dtype."""
    rows, real = tiles.rows[which], tiles.real[which]
    found = np.zeros((*rows.shape, tokens.d_model), tokens.x.dtype)
    found[real] = tokens.x[rows[real]]
    return found


def by_row(form: Form, kind: Int[Array, ""], function: Callable[..., Any], *places: Array) -> Any:
    """Calls a function with the rows of one tile, whatever their length; for use in jit.

    Args:
      form: of the tiles.
      kind: of this one.
      function: takes every array of `places` as [rows, length, ...].
      places: arrays [size, ...]. Where one of them says which tokens are real, the first place of
        each row must be among them, so that no row is empty: see `first_is_real`.
    """

    def branch(length: int):
        rows = (form.size // length, length)
        return lambda places: function(*(each.reshape(*rows, *each.shape[1:]) for each in places))

    return jax.lax.switch(kind, [branch(length) for length in form.lengths], places)


def first_is_real(real: Bool[Array, "rows length"]) -> Bool[Array, "rows length"]:
    """Gives rows without a prompt one token, so that means, maxima and softmaxes stay finite."""
    return real.at[:, 0].set(True)


def padded(rows: Array, form: Form) -> Array:
    """Returns [rows, ...] as [form.most, ...]: the branches of `by_row` must agree in shape."""
    return jnp.pad(rows, [(0, form.most - len(rows))] + [(0, 0)] * (rows.ndim - 1))

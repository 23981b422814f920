"""The activations of many texts without padding, and the rule about BOS."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_TOGETHER = 1 << 14  # tokens read at a time


class Activations(NamedTuple):
    """The activations of N texts at one site: a row for each, or for each of its tokens.

    Attributes:
      x: [rows, d] in any float dtype, in memory or mapped from a file; all that is asked of it is
        `shape`, `dtype` and `x[rows]` with an array of rows. Equal texts may share rows.
      starts: first row of each text.
      counts: number of rows of each text, at least one; 1 where only the last token was kept.
      bos: whether the first token of each text is BOS.
    """

    x: Any
    starts: Int[np.ndarray, " N"]
    counts: Int[np.ndarray, " N"]
    bos: bool = True

    def __repr__(self) -> str:
        rows, width = self.x.shape
        return (
            f"Activations({len(self.starts)} texts, {rows} rows of width {width}, {self.x.dtype})"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns `last()`, where no more was kept."""
        if (self.counts != 1).any():
            raise ValueError("These are all tokens of each text; .last() is one row per text.")
        return self.last().astype(dtype or np.float32, copy=False)

    @property
    def d_model(self) -> int:
        """Width of the rows."""
        return self.x.shape[1]

    def last(self) -> Float[np.ndarray, "N d"]:
        """Returns the last row of each text, float32."""
        return np.asarray(self.x[self.starts + self.counts - 1], np.float32)

    def finite(self) -> Bool[np.ndarray, " N"]:
        """Tells of which texts all rows are finite."""
        begins = range(0, len(self.x), _TOGETHER)
        rows = (np.arange(begin, min(begin + _TOGETHER, len(self.x))) for begin in begins)
        bad = [~np.isfinite(np.asarray(self.x[each], np.float32)).all(axis=1) for each in rows]
        before = np.concatenate([[0], np.cumsum(np.concatenate(bad))])
        return before[self.starts + self.counts] == before[self.starts]


def join(parts: Sequence[Activations]) -> Activations:
    """Puts the prompts of several parts behind each other; no row is copied.

    Raises:
      ValueError: the parts differ in width or dtype, or some have BOS and others not.
    """
    if len({part.bos for part in parts}) > 1:
        raise ValueError("Activations with BOS and without it cannot be joined.")
    if len(kinds := {(part.d_model, np.dtype(part.x.dtype)) for part in parts}) > 1:
        raise ValueError(f"Activations of different widths or dtypes cannot be joined: {kinds}.")
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part.x) for part in parts])
    moved = [part.starts + end - len(part.x) for part, end in zip(parts, ends, strict=True)]
    return Activations(
        _Joined([part.x for part in parts], ends),
        np.concatenate(moved),
        np.concatenate([part.counts for part in parts]),
        parts[0].bos,
    )


class _Joined:
    """Several arrays that read like one."""

    def __init__(self, arrays: list[Any], ends: np.ndarray):
        self.arrays, self.ends = arrays, ends
        self.shape, self.dtype = (int(ends[-1]), *arrays[0].shape[1:]), arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        found = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.ends, rows, side="right")
        for number, array in enumerate(self.arrays):
            here = which == number
            found[here] = array[rows[here] - (self.ends[number] - len(array))]
        return found


def without_bos(tokens: Activations) -> Activations:
    """Leaves out the BOS of each prompt, if there is one; a prompt with no other token keeps it."""
    if not tokens.bos:
        return tokens
    more = (tokens.counts > 1).astype(tokens.starts.dtype)
    return tokens._replace(starts=tokens.starts + more, counts=tokens.counts - more, bos=False)


def at(
    tokens: Activations, prompts: Int[np.ndarray, " n"], position: int | np.integer
) -> tuple[Float[np.ndarray, "n d_model"], Bool[np.ndarray, " n"]]:
    """Returns the tokens at a position, 0 for prompts that have none, and which have one."""
    there = tokens.counts[prompts] > position
    x = np.zeros((len(prompts), tokens.d_model), np.float32)
    x[there] = tokens.x[tokens.starts[prompts[there]] + position]
    return x, there


def pool(tokens: Activations, pooling: str) -> Float[np.ndarray, "N d_model"]:
    """Returns the pooled residuals of every prompt, float32."""
    found = np.zeros((len(tokens.counts), tokens.d_model), np.float32)
    ends = np.cumsum(tokens.counts)
    start = 0
    while start < len(ends):
        taken = ends[start] - tokens.counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, taken + _TOGETHER, side="right")))
        counts = tokens.counts[start:stop]
        at = np.cumsum(counts) - counts
        rows = np.repeat(tokens.starts[start:stop] - at, counts) + np.arange(counts.sum())
        x = np.asarray(tokens.x[rows], np.float32)
        if pooling == "max":
            found[start:stop] = np.maximum.reduceat(x, at)
        else:
            found[start:stop] = np.add.reduceat(x, at) / counts[:, None]
        start = stop
    return found

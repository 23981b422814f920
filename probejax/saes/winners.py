"""Competition among the latents of one row: the winners, found over blocks of the width.

Top-k architectures keep the k strongest latents of a row; equal strengths go by index. A running
merge finds who they are, so the latents of a row never have to be in memory together. What is kept
are indices and not a threshold: encoding a block again may round the weakest winner below itself.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Keep(NamedTuple):
    """Which latents of a row may be active.

    Attributes:
      kind: `all`; `top`, the k largest pre-activations; `magnitude`, the k largest absolute ones,
        which keep their sign; `group`, the largest in each of k groups of neighbours.
      k: how many.
    """

    kind: Literal["all", "top", "magnitude", "group"] = "all"
    k: int = 0


ALL = Keep()


class Best(NamedTuple):
    """The strongest latents seen so far, best first, or those of each group."""

    value: Float[Array, "n k"]
    index: Int[Array, "n k"]


def begin(keep: Keep, n: int) -> Best:
    """Returns what is known of n rows before any block."""
    return Best(jnp.full((n, keep.k), -jnp.inf, jnp.float32), jnp.full((n, keep.k), -1, jnp.int32))


def add(
    keep: Keep, best: Best, strength: Float[Array, "n b"], index: Int[Array, " b"], d_sae: int
) -> Best:
    """Adds a block of neighbouring latents with these indices."""
    if keep.kind != "group":
        return join(keep, best, Best(strength, jnp.broadcast_to(index[None, :], strength.shape)))
    group = index // (d_sae // keep.k)
    value = jax.ops.segment_max(strength.T, group, keep.k).T
    first = jnp.where(strength == value[:, group], index[None, :], d_sae)
    return join(keep, best, Best(value, jax.ops.segment_min(first.T, group, keep.k).T))


def join(keep: Keep, low: Best, high: Best) -> Best:
    """Joins the winners of two ranges of indices; all of `low` stand before all of `high`."""
    if keep.kind == "group":
        better = high.value > low.value
        return Best(*(jnp.where(better, h, l) for h, l in zip(high, low, strict=True)))
    value, index = (jnp.concatenate(pair, axis=1) for pair in zip(low, high, strict=True))
    value, place = jax.lax.top_k(value, keep.k)  # equal values keep their order
    return Best(value, jnp.take_along_axis(index, place, axis=1))


def kept(winners: Int[Array, "n k"], index: Int[Array, " b"]) -> Bool[Array, "n b"]:
    """Says which of the latents with these indices, in rising order, are among the winners."""
    place = jnp.minimum(jnp.searchsorted(index, winners), len(index) - 1)
    row = jnp.arange(len(winners))[:, None]
    nobody = jnp.zeros((len(winners), len(index)), bool)
    return nobody.at[row, place].max(index[place] == winners)

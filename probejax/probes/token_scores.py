"""Logits of prompts under probes that read all their tokens; the tokens stream through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.activations.ragged import Activations
from probejax.probes import tiles as layout
from probejax.probes.aggregators import Aggregator
from probejax.probes.tiles import Form
from probejax.probes.token_chunks import chunks

_TOGETHER = 16  # tiles on the device at a time


def logits(
    tokens: Activations,
    prompts: Int[np.ndarray, " m"],
    w: Float[np.ndarray, "Q c d"],
    b: Float[np.ndarray, " Q"],
    setting: Float[np.ndarray, " Q"],
    aggregate: Aggregator,
    *,
    size: int | None = None,
) -> Float[np.ndarray, "Q m"]:
    """Returns the logits of prompts under every probe.

    Args:
      tokens: of all prompts.
      prompts: which to score.
      w: score vectors of each probe.
      b: their biases.
      setting: of the aggregator.
      aggregate: what makes a logit of a prompt's scores.
      size: tokens of a tile, see `tiles.tile`.
    """
    plan = layout.tile(tokens, prompts, size)
    found = np.zeros((len(w), len(prompts)), np.float32)
    probes = tuple(jnp.asarray(each, jnp.float32) for each in (w, b, setting))
    for start in range(0, len(plan.kind), _TOGETHER):
        which = slice(start, start + _TOGETHER)
        fill = functools.partial(_filled, count=_TOGETHER)
        x, real, kind = map(
            fill, (layout.read(tokens, plan, which), plan.real[which], plan.kind[which])
        )
        z = np.asarray(_logits(x, real, kind, probes, aggregate, plan.form))
        members = plan.prompts[which]
        tile, row = np.nonzero(members >= 0)
        found[:, members[tile, row]] = z[tile, row].T
    return found


def own_logits(
    tokens: Activations,
    rows: Int[np.ndarray, "Q m"],
    mask: Bool[np.ndarray, "Q m"],
    w: Float[np.ndarray, "Q c d"],
    b: Float[np.ndarray, " Q"],
    setting: Float[np.ndarray, " Q"],
    aggregate: Aggregator,
    *,
    size: int | None = None,
) -> Float[np.ndarray, "Q m"]:
    """Returns every probe's logits of its own prompts, 0 where the mask is False.

    Args:
      tokens: of all prompts.
      rows: prompts of each probe.
      mask: which of them count.
      w: as for `logits`, like the rest.
      b: their biases.
      setting: of the aggregator.
      aggregate: what makes a logit of a prompt's scores.
      size: tokens of a tile.
    """
    found = np.zeros(rows.shape, np.float32)
    for chunk in chunks(tokens, rows, mask, int(tokens.counts.sum())):
        prompts = np.unique(rows[chunk][mask[chunk]])
        if not len(prompts):
            continue
        every = logits(tokens, prompts, w[chunk], b[chunk], setting[chunk], aggregate, size=size)
        place = np.searchsorted(prompts, np.where(mask[chunk], rows[chunk], prompts[:1]))
        found[chunk] = np.where(mask[chunk], np.take_along_axis(every, place, axis=1), 0)
    return found


def _filled(array: np.ndarray, count: int) -> np.ndarray:
    """Repeats the first tile up to so many, so that one shape compiles."""
    return array[np.resize(np.arange(count) % len(array), count)] if len(array) < count else array


@functools.partial(jax.jit, static_argnames=("aggregate", "form"))
def _logits(x, real, kind, probes, aggregate, form: Form) -> Float[Array, "tiles most Q"]:
    w, b, setting = probes
    count, c, d = w.shape
    vectors = jnp.moveaxis(w, 1, 0).reshape(c * count, d)

    def rows(scores, real):
        over_probes = jax.vmap(aggregate, in_axes=(2, None, 0))
        z = jax.vmap(over_probes, in_axes=(0, 0, None))(scores, layout.first_is_real(real), setting)
        return layout.padded(z + b[None, :], form)

    def one(tile):
        x, real, kind = tile
        scores = jnp.matmul(x.astype(jnp.float32), vectors.T, precision="highest")
        return layout.by_row(form, kind, rows, scores.reshape(form.size, c, count), real)

    return jax.lax.map(one, (x, real, kind))

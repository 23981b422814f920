"""Latents of an SAE pooled over the tokens of a prompt, by streaming: never tokens times latents.

A block of latents of a tile of tokens is computed, reduced to its prompts and dropped. So at any
time there are the pooled latents of one block, [prompts, block], and the latents of one tile.
"""

import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax import sizes
from probejax.activations.ragged import Activations
from probejax.probes import tiles as layout
from probejax.probes.tiles import Tiles
from probejax.saes import SAE, StoredSAE
from probejax.saes.sae import Encoder, activate, pre_activations
from probejax.saes.stream import Block, Dictionary, prepared, row_winners

Pooling = Literal["max", "mean"]
_TOGETHER = 8  # tiles on the device at a time


def blocks(
    tokens: Activations,
    prompts: Int[np.ndarray, " m"],
    sae: Dictionary,
    pooling: Pooling,
    *,
    block: int,
) -> Iterator[Block]:
    """Yields the pooled latents of prompts, [m, block] at a time, in the order of their indices."""
    plan = _tiles(tokens, prompts)
    if not isinstance(sae, SAE | StoredSAE):
        yield Block(0, _pool(tokens, plan, len(prompts), sae, None, None, pooling, None))
        return
    won = _winners(tokens, plan, sae, block)
    for start in range(0, sae.d_sae, block):
        stop = min(start + block, sae.d_sae)
        encoder, index = jax.device_put((sae.encoder(start, stop), np.arange(start, stop)))
        yield Block(start, _pool(tokens, plan, len(prompts), sae, encoder, index, pooling, won))


def pool_columns(
    tokens: Activations,
    prompts: Int[np.ndarray, " m"],
    sae: Dictionary,
    latents: Int[np.ndarray, " M"],
    pooling: Pooling,
    *,
    block: int = 4096,
) -> Float[Array, "m M"]:
    """Returns some pooled latents of prompts.

    Args:
      tokens: of all prompts.
      prompts: which to pool.
      sae: the dictionary.
      latents: indices in rising order; the last may be repeated.
      pooling: how.
      block: latents computed at a time where others decide who is active.
    """
    plan = _tiles(tokens, prompts)
    if not isinstance(sae, SAE | StoredSAE):
        return _pool(tokens, plan, len(prompts), sae, None, None, pooling, None)[:, latents]
    distinct, place = np.unique(latents, return_inverse=True)
    distinct = np.pad(distinct, (0, len(latents) - len(distinct)), mode="edge")
    encoder, index = sae.columns(distinct), jnp.asarray(distinct, jnp.int32)
    won = _winners(tokens, plan, sae, block)
    return _pool(tokens, plan, len(prompts), sae, encoder, index, pooling, won)[:, place]


def _tiles(tokens: Activations, prompts: Int[np.ndarray, " m"]) -> Tiles:
    """Returns tiles in whole groups, so that one shape compiles; the last may hold no prompt."""
    plan = layout.tile(tokens, prompts)
    spare = -len(plan.kind) % _TOGETHER
    fill = lambda array, value: np.pad(
        array, [(0, spare)] + [(0, 0)] * (array.ndim - 1), constant_values=value
    )
    return plan._replace(
        kind=fill(plan.kind, 0),
        prompts=fill(plan.prompts, -1),
        rows=fill(plan.rows, 0),
        real=fill(plan.real, False),
    )


def _winners(
    tokens: Activations, plan: Tiles, sae: SAE | StoredSAE, block: int
) -> np.ndarray | None:
    """Returns who wins at each token, [tiles, size, k], where latents compete."""
    if sae.keep.kind == "all":
        return None
    found = []
    for start in range(0, len(plan.kind), _TOGETHER):
        x = layout.read(tokens, plan, slice(start, start + _TOGETHER))
        won = row_winners(sae, jnp.asarray(x).reshape(-1, tokens.d_model), block=block)
        found.append(np.asarray(won).reshape(*x.shape[:2], -1))
    return np.concatenate(found)


def _pool(tokens, plan: Tiles, count: int, sae, encoder, index, pooling: Pooling, won) -> Array:
    """Returns the pooled latents of an encoder, or all those of a dictionary that has none."""
    pooled = None
    for start in range(0, len(plan.kind), _TOGETHER):
        which = slice(start, start + _TOGETHER)
        x = jnp.asarray(layout.read(tokens, plan, which), jnp.float32)
        if encoder is None:
            dense = np.asarray(sae.encode(np.asarray(x.reshape(-1, tokens.d_model))), np.float32)
            x = jnp.asarray(dense.reshape(*x.shape[:2], -1))
        else:
            x = prepared(sae, x.reshape(-1, tokens.d_model)).reshape(x.shape)
        if pooled is None:
            shape = (sizes.up(count, sizes.SHARED), x.shape[2] if encoder is None else len(index))
            pooled = jnp.zeros(shape, jnp.float32)
        tile = (x, plan.real[which], plan.kind[which], plan.prompts[which])
        here = None if won is None else won[which]
        keep = None if encoder is None else sae.keep
        pooled = _add(pooled, tile, here, encoder, index, keep, pooling, plan.form)
    assert pooled is not None, "a plan has at least one tile"
    return pooled[:count]


@functools.partial(
    jax.jit, static_argnames=("keep", "pooling", "form"), donate_argnames=("pooled",)
)
def _add(
    pooled: Float[Array, "m b"], tiles, won, encoder: Encoder | None, index, keep, pooling, form
) -> Float[Array, "m b"]:
    """Pools the prompts of some tiles."""

    def reduce(latents, real):
        real = layout.first_is_real(real)[:, :, None]
        if pooling == "max":
            return layout.padded(jnp.where(real, latents, -jnp.inf).max(axis=1), form)
        return layout.padded(jnp.where(real, latents, 0).sum(axis=1) / real.sum(axis=1), form)

    def one(pooled, tile):
        (x, real, kind, prompts), won = tile
        if encoder is not None:
            x = activate(encoder, keep, pre_activations(encoder, x), won, index)
        rows = layout.by_row(form, kind, reduce, x, real)
        place = jnp.where(prompts >= 0, prompts, len(pooled))
        return pooled.at[place].set(rows, mode="drop"), None

    return jax.lax.scan(one, pooled, (tiles, won))[0]

"""How well an SAE describes activations, and whether its L0 is what its makers say."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from probejax.saes import stream
from probejax.saes.sae import SAE, restore
from probejax.saes.stored import StoredSAE
from probejax.saes.stream import Block


class Quality(NamedTuple):
    """How well an SAE describes activations.

    Attributes:
      l0: mean active latents per token.
      explained: share of the total variance that the reconstruction explains; NaN without decoder,
        or if nothing varies.
      explained_median: the same per dimension, in the median of those that vary.
      dead: share of latents that never fired.
      tokens: tokens that were looked at.
    """

    l0: float
    explained: float
    explained_median: float
    dead: float
    tokens: int

    def warning(self, advertised: float | None) -> str | None:
        """Says what is wrong if the L0 lies outside half to twice the advertised one."""
        if not advertised or advertised / 2 <= self.l0 <= advertised * 2:
            return None
        return (
            f"the mean L0 on {self.tokens} tokens is {self.l0:.1f}, but {advertised:g} is "
            "advertised; the SAE may belong to another model, layer or normalisation."
        )


def quality(
    sae: SAE | StoredSAE, x: Float[np.ndarray, "n d_model"], block: int = 4096, width: int = 16384
) -> Quality:
    """Measures an SAE on activations that exclude BOS.

    Args:
      sae: the dictionary.
      x: raw activations.
      block: tokens at a time.
      width: latents at a time.
    """
    squared, fired, active = np.zeros(sae.d_model), np.zeros(sae.d_sae, bool), 0.0
    for i in range(0, len(x), block):
        here = jnp.asarray(x[i : i + block], jnp.float32)
        begin = _Seen(jnp.zeros(here.shape), jnp.zeros(sae.d_sae, bool), jnp.zeros(()))
        add = lambda seen, latents: _add(seen, latents, _decoder(sae, latents))
        seen = stream.fold(sae, here, begin, add, _join, block=width)
        decoded = restore(sae.normalise, here, seen.decoded + jnp.asarray(sae.b_dec)[None, :])
        squared += np.asarray(jnp.sum((decoded - here) ** 2, axis=0), np.float64)
        fired |= np.asarray(seen.fired)
        active += float(seen.active)
    variance = np.asarray(x, np.float64).var(axis=0)
    varies = variance > 0
    per_dimension = 1 - squared[varies] / len(x) / variance[varies]
    total = variance.sum() or np.nan
    return Quality(
        l0=active / len(x),
        explained=float(1 - squared.sum() / len(x) / total),
        explained_median=float(np.median(per_dimension)) if varies.any() else np.nan,
        dead=float(1 - fired.mean()),
        tokens=len(x),
    )


class _Seen(NamedTuple):
    """What the blocks of latents so far amount to."""

    decoded: Float[Array, "n d_model"]
    fired: Bool[Array, " d_sae"]
    active: Float[Array, ""]


def _decoder(sae: SAE | StoredSAE, block: Block) -> Array:
    size = block.latents.shape[1]
    if sae.W_dec is None:
        return jnp.full((size, sae.d_model), jnp.nan)
    return sae.decoder(block.start, block.start + size)


@jax.jit
def _add(seen: _Seen, block: Block, W_dec: Float[Array, "b d_model"]) -> _Seen:
    on = block.latents != 0
    return _Seen(
        seen.decoded + jnp.matmul(block.latents, W_dec, precision="highest"),
        jax.lax.dynamic_update_slice(seen.fired, jnp.any(on, axis=0), (block.start,)),
        seen.active + jnp.sum(on),
    )


def _join(low: _Seen, high: _Seen) -> _Seen:
    return _Seen(low.decoded + high.decoded, low.fired | high.fired, low.active + high.active)

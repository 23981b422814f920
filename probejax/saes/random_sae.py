"""A control: an SAE whose directions are random and whose latents fire as often as asked for."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from probejax.saes.sae import SAE

_BLOCK = 4096


def make(x: Float[np.ndarray, "n d_model"], d_sae: int, l0: float, *, seed: int = 0) -> SAE:
    """Returns a JumpReLU SAE with random unit directions, frozen by the seed.

    Pre-activations are those of centred activations; each latent's threshold is the quantile of its
    own above which a share of l0 / d_sae of the rows lies. That is seldom a whole number of rows,
    so some latents fire on one more than the others, and the mean L0 on `x` is `l0`.

    Args:
      x: raw activations to calibrate on.
      d_sae: number of latents.
      l0: active latents per row.
      seed: of the directions.

    Raises:
      ValueError: so few rows that a latent would fire on none, or more active latents than latents.
    """
    n, d_model = x.shape
    if not 0 < l0 < d_sae / 2:
        raise ValueError(f"l0={l0:g} of {d_sae} latents: expected more than 0, less than half.")
    total = round(n * l0)  # how often any latent fires on any row
    if total < d_sae:
        raise ValueError(
            f"{n} rows are too few to calibrate {d_sae} latents at an L0 of {l0:g}: each would "
            f"fire on {n * l0 / d_sae:.2f} of them; give more rows, or fewer latents."
        )
    rows = jax.random.normal(jax.random.key(seed), (d_sae, d_model))
    W_dec = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    mean = np.asarray(x, np.float64).mean(axis=0)
    centred = jnp.asarray(np.asarray(x, np.float64) - mean, jnp.float32)
    least, more = divmod(total, d_sae)
    fires = least + (np.arange(d_sae) < more)
    threshold = jnp.concatenate(
        [
            _threshold(centred, W_dec[i : i + _BLOCK], fires[i : i + _BLOCK], least)
            for i in range(0, d_sae, _BLOCK)
        ]
    )
    center = jnp.asarray(mean, jnp.float32)
    return SAE(W_dec.T, jnp.zeros(d_sae), W_dec, center, threshold, center=center)


def _threshold(centred, directions, fires, least: int):
    """Returns the largest value of each direction on which it does not fire, at least 0.

    Args:
      centred: rows.
      directions: of some latents.
      fires: on how many rows each fires, `least` or one more.
      least: how many that is.
    """
    pre = jnp.matmul(directions, centred.T, precision="highest")
    largest = jax.lax.top_k(pre, least + 2)[0]
    return jnp.maximum(jnp.where(fires > least, largest[:, -1], largest[:, -2]), 0.0)

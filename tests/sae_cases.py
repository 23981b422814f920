"""A random SAE for tests."""

import jax.numpy as jnp
import numpy as np

from probejax import saes


def random_sae(d_model, d_sae, *, dead=(), seed=0):
    """A JumpReLU SAE with random weights; the latents named `dead` never fire."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return saes.SAE(
        W_enc=normal(d_model, d_sae),
        b_enc=normal(d_sae),
        W_dec=normal(d_sae, d_model),
        b_dec=normal(d_model),
        threshold=jnp.exp(normal(d_sae)).at[np.array(dead, int)].set(1e9),
    )

"""The JumpReLU sparse autoencoder: five arrays and two functions."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SAE:
    """Parameters of a JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435), float32.

    Attributes:
      W_enc: [d_model, d_sae].
      b_enc: [d_sae].
      W_dec: [d_sae, d_model].
      b_dec: [d_model].
      threshold: [d_sae], compared with the pre-activation.
    """

    W_enc: Float[Array, "d_model d_sae"]
    b_enc: Float[Array, " d_sae"]
    W_dec: Float[Array, "d_sae d_model"]
    b_dec: Float[Array, " d_model"]
    threshold: Float[Array, " d_sae"]

    @property
    def d_model(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]


@jax.jit
def encode(sae: SAE, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_sae"]:
    """Returns the latents: the pre-activation where it exceeds the threshold and zero, else 0.

    The input is raw; `b_dec` is not subtracted (docs of Gemma Scope, arXiv 2408.05147).
    """
    pre = jnp.einsum("...d,dm->...m", x, sae.W_enc, precision="highest")
    return jumprelu(pre + _rows(sae.b_enc, pre.ndim), _rows(sae.threshold, pre.ndim))


@jax.jit
def decode(sae: SAE, latents: Float[Array, "*batch d_sae"]) -> Float[Array, "*batch d_model"]:
    """Returns the reconstruction of what was encoded."""
    x = jnp.einsum("...m,md->...d", latents, sae.W_dec, precision="highest")
    return x + _rows(sae.b_dec, x.ndim)


def jumprelu(pre: Float[Array, "*shape"], threshold: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Returns `pre` where it is above the threshold and positive, else 0; NaN stays NaN."""
    return jnp.where((pre > threshold) | jnp.isnan(pre), jnp.maximum(pre, 0.0), 0.0)


def _rows(vector: Array, ndim: int) -> Array:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)

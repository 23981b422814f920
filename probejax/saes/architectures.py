"""The architectures that can be trained: what is active, and what keeps it sparse.

JumpReLU: Rajamanoharan et al. 2024 (arXiv 2407.14435). Gated: arXiv 2404.16014. TopK: Gao et al.
2024 (arXiv 2406.04093). BatchTopK: Bussmann et al. 2024 (arXiv 2412.06410). Matryoshka: Bussmann et
al. 2025 (arXiv 2503.17547).
"""

import functools
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Architecture = Literal["jumprelu", "relu", "gated", "topk", "batchtopk", "matryoshka"]
# Prefixes of the latents that must reconstruct on their own.
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


class Params(NamedTuple):
    """What is trained, in scaled units.

    Attributes:
      W_enc: [d_model, d_sae].
      b_enc: [d_sae].
      W_dec: [d_sae, d_model], rows of unit norm.
      b_dec: [d_model].
      log_threshold: [d_sae]; trained in JumpReLU, a running mean in BatchTopK, else -inf.
      r_mag: [d_sae], log of what scales the magnitude of a gated latent, else None.
      b_gate: [d_sae], bias of its gate, else None.
    """

    W_enc: Float[Array, "d_model d_sae"]
    b_enc: Float[Array, " d_sae"]
    W_dec: Float[Array, "d_sae d_model"]
    b_dec: Float[Array, " d_model"]
    log_threshold: Float[Array, " d_sae"]
    r_mag: Float[Array, " d_sae"] | None = None
    b_gate: Float[Array, " d_sae"] | None = None


class Forward(NamedTuple):
    """What an architecture makes of a batch.

    Attributes:
      latents: [batch, d_sae].
      margin: [batch, d_sae], how far each latent is from firing; positive where it does not.
      l0: active latents per token, differentiable in JumpReLU only.
      norm: their sum per token, the L1 penalty.
      auxiliary: a further loss.
      cutoff: the smallest latent kept, BatchTopK's estimate of its threshold.
    """

    latents: Float[Array, "batch d_sae"]
    margin: Float[Array, "batch d_sae"]
    l0: Float[Array, ""]
    norm: Float[Array, ""]
    auxiliary: Float[Array, ""]
    cutoff: Float[Array, ""]


def forward(
    params: Params,
    x: Float[Array, "batch d_model"],
    architecture: Architecture,
    k: float,
    bandwidth: float,
    margin: float,
) -> Forward:
    """Returns what is active.

    Args:
      params: the weights.
      x: scaled activations.
      architecture: which.
      k: active latents per token of the top-k family.
      bandwidth: width of the kernel of JumpReLU's estimators.
      margin: pre-activation up to which a dead latent of the others is pulled.
    """
    product = x @ params.W_enc
    pre, zero = product + params.b_enc[None, :], jnp.zeros(())
    auxiliary = cutoff = zero
    if architecture == "jumprelu":
        threshold = jnp.exp(params.log_threshold)[None, :]
        latents = cast(Array, jumprelu(pre, threshold, bandwidth))
        l0 = jnp.mean(jnp.sum(cast(Array, heaviside(pre, threshold, bandwidth)), axis=1))
        return Forward(latents, threshold - pre, l0, zero, zero, zero)
    latents = penalised = jax.nn.relu(pre)
    if architecture == "gated":
        assert params.r_mag is not None and params.b_gate is not None
        pre = product + params.b_gate[None, :]
        penalised = jax.nn.relu(pre)
        magnitude = jnp.exp(params.r_mag)[None, :] * product + params.b_enc[None, :]
        latents = jnp.where(pre > 0, jax.nn.relu(magnitude), 0.0)
        alone = penalised @ jax.lax.stop_gradient(params.W_dec)
        error = alone + jax.lax.stop_gradient(params.b_dec)[None, :] - x
        auxiliary = jnp.mean(jnp.sum(error * error, axis=1))
    elif architecture == "topk":
        kept = latents >= kth_largest(latents, round(k), axis=1)
        latents = jnp.where(kept, latents, 0.0)
    elif architecture != "relu":
        cutoff = kth_largest(latents, round(k * len(x)), axis=None)[0, 0]
        latents = jnp.where(latents >= cutoff, latents, 0.0)
    l0 = jnp.mean(jnp.sum(latents > 0, axis=1))
    norm = jnp.mean(jnp.sum(penalised, axis=1))
    return Forward(latents, margin - pre, l0, norm, auxiliary, cutoff)


def kth_largest(values: Float[Array, "n m"], k: int, axis: int | None) -> Float[Array, "rows one"]:
    """Returns the k-th largest of non-negative numbers, of each row or of all; axes are kept.

    Non-negative floats are in the order of their bits, so 31 counts find it; sorting takes longer.
    """
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(values) + 0.0, jnp.int32)
    shape = (len(values), 1) if axis == 1 else (1, 1)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low + 1) // 2
        enough = jnp.sum(bits >= middle, axis=axis, keepdims=True) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    low, high = jnp.zeros(shape, jnp.int32), jnp.full(shape, 0x7F800000, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def unexplained(
    params: Params,
    x: Float[Array, "batch d_model"],
    latents: Float[Array, "batch d_sae"],
    architecture: Architecture,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the squared error that is trained on, and that of the whole reconstruction."""
    if architecture != "matryoshka":
        whole = _squared(latents @ params.W_dec + params.b_dec[None, :] - x)
        return whole, whole
    sizes = [round(share * latents.shape[1]) for share in PREFIXES]
    decoded, errors = jnp.broadcast_to(params.b_dec[None, :], x.shape), []
    for start, stop in zip([0, *sizes[:-1]], sizes, strict=True):
        decoded = decoded + latents[:, start:stop] @ params.W_dec[start:stop]
        errors.append(_squared(decoded - x))
    return sum(errors, jnp.zeros(())) / len(errors), errors[-1]


def _squared(error: Float[Array, "batch d_model"]) -> Float[Array, ""]:
    return jnp.mean(jnp.sum(error * error, axis=1))


def _kernel(pre: Array, threshold: Array, bandwidth: float) -> Array:
    """Rectangle kernel of the straight-through estimators, of unit mass."""
    return (jnp.abs(pre - threshold) < bandwidth / 2) / bandwidth


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def jumprelu(pre: Array, threshold: Array, bandwidth: float) -> Array:
    """Returns what exceeds the threshold; its gradient reaches the threshold (eq. 11 there)."""
    return jnp.where(pre > threshold, jax.nn.relu(pre), 0.0)


def _jumprelu_forward(pre, threshold, bandwidth):
    return jumprelu(pre, threshold, bandwidth), (pre, threshold)


def _jumprelu_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    to_threshold = -threshold * _kernel(pre, threshold, bandwidth) * gradient
    return jnp.where(pre > threshold, gradient, 0.0), jnp.sum(to_threshold, axis=0, keepdims=True)


jumprelu.defvjp(_jumprelu_forward, _jumprelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def heaviside(pre: Array, threshold: Array, bandwidth: float) -> Array:
    """Returns whether the threshold is exceeded; its gradient reaches both (eq. 12 there)."""
    return (pre > threshold).astype(pre.dtype)


def _heaviside_forward(pre, threshold, bandwidth):
    return heaviside(pre, threshold, bandwidth), (pre, threshold)


def _heaviside_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    slope = _kernel(pre, threshold, bandwidth) * gradient
    return slope, -jnp.sum(slope, axis=0, keepdims=True)


heaviside.defvjp(_heaviside_forward, _heaviside_backward)

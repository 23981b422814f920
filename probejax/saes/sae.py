"""The SAE: one encoder for every architecture.

    pre = (x - center) @ W_enc + b_enc
    latent = pre where it is positive, above its threshold and, in top-k architectures, a winner

A ReLU is a threshold of zero. BatchTopK and its Matryoshka form have a threshold at inference. A
gated encoder (arXiv 2404.16014) is one too: with the magnitude as `pre`, its gate opens where
pre > b_mag - exp(r_mag) b_gate (section 3.3 there). So only the competition of top-k needs more.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from probejax.saes import winners
from probejax.saes.winners import ALL, Keep

Matrix = TypeVar("Matrix")
Normalise = Literal["none", "constant_norm", "layer_norm", "zero_mean"]


class Encoder(NamedTuple):
    """What computes some of the latents.

    Attributes:
      W_enc: [d_model, b].
      b_enc: [b].
      threshold: [b].
      weight: [b], or None; winners are those with the largest pre-activation times weight.
    """

    W_enc: Float[Array, "d_model b"]
    b_enc: Float[Array, " b"]
    threshold: Float[Array, " b"]
    weight: Float[Array, " b"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class SAE:
    """Parameters of an SAE, float32.

    Attributes:
      W_enc: [d_model, d_sae].
      b_enc: [d_sae].
      W_dec: [d_sae, d_model]; None in a file that holds an encoder only.
      b_dec: [d_model].
      threshold: [d_sae], compared with the pre-activation.
      center: [d_model], subtracted from what is encoded; None subtracts nothing.
      weight: see `Encoder`.
      keep: who may be active.
      normalise: what is done to each vector first: scale it to the norm sqrt(d_model), or centre it
        and divide by its standard deviation (SAELens' `constant_norm_rescale` and `layer_norm`), or
        centre it alone (`zero_mean`).
    """

    W_enc: Float[Array, "d_model d_sae"]
    b_enc: Float[Array, " d_sae"]
    W_dec: Float[Array, "d_sae d_model"] | None
    b_dec: Float[Array, " d_model"]
    threshold: Float[Array, " d_sae"]
    center: Float[Array, " d_model"] | None = None
    weight: Float[Array, " d_sae"] | None = None
    keep: Keep = dataclasses.field(default=ALL, metadata={"static": True})
    normalise: Normalise = dataclasses.field(default="none", metadata={"static": True})

    def __repr__(self) -> str:
        """Says on one line what it is."""
        return in_words(self)

    @property
    def d_model(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    def encoder(self, start: int = 0, stop: int | None = None) -> Encoder:
        """Returns what computes the latents start..stop-1."""
        stop = self.d_sae if stop is None else stop
        if (start, stop) == (0, self.d_sae):
            return Encoder(self.W_enc, self.b_enc, self.threshold, self.weight)
        return _cut(self, start, stop - start)

    def columns(self, latents) -> Encoder:
        """Returns what computes some latents, in the order of their indices given."""
        return _columns(self, latents)

    def decoder(self, start: int, stop: int) -> Float[Array, "b d_model"]:
        """Returns the decoder rows of the latents start..stop-1."""
        return there(self.W_dec)[start:stop]


@functools.partial(jax.jit, static_argnames="size")
def _cut(sae: SAE, start, size: int) -> Encoder:
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
    weight = None if sae.weight is None else cut(sae.weight)
    return Encoder(cut(sae.W_enc, axis=1), cut(sae.b_enc), cut(sae.threshold), weight)


@jax.jit
def _columns(sae: SAE, latents) -> Encoder:
    weight = None if sae.weight is None else sae.weight[latents]
    return Encoder(sae.W_enc[:, latents], sae.b_enc[latents], sae.threshold[latents], weight)


@jax.jit
def encode(sae: SAE, x: Num[Array, "*batch d_model"]) -> Float[Array, "*batch d_sae"]:
    """Returns the latents of raw activations; NaN in a row makes all its latents NaN."""
    inputs = prepare(sae.center, sae.normalise, x.reshape(-1, x.shape[-1]))
    encoder, keep, d_sae = sae.encoder(), sae.keep, sae.d_sae
    pre, index = pre_activations(encoder, inputs), jnp.arange(d_sae, dtype=jnp.int32)
    won = None
    if keep.kind != "all":
        best = winners.begin(keep, len(pre))
        won = winners.add(keep, best, strength(encoder, keep, pre), index, d_sae).index
    return activate(encoder, keep, pre, won, index).reshape(*x.shape[:-1], d_sae)


@jax.jit
def decode(sae: SAE, latents: Float[Array, "*batch d_sae"]) -> Float[Array, "*batch d_model"]:
    """Returns the reconstruction of what was encoded, after `normalise` where there is one.

    Raises:
      ValueError: the SAE is an encoder only.
    """
    flat = latents.reshape(-1, latents.shape[-1])
    x = jnp.matmul(flat, there(sae.W_dec), precision="highest") + sae.b_dec[None, :]
    return x.reshape(*latents.shape[:-1], sae.d_model)


@jax.jit
def reconstruct(sae: SAE, x: Num[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
    """Returns the SAE's version of raw activations, in their own units.

    Raises:
      ValueError: the SAE is an encoder only.
    """
    return restore(sae.normalise, x, decode(sae, encode(sae, x)))


def prepare(center: Array | None, normalise: Normalise, x: Array) -> Array:
    """Returns what the encoder's matrix reads, for rows of raw activations, at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if normalise != "none":
        shift, scale = _statistics(normalise, x)
        x = (x - shift) / (scale + (1e-5 if normalise == "layer_norm" else 0.0))
    return x if center is None else x - center[None, :]


def restore(normalise: Normalise, x: Array, decoded: Array) -> Array:
    """Undoes the normalisation of `x` on what was decoded."""
    if normalise == "none":
        return decoded
    shift, scale = _statistics(normalise, x.astype(decoded.dtype))
    return decoded * scale + shift


def _statistics(normalise: Normalise, x: Array) -> tuple[Array, Array]:
    if normalise == "constant_norm":
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return jnp.zeros_like(norm), norm / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
    mean = jnp.mean(x, axis=-1, keepdims=True)
    if normalise == "zero_mean":
        return mean, jnp.ones_like(mean)
    return mean, jnp.std(x, axis=-1, ddof=1, keepdims=True)


def pre_activations(encoder: Encoder, inputs: Float[Array, "n d_model"]) -> Float[Array, "n b"]:
    """Returns the pre-activations of prepared rows."""
    return jnp.matmul(inputs, encoder.W_enc, precision="highest") + encoder.b_enc[None, :]


def strength(encoder: Encoder, keep: Keep, pre: Float[Array, "n b"]) -> Float[Array, "n b"]:
    """Returns that by which latents compete."""
    weighted = pre if encoder.weight is None else pre * encoder.weight[None, :]
    return jnp.abs(weighted) if keep.kind == "magnitude" else weighted


def activate(
    encoder: Encoder,
    keep: Keep,
    pre: Float[Array, "n b"],
    won: Int[Array, "n k"] | None,
    index: Int[Array, " b"],
) -> Float[Array, "n b"]:
    """Returns the latents with these indices, in rising order; `won` are each row's winners."""
    latents = pre if keep.kind == "magnitude" else jumprelu(pre, encoder.threshold[None, :])
    if won is None:
        return latents
    return jnp.where(winners.kept(won, index) | jnp.isnan(pre), latents, 0.0)


def jumprelu(pre: Float[Array, "*shape"], threshold: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Returns `pre` where it is above the threshold and positive, else 0; NaN stays NaN."""
    return jnp.where((pre > threshold) | jnp.isnan(pre), jnp.maximum(pre, 0.0), 0.0)


def in_words(sae: Any, place: Any = None) -> str:
    """Returns one line on an SAE: its widths, who may be active, and in which file it is."""
    shape = getattr(sae.W_enc, "shape", ("?", "?"))  # JAX puts other things in place of arrays
    parts = [f"d_model={shape[0]}", f"d_sae={shape[-1]}"]
    if sae.keep.kind != "all":
        parts.append(f"keep={sae.keep.kind} {sae.keep.k}")
    if sae.normalise != "none":
        parts.append(f"normalise={sae.normalise}")
    parts += ["no decoder"] if sae.W_dec is None else []
    parts += [] if place is None else [f"in {place}"]
    return f"{type(sae).__name__}({', '.join(parts)})"


def there(W_dec: Matrix | None) -> Matrix:
    """Returns the decoder's matrix.

    Raises:
      ValueError: the SAE is an encoder only.
    """
    if W_dec is None:
        raise ValueError("This SAE's file holds no decoder, so it can encode but not decode.")
    return W_dec

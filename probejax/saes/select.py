"""Ranks latents by how far their class means lie apart, without ever holding all latents.

The width is streamed: encode a block of latents, compare the class means of every lane with two
matrix products, keep a running top k, drop the block.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.saes.sae import SAE, jumprelu

Ranking = Literal["raw", "normalised"]
RANKINGS: tuple[Ranking, ...] = ("raw", "normalised")


class _Lanes(NamedTuple):
    """Training rows of each lane as weights over the rows of one matrix, [lanes, rows] each."""

    contrast: Array  # 1/n1 on rows of class 1, -1/n0 on rows of class 0
    member: Array  # 1 on training rows


def top_latents(
    sae: SAE,
    x: Float[Array, "n d_model"],
    train: Int[np.ndarray, "lanes rows"],
    mask: Bool[np.ndarray, "lanes rows"],
    labels: Int[np.ndarray, "lanes rows"],
    k: int,
    *,
    ranking: Ranking = "normalised",
    block: int = 4096,
) -> Int[np.ndarray, "lanes k"]:
    """Returns the k latents of each lane whose class means differ most, best first.

    `raw` ranks by |mean over class 1 - mean over class 0| (the study's first version); `normalised`
    first divides each latent by its mean non-zero activation over the lane's training rows (the
    study's code since March 2025: sum / (count + 1e-6) + 1e-6). Equal scores go by index.

    Args:
      sae: the dictionary.
      x: one feature matrix; only its training rows are encoded.
      train: rows of `x` that each lane trains on.
      mask: False where `train` is padding.
      labels: labels of these rows, 0 or 1.
      k: latents to keep, at most `d_sae`.
      ranking: `raw` or `normalised`.
      block: latents encoded at a time.

    Raises:
      ValueError: k larger than the dictionary.
    """
    if k > sae.d_sae:
        raise ValueError(f"k={k} latents were asked for, but the SAE has only {sae.d_sae}.")
    rows, inverse = np.unique(train[mask], return_inverse=True)
    contrast = np.zeros((len(train), len(rows)), np.float32)
    member = np.zeros_like(contrast)
    lane = np.nonzero(mask)[0]
    positive, count = (labels * mask).sum(axis=1), mask.sum(axis=1)
    share = np.where(
        labels == 1,
        1 / np.maximum(positive, 1)[:, None],
        -1 / np.maximum(count - positive, 1)[:, None],
    )
    contrast[lane, inverse] = share[mask]
    member[lane, inverse] = 1
    lanes = _Lanes(jnp.asarray(contrast), jnp.asarray(member))
    x = jnp.asarray(x)[rows]
    best = (jnp.full((len(train), k), -1.0), jnp.zeros((len(train), k), jnp.int32))
    for start in range(0, sae.d_sae, block):
        stop = min(start + block, sae.d_sae)
        piece = SAE(
            sae.W_enc[:, start:stop],
            sae.b_enc[start:stop],
            sae.W_dec[start:stop],
            sae.b_dec,
            sae.threshold[start:stop],
        )
        best = _merge(best, piece, x, lanes, start, ranking)
    return np.asarray(best[1])


@functools.partial(jax.jit, static_argnames="ranking")
def _merge(
    best,
    piece: SAE,
    x: Float[Array, "n d_model"],
    lanes: _Lanes,
    start: Int[Array, ""],
    ranking: Ranking,
):
    """Scores one block of latents and keeps the best k of those seen so far."""
    product = functools.partial(jnp.matmul, precision="highest")
    latents = jumprelu(product(x, piece.W_enc) + piece.b_enc[None, :], piece.threshold[None, :])
    score = jnp.abs(product(lanes.contrast, latents))
    if ranking == "normalised":
        fired = product(lanes.member, (latents != 0).astype(latents.dtype))
        score = score / (product(lanes.member, latents) / (fired + 1e-6) + 1e-6)
    index = jnp.broadcast_to(
        start + jnp.arange(score.shape[1], dtype=jnp.int32)[None, :], score.shape
    )
    scores = jnp.concatenate([best[0], score], axis=1)  # earlier blocks first: ties go by index
    indices = jnp.concatenate([best[1], index], axis=1)
    top, place = jax.lax.top_k(scores, best[0].shape[1])
    return top, jnp.take_along_axis(indices, place, axis=1)


@jax.jit
def encode_columns(
    sae: SAE, x: Float[Array, "n d_model"], latents: Int[Array, " m"]
) -> Float[Array, "n m"]:
    """Returns the activations of some latents only; the others are never computed."""
    pre = jnp.matmul(x, sae.W_enc[:, latents], precision="highest") + sae.b_enc[latents][None, :]
    return jumprelu(pre, sae.threshold[latents][None, :])

"""The part of an SAE that computes some latents alone: what a saved probe brings along."""

from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int

from probejax.saes.sae import SAE
from probejax.saes.stored import StoredSAE


class Part(NamedTuple):
    """Some latents of an SAE.

    Attributes:
      sae: an encoder of these latents, without decoder.
      latents: [M], their indices in the whole SAE, rising.
    """

    sae: SAE
    latents: Int[np.ndarray, " M"]


def cut(sae: Any, latents: Int[np.ndarray, " M"]) -> Part | None:
    """Returns the part of an SAE that computes some latents, or None where others decide with them.

    Args:
      sae: an SAE, loaded or in its file; a part; or anything with `encode(x)`.
      latents: indices, rising.
    """
    if isinstance(sae, Part):
        sae, latents = sae.sae, np.searchsorted(sae.latents, latents)
    if not isinstance(sae, SAE | StoredSAE) or sae.keep.kind != "all":
        return None
    encoder = sae.columns(latents)
    return Part(
        SAE(
            W_enc=encoder.W_enc,
            b_enc=encoder.b_enc,
            W_dec=None,
            b_dec=cast(Any, sae.b_dec),
            threshold=encoder.threshold,
            center=cast(Any, sae.center),
            normalise=sae.normalise,
        ),
        latents,
    )


def within(sae: Any, latents: Int[np.ndarray, " M"]) -> tuple[Any, Int[np.ndarray, " M"]]:
    """Returns an SAE that can encode, and what latents of the whole are called in it."""
    if isinstance(sae, Part):
        return sae.sae, np.searchsorted(sae.latents, latents)
    return sae, latents


def width(sae: Any) -> int | None:
    """Returns the width of the activations that an SAE reads, None where it does not say."""
    return getattr(sae.sae if isinstance(sae, Part) else sae, "d_model", None)

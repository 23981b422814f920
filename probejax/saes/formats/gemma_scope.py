"""Gemma Scope: `params.npz` for Gemma 2 (arXiv 2408.05147), and writing that file.

JumpReLU on raw activations. SAEs of the embedding were trained on it before the model scales it by
sqrt(d_model), while the residual stream holds it scaled.
"""

import io
import re
from pathlib import Path

import numpy as np

from probejax.saes.formats import npz
from probejax.saes.formats.format import Description, Files, Format, nothing_else, take
from probejax.saes.stored import StoredSAE, sizes
from probejax.sites import EMBEDDING

_MEMBERS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)")
_KINDS = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_z"}


def _describe(files: Files) -> Description:
    tensors = npz.read(files.weights)
    (W_enc,) = take(files.weights, tensors, "W_enc")
    return Description(*sizes(files.weights, W_enc), *from_path(files.weights), "jumprelu")


def from_path(path: Path) -> tuple[str | None, int | None, str | None, float | None]:
    """Returns model, layer, kind and L0 as far as the folders' names tell them."""
    text = "/".join(path.parts)
    repository = _REPOSITORY.search(text)
    model = kind = None
    if repository:
        size, tuning, part = repository.groups()
        model, kind = f"gemma-2-{size}{'-it' if tuning == 'it' else ''}", _KINDS[part]
    layer = re.search(r"layer_(\d+)(?=/)", text)
    l0 = re.search(r"average_l0_(\d+)(?=/)", text)
    number = int(layer[1]) if layer else None
    if "embedding" in path.parts:
        number, kind = EMBEDDING.layer, EMBEDDING.kind
    return model, number, kind, float(l0[1]) if l0 else None


def _load(files: Files, variant: str) -> StoredSAE:
    tensors = npz.read(files.weights)
    nothing_else(files.weights, tensors, *_MEMBERS, "scaling_factor")
    W_enc, b_enc, W_dec, b_dec, threshold = take(files.weights, tensors, *_MEMBERS)
    if "scaling_factor" in tensors and not np.allclose(tensors["scaling_factor"][...], 1):
        raise ValueError(f"{files.weights} has a scaling_factor other than 1, which none has.")
    scale, gains = 1.0, {}
    if "embedding" in files.weights.parts:
        scale, ones = np.sqrt(W_enc.shape[0]), np.ones(b_enc.shape)
        gains = {"encoder_gain": ones / scale, "decoder_gain": ones * scale}
    vectors = (b_enc[...], W_dec, b_dec[...] * scale, threshold[...])
    return StoredSAE.build(files.weights, W_enc, *vectors, **gains)


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the content of a `params.npz` with these arrays, in the dtypes they have."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(arrays[name]) for name in _MEMBERS})
    return buffer.getvalue()


FORMAT = Format("gemma_scope", "params.npz", None, _describe, _load, by_name="*.npz")

"""Gemma Scope 2: `params.safetensors` for Gemma 3; JumpReLU on raw activations."""

import re
from typing import ClassVar

from probejax.saes import model_names
from probejax.saes.formats import safetensors_file, settings
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    nothing_else,
    place,
    refuse_transcoder,
    take,
)
from probejax.saes.formats.settings import Amount, Settings, Width
from probejax.saes.stored import StoredSAE, sizes

_NAMES = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
_KINDS = {"resid_post": "resid_post", "attn_out": "attn_z", "mlp_out": "mlp_out"}


class _Config(Settings, frozen=True):
    """What the file says."""

    hf_hook_point_in: str | None = None
    hf_hook_point_out: str | None = None
    width: Width | None = None
    model_name: str | None = None
    l0: Amount | None = None
    type: str | None = None
    affine_connection: bool = False

    only: ClassVar = {"architecture": ("jump_relu",)}


def _describe(files: Files) -> Description:
    (w_enc,) = take(files.weights, safetensors_file.read(files.weights), "w_enc")
    config = files.settings(_Config)
    layer, kind = place(config.hf_hook_point_in, "gemma-3")
    model, l0 = model_names.usual(config.model_name), config.l0
    path = "/".join(files.weights.parts)
    if layer is None and (found := re.search(r"layer_(\d+)_width_\w+_l0_", path)):
        layer = int(found[1])
    if kind is None and (found := re.search(r"/(resid_post|attn_out|mlp_out)(_all)?/", path)):
        kind = _KINDS[found[1]]
    if model is None and (found := re.search(r"gemma-scope-2-(\d+[mb])-(pt|it)", path)):
        model = model_names.usual(f"gemma-3-{found[1]}-{found[2]}")
    return Description(*sizes(files.weights, w_enc), model, layer, kind, l0, "jumprelu")


def _load(files: Files, variant: str) -> StoredSAE:
    config, tensors = files.settings(_Config), safetensors_file.read(files.weights)
    elsewhere = config.hf_hook_point_out not in (None, config.hf_hook_point_in)
    affine = config.affine_connection or "affine_skip_connection" in tensors
    if affine or config.type not in (None, "sae") or (config.type is None and elsewhere):
        raise refuse_transcoder(files.weights)
    nothing_else(files.weights, tensors, *_NAMES)
    w_enc, b_enc, w_dec, b_dec, threshold = take(files.weights, tensors, *_NAMES)
    widths = {"d_model": None, "width": config.width}
    settings.same_widths(files.config, files.weights, sizes(files.weights, w_enc), **widths)
    vectors = (b_enc[...], w_dec, b_dec[...], threshold[...])
    return StoredSAE.build(files.weights, w_enc, *vectors)


FORMAT = Format(
    "gemma_scope_2", "params.safetensors", "config.json", _describe, _load, needs_config=False
)

"""Gemma Scope 2: `params.safetensors` for Gemma 3; JumpReLU on raw activations."""

import re

from probejax.saes.formats import safetensors_file
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    model_name,
    place,
    refuse_transcoder,
    take,
)
from probejax.saes.stored import StoredSAE, sizes

_NAMES = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
_SITES = {"resid_post": "resid_post", "attn_out": "attn_z", "mlp_out": "mlp_out"}


def _describe(files: Files) -> Description:
    (w_enc,) = take(files.weights, safetensors_file.read(files.weights), "w_enc")
    settings = files.settings()
    layer, site = place(settings.get("hf_hook_point_in"))
    model, l0 = model_name(settings.get("model_name")), settings.get("l0")
    path = "/".join(files.weights.parts)
    if layer is None and (found := re.search(r"layer_(\d+)_width_\w+_l0_", path)):
        layer = int(found[1])
    if site is None and (found := re.search(r"/(resid_post|attn_out|mlp_out)(_all)?/", path)):
        site = _SITES[found[1]]
    if model is None and (found := re.search(r"gemma-scope-2-(\d+[mb])-(pt|it)", path)):
        model = f"gemma-3-{found[1]}-{found[2]}"
    if model == "gemma-3-270m-pt":  # the one base model without a suffix
        model = "gemma-3-270m"
    return Description(*sizes(files.weights, w_enc), model, layer, site, l0, "jumprelu")


def _load(files: Files, variant: str) -> StoredSAE:
    settings, tensors = files.settings(), safetensors_file.read(files.weights)
    if settings.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(
            f"{files.config} says architecture={settings['architecture']}; expected jump_relu."
        )
    if settings.get("type", "sae") != "sae" or "affine_skip_connection" in tensors:
        raise refuse_transcoder(files.weights)
    w_enc, b_enc, w_dec, b_dec, threshold = take(files.weights, tensors, *_NAMES)
    vectors = (b_enc[...], w_dec, b_dec[...], threshold[...])
    return StoredSAE.build(files.weights, w_enc, *vectors)


FORMAT = Format(
    "gemma_scope_2", "params.safetensors", "config.json", _describe, _load, needs_config=False
)

"""OpenMOSS' own format since 2025, and Llama Scope for DeepSeek-R1-Distill.

`config.json` and `sae_weights.safetensors`. Inputs are scaled to a mean norm of sqrt(d_model); with
the decoder's norms n included, latents compete or pass their threshold as n z but keep the value z.
"""

import math
import re

import numpy as np

from probejax.saes.formats import safetensors_file
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    place,
    refuse_transcoder,
    take,
)
from probejax.saes.stored import FileArray, StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NATIVE = ("W_E", "b_E", "W_D", "b_D")


def _matrices(files: Files, tensors: dict) -> tuple[FileArray, FileArray, FileArray, FileArray]:
    """Returns encoder [d_model, d_sae], its bias, decoder [d_sae, d_model] and its bias."""
    if "W_E" in tensors:
        W_E, b_E, W_D, b_D = take(files.weights, tensors, *_NATIVE)
        return W_E, b_E, W_D, b_D
    encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *_LINEAR)
    return encoder.T, b_enc, decoder.T, b_dec


def _describe(files: Files) -> Description:
    settings = files.settings()
    matrix = _matrices(files, safetensors_file.read(files.weights))[0]
    layer, site = place(settings.get("hook_point_in"))
    path = "/".join(files.weights.parts)
    model = "DeepSeek-R1-Distill-Llama-8B" if "Llama-Scope-R1-Distill" in path else None
    if layer is None and (found := re.search(r"/L(\d+)R/", path)):
        layer, site = int(found[1]), "resid_post"
    act = settings.get("act_fn", "jumprelu")
    l0 = settings.get("top_k") if act in ("topk", "batchtopk") else None
    return Description(*sizes(files.weights, matrix), model, layer, site, l0, act)


def _load(files: Files, variant: str) -> StoredSAE:
    settings, tensors = files.settings(), safetensors_file.read(files.weights)
    hook = settings.get("hook_point_in")
    if settings.get("hook_point_out", hook) != hook:
        raise refuse_transcoder(files.weights)
    W_enc, b_enc, W_dec, b_dec = _matrices(files, tensors)
    d_model, d_sae = W_enc.shape
    scale = 1.0
    if settings.get("norm_activation", "dataset-wise") == "dataset-wise":
        (norm,) = take(files.weights, tensors, f"dataset_average_activation_norm.{hook}")
        scale = math.sqrt(d_model) / float(norm[...])
    norms = np.ones(d_sae)
    if settings.get("sparsity_include_decoder_norm"):
        norms = row_norms(W_dec)
    act = settings.get("act_fn", "jumprelu")
    keep, threshold, weight = ALL, np.zeros(d_sae), None
    if act == "jumprelu":
        (log_threshold,) = take(files.weights, tensors, "log_jumprelu_threshold")
        threshold = np.exp(np.float64(log_threshold[...])) / norms
    elif act == "topk":
        keep, weight = Keep("top", int(settings["top_k"])), norms
    elif act != "relu":
        raise ValueError(
            f"{files.config} says act_fn={act}; expected relu, jumprelu or topk (a batch of tokens "
            "cannot compete when one is encoded at a time)."
        )
    if settings.get("apply_decoder_bias_to_pre_encoder"):
        raise ValueError(f"{files.config} subtracts the decoder's bias, which no release does.")
    return StoredSAE.build(
        files.weights,
        W_enc,
        b_enc[...],
        W_dec,
        b_dec[...] / scale,
        threshold,
        weight=weight,
        encoder_gain=np.full(d_sae, scale),
        decoder_gain=np.full(d_sae, 1 / scale),
        keep=keep,
    )


FORMAT = Format("openmoss", "sae_weights.safetensors", "config.json", _describe, _load)

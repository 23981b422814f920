"""Llama Scope (arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`.

The file holds weights for inputs scaled to a mean norm of sqrt(d_model) and one threshold t that
was measured after the decoder's norms had been moved into the encoder. With s = sqrt(d_model) /
mean norm, and n_j = ||D_j|| s_in / s_out for the raw decoder column D_j,

    f_j = JumpReLU_t(n_j (x.w_j + b_j / s_in))        reference: the authors' own loader
    f_j = JumpReLU_{t s_in}(s_in x.w_j + b_j)         saelens: since its version 5.10
    f_j = JumpReLU_t(s_in x.w_j + b_j)                saelens_pre483: before that
"""

import math

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
from probejax.saes.stored import StoredSAE, row_norms, sizes

_NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _describe(files: Files) -> Description:
    (weight,) = take(files.weights, safetensors_file.read(files.weights), "encoder.weight")
    settings = files.settings()
    layer, site = place(settings.get("hook_point_in"))
    model = "Llama-3.1-8B" if "Llama3_1-8B-Base" in "/".join(files.weights.parts) else None
    l0 = settings.get("top_k")
    return Description(*sizes(files.weights, weight.T), model, layer, site, l0, "jumprelu")


def _load(files: Files, variant: str) -> StoredSAE:
    settings = files.settings()
    if settings.get("hook_point_in") != settings.get("hook_point_out"):
        raise refuse_transcoder(files.weights)
    if settings.get("act_fn") != "jumprelu" or settings.get("use_glu_encoder"):
        raise ValueError(
            f"{files.config} says act_fn={settings.get('act_fn')}, "
            f"use_glu_encoder={settings.get('use_glu_encoder')}; expected jumprelu without a GLU."
        )
    tensors = safetensors_file.read(files.weights)
    encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *_NAMES)
    d_sae, d_model = encoder.shape
    s_in = s_out = 1.0
    if settings.get("norm_activation") == "dataset-wise":
        norms = settings["dataset_average_activation_norm"]
        s_in, s_out = (math.sqrt(d_model) / norms[side] for side in ("in", "out"))
    t, ones = float(settings["jump_relu_threshold"]), np.ones(d_sae)
    if variant == "reference":
        gain, back = ones, ones * s_in / s_out
        if settings.get("sparsity_include_decoder_norm"):
            n = row_norms(decoder.T)
            gain, back = n * s_in / s_out, 1 / n
        bias, threshold, b_dec = gain * b_enc[...] / s_in, t * ones, b_dec[...] / s_out
        center = b_dec if settings.get("apply_decoder_bias_to_pre_encoder") else None
    else:
        gain, back, bias, center = s_in * ones, ones / s_in, b_enc[...], None
        threshold, b_dec = (t * s_in if variant == "saelens" else t) * ones, b_dec[...] / s_in
    return StoredSAE.build(
        files.weights,
        encoder.T,
        bias,
        decoder.T,
        b_dec,
        threshold,
        center=center,
        encoder_gain=gain,
        decoder_gain=back,
    )


FORMAT = Format(
    "llama_scope",
    "checkpoints/final.safetensors",
    "hyperparams.json",
    _describe,
    _load,
    variants=("reference", "saelens", "saelens_pre483"),
)

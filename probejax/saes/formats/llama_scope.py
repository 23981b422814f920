"""Llama Scope (arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`.

The file holds weights for inputs scaled to a mean norm of sqrt(d_model) and one threshold t that
was measured after the decoder's norms had been moved into the encoder. With s = sqrt(d_model) /
mean norm, and n_j = ||D_j|| s_in / s_out for the raw decoder column D_j,

    f_j = JumpReLU_t(n_j (x.w_j + b_j / s_in))        reference: the authors' own loader
    f_j = JumpReLU_{t s_in}(s_in x.w_j + b_j)         saelens: since its version 5.10
    f_j = JumpReLU_t(s_in x.w_j + b_j)                saelens_pre483: before that
"""

import math
from typing import ClassVar

import msgspec
import numpy as np

from probejax.saes.formats import safetensors_file, settings
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    nothing_else,
    place,
    refuse_transcoder,
    take,
    vectors,
)
from probejax.saes.formats.openmoss import IDLE
from probejax.saes.formats.settings import Settings, Size, Width
from probejax.saes.stored import StoredSAE, row_norms, sizes

_NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


class _Norms(msgspec.Struct, frozen=True):
    """Mean norms of what is read and of what is reconstructed."""

    read: Size = msgspec.field(name="in")
    written: Size = msgspec.field(name="out")


class _Config(Settings, frozen=True):
    """What the file says."""

    act_fn: str
    jump_relu_threshold: float
    hook_point_in: str | None = None
    hook_point_out: str | None = None
    d_model: Width | None = None
    d_sae: Width | None = None
    norm_activation: str = "inference"
    dataset_average_activation_norm: _Norms | None = None
    sparsity_include_decoder_norm: bool = False
    apply_decoder_bias_to_pre_encoder: bool = False
    top_k: Width | None = None

    only: ClassVar = {
        "act_fn": ("jumprelu",),
        "norm_activation": ("dataset-wise", "inference"),  # the latter is folded already
        "use_glu_encoder": (False,),
        "use_decoder_bias": (True,),
    }
    idle: ClassVar = IDLE


def _describe(files: Files) -> Description:
    (weight,) = take(files.weights, safetensors_file.read(files.weights), "encoder.weight")
    config = files.settings(_Config)
    layer, kind = place(config.hook_point_in)
    model = "Llama-3.1-8B" if "Llama3_1-8B-Base" in "/".join(files.weights.parts) else None
    widths = sizes(files.weights, weight.T)
    return Description(*widths, model, layer, kind, config.top_k, "jumprelu")


def _load(files: Files, variant: str) -> StoredSAE:
    config = files.settings(_Config)
    if config.hook_point_in != config.hook_point_out:
        raise refuse_transcoder(files.weights)
    tensors = safetensors_file.read(files.weights)
    nothing_else(files.weights, tensors, *_NAMES)
    encoder, _, decoder, b_dec = take(files.weights, tensors, *_NAMES)
    d_model, d_sae = sizes(files.weights, encoder.T, decoder.T)
    (b_enc,) = vectors(files.weights, tensors, d_sae, "encoder.bias")
    widths = {"d_model": config.d_model, "d_sae": config.d_sae}
    settings.same_widths(files.config, files.weights, (d_model, d_sae), **widths)
    s_in = s_out = 1.0
    if config.norm_activation == "dataset-wise":
        norms = config.dataset_average_activation_norm
        if norms is None:
            name = "dataset_average_activation_norm"
            raise settings.refusal(files.config, name, None, ("the mean norms in and out",))
        s_in, s_out = math.sqrt(d_model) / norms.read, math.sqrt(d_model) / norms.written
    t, ones = config.jump_relu_threshold, np.ones(d_sae)
    if variant == "reference":
        gain, back = ones, ones * s_in / s_out
        if config.sparsity_include_decoder_norm:
            n = row_norms(decoder.T)
            gain, back = n * s_in / s_out, 1 / n
        bias, threshold, b_dec = gain * b_enc / s_in, t * ones, b_dec[...] / s_out
        center = b_dec if config.apply_decoder_bias_to_pre_encoder else None
    else:
        if config.apply_decoder_bias_to_pre_encoder:  # which SAELens never does
            name = "apply_decoder_bias_to_pre_encoder"
            raise settings.refusal(files.config, name, True, (False,))
        gain, back, bias, center = s_in * ones, ones / s_in, b_enc, None
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

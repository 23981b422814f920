"""OpenMOSS' own format since 2025, and Llama Scope for DeepSeek-R1-Distill.

`config.json` and `sae_weights.safetensors`. Inputs are scaled to a mean norm of sqrt(d_model); with
the decoder's norms n included, latents compete or pass their threshold as n z but keep the value z.
"""

import math
import re
from typing import ClassVar

import numpy as np

from probejax.saes.formats import safetensors_file, settings
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    nothing_else,
    place,
    refuse_transcoder,
    scalar,
    take,
    vectors,
)
from probejax.saes.formats.settings import Settings, Width
from probejax.saes.stored import FileArray, StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

IDLE = frozenset(  # fields of all versions of its library that steered the training
    (
        *("expansion_factor", "lp", "init_decoder_norm", "init_encoder_norm", "tp_size"),
        *("init_encoder_with_decoder_transpose", "bias_init_method", "decoder_bias_init_method"),
        *("decoder_exactly_fixed_norm", "decoder_exactly_unit_norm", "force_unit_decoder_norm"),
        *("k_warmup_steps", "use_batch_norm_mse", "clip_grad_norm", "promote_act_fn_dtype"),
        *("jumprelu_threshold_window", "jumprelu_threshold_grad_scale", "jump_relu_threshold"),
        *("sparsity_threshold_for_csr", "sparsity_threshold_for_triton_spmm_kernel"),
        "feature_sampling_window",
    )
)
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NATIVE = ("W_E", "b_E", "W_D", "b_D")


class _Config(Settings, frozen=True):
    """What the file says."""

    act_fn: str
    sparsity_include_decoder_norm: bool
    hook_point_in: str | None = None
    hook_point_out: str | None = None
    d_model: Width | None = None
    d_sae: Width | None = None
    top_k: Width | None = None
    norm_activation: str = "dataset-wise"

    only: ClassVar = {
        "sae_type": ("sae",),
        # A batch of tokens cannot compete when one is encoded at a time.
        "act_fn": ("relu", "jumprelu", "topk"),
        "norm_activation": ("dataset-wise", "inference"),  # the latter is folded already
        "use_glu_encoder": (False,),
        "use_decoder_bias": (True,),
        "apply_decoder_bias_to_pre_encoder": (False,),
    }
    idle: ClassVar = IDLE


def _matrices(files: Files, tensors: dict) -> tuple[FileArray, FileArray, FileArray, FileArray]:
    """Returns encoder [d_model, d_sae], its bias, decoder [d_sae, d_model] and its bias."""
    if "W_E" in tensors:
        W_E, b_E, W_D, b_D = take(files.weights, tensors, *_NATIVE)
        return W_E, b_E, W_D, b_D
    encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *_LINEAR)
    return encoder.T, b_enc, decoder.T, b_dec


def _describe(files: Files) -> Description:
    config = files.settings(_Config)
    matrix = _matrices(files, safetensors_file.read(files.weights))[0]
    layer, kind = place(config.hook_point_in)
    path = "/".join(files.weights.parts)
    model = "DeepSeek-R1-Distill-Llama-8B" if "Llama-Scope-R1-Distill" in path else None
    if layer is None and (found := re.search(r"/L(\d+)R/", path)):
        layer, kind = int(found[1]), "resid_post"
    l0 = config.top_k if config.act_fn == "topk" else None
    return Description(*sizes(files.weights, matrix), model, layer, kind, l0, config.act_fn)


def _load(files: Files, variant: str) -> StoredSAE:
    config, tensors = files.settings(_Config), safetensors_file.read(files.weights)
    hook = config.hook_point_in
    if config.hook_point_out not in (None, hook):
        raise refuse_transcoder(files.weights)
    W_enc, b_enc, W_dec, b_dec = _matrices(files, tensors)
    names = _NATIVE if "W_E" in tensors else _LINEAR
    norms_of = (name for name in tensors if name.startswith("dataset_average_activation_norm."))
    thresholds = ("log_jumprelu_threshold",) if config.act_fn == "jumprelu" else ()
    nothing_else(files.weights, tensors, *names, *thresholds, *norms_of)
    d_model, d_sae = sizes(files.weights, W_enc, W_dec)
    widths = {"d_model": config.d_model, "d_sae": config.d_sae}
    settings.same_widths(files.config, files.weights, (d_model, d_sae), **widths)
    scale = 1.0
    if config.norm_activation == "dataset-wise":
        norm = scalar(files.weights, tensors, f"dataset_average_activation_norm.{hook}")
        if not norm > 0:
            raise ValueError(f"{files.weights} says that the mean norm at {hook} is {norm:g}.")
        scale = math.sqrt(d_model) / norm
    norms = np.ones(d_sae)
    if config.sparsity_include_decoder_norm:
        norms = row_norms(W_dec)
    keep, threshold, weight = ALL, np.zeros(d_sae), None
    if config.act_fn == "jumprelu":
        (log_threshold,) = vectors(files.weights, tensors, d_sae, "log_jumprelu_threshold")
        threshold = np.exp(log_threshold) / norms
    elif config.act_fn == "topk":
        keep, weight = Keep("top", config.top_k or 0), norms
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

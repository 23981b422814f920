"""SAELens: `cfg.json` and `sae_weights.safetensors`, before and since its version 6.

Files of a finished SAE hold one of five architectures; a checkpoint of a BatchTopK training run
holds its threshold too. `fold_decoder_norm` gives latents in the units of their reconstruction, as
Neuronpedia shows them.
"""

import json
from typing import Any, ClassVar

import msgspec
import numpy as np
from safetensors.numpy import save

from probejax import foreign
from probejax.saes import model_names
from probejax.saes.formats import sae_lens_model, safetensors_file, settings
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
from probejax.saes.formats.settings import Amount, Layer, Settings, Width
from probejax.saes.sae import Normalise
from probejax.saes.stored import StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

_BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")  # only while they train
_ARCHITECTURES = ("standard", "gated", "jumprelu", "topk", "abstopk", *_BATCH_TOP_K)
_ACTIVATIONS = ("relu", "topk")
_FACTORS = ("finetuning_scaling_factor", "scaling_factor")  # tensors, by version
_THRESHOLDS = ("threshold", "log_threshold")  # the latter in checkpoints of old training runs
_TRAINED = {"standard": "relu", "matryoshka_batchtopk": "matryoshka"}  # by our names
_NORMALISE: dict[str, Normalise] = {
    "none": "none",
    "expected_average_only_in": "none",  # a factor, which is folded
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
}


class _Config(Settings, frozen=True):
    """Fields of all versions; those of version 6's `metadata` stand among them."""

    d_in: Width | None = None
    d_sae: Width | None = None
    architecture: str = "standard"
    activation_fn: str | None = None
    activation_fn_str: str | None = None  # its name until version 5
    activation_fn_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    k: float | None = None
    rescale_acts_by_decoder_norm: bool | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str | bool = "none"
    norm_scaling_factor: Amount | None = None
    finetuning_scaling_factor: bool = False
    hook_name: str | None = None
    hook_point: str | None = None  # its name until version 2
    hook_point_layer: Layer | None = None
    model_name: str | None = None
    model_from_pretrained_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    prepend_bos: bool | None = None
    l0: Amount | None = None
    training_architecture: str | None = None

    only: ClassVar = {
        "architecture": _ARCHITECTURES,
        "activation_fn": _ACTIVATIONS,
        "activation_fn_str": _ACTIVATIONS,
        "normalize_activations": (*_NORMALISE, False, True),
        "reshape_activations": ("none", "hook_z"),  # a hook_z SAE reads its heads side by side
        "hook_head_index": (),
        "hook_point_head_index": (),
    }
    idle: ClassVar = frozenset(
        (
            *("noise_scale", "lp_norm", "mse_loss_normalization", "normalize_sae_decoder"),
            *("scale_sparsity_penalty_by_decoder_norm", "pre_act_loss_coefficient"),
            *("decoder_init_norm", "decoder_heuristic_init", "decoder_heuristic_init_norm"),
            *("decoder_orthogonal_init", "init_encoder_as_decoder_transpose", "b_dec_init_method"),
            *("jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode"),
            *("jumprelu_ste_to_input", "jumprelu_tanh_scale", "topk_threshold_lr"),
            *("use_sparse_activations", "dead_feature_threshold", "dead_feature_window"),
            *("feature_sampling_window", "feature_reinit_scale", "expansion_factor"),
            *("act_store_device", "activations_mixing_fraction", "log_activations_store_to_wandb"),
            *("use_cached_activations", "cached_activations_path", "new_cached_activations_path"),
            "n_batches_for_norm_estimate",
        )
    )


def _before_6(version: Any) -> bool:
    major = str(version or "0").split(".")[0]
    return major.isdigit() and int(major) < 6


def _settings(files: Files) -> _Config:
    """Returns the settings, those under `metadata` included.

    Raises:
      ValueError: they are damaged, or ask for what is not implemented.
    """
    found = settings.read(files.config)
    with foreign.parsing(files.config or files.weights, settings.ADVICE):
        found = msgspec.convert(found.get("metadata", {}), dict[str, Any]) | found
    if "transcoder" in str(found.get("architecture")):
        raise refuse_transcoder(files.weights)
    config = settings.settle(files.config, found, _Config)
    activation = config.activation_fn_str or config.activation_fn
    if activation == "topk" and config.architecture not in ("standard", "topk"):
        name = "activation_fn_str" if config.activation_fn_str else "activation_fn"
        raise settings.refusal(files.config, name, "topk", ("relu",))
    if config.activation_fn_kwargs.keys() - {"k"}:
        expected = ({"k": config.activation_fn_kwargs.get("k", 1)},)
        name = "activation_fn_kwargs"
        raise settings.refusal(files.config, name, config.activation_fn_kwargs, expected)
    changes: dict[str, Any] = {}
    if activation == "topk":
        with foreign.parsing(files.config or files.weights, settings.ADVICE):
            k = msgspec.convert(config.activation_fn_kwargs.get("k", config.k), float | None)
        changes = {"architecture": "topk", "k": k}
    if isinstance(config.normalize_activations, bool):
        factor = config.normalize_activations
        changes["normalize_activations"] = "expected_average_only_in" if factor else "none"
    if "prepend_bos" not in found and _before_6(found.get("sae_lens_version")):
        changes["prepend_bos"] = True  # which its library took for granted
    if hook := config.hook_name or config.hook_point:  # until version 2 it may be a template
        changes["hook_name"] = hook.replace("{layer}", str(config.hook_point_layer))
    return msgspec.structs.replace(config, **changes)


def _describe(files: Files) -> Description:
    (W_dec,) = take(files.weights, safetensors_file.read(files.weights), "W_dec")
    config = _settings(files)
    layer, kind = place(config.hook_name, config.model_name)
    l0 = config.k if "topk" in config.architecture else config.l0
    trained = config.training_architecture or config.architecture
    return Description(
        *sizes(files.weights, W_dec.T),
        model_names.usual(config.model_name),
        layer,
        kind,
        l0,
        _TRAINED.get(trained, trained),
        _reads_centred(files, config),
        config.prepend_bos,
    )


def _reads_centred(files: Files, config: _Config) -> bool:
    model, (_, kind) = model_names.usual(config.model_name), place(config.hook_name)
    options = config.model_from_pretrained_kwargs
    return sae_lens_model.reads_centred(files.config, files.weights, options, model, kind)


def _load(files: Files, variant: str) -> StoredSAE:
    config, tensors = _settings(files), safetensors_file.read(files.weights)
    architecture, normalise = config.architecture, _NORMALISE[str(config.normalize_activations)]
    if _reads_centred(files, config):
        normalise = sae_lens_model.centred(files.config, normalise)
    if architecture in _BATCH_TOP_K:
        architecture = "batchtopk"
    W_enc, W_dec = take(files.weights, tensors, "W_enc", "W_dec")
    d_model, d_sae = sizes(files.weights, W_enc, W_dec)
    widths = {"d_in": config.d_in, "d_sae": config.d_sae}
    settings.same_widths(files.config, files.weights, (d_model, d_sae), **widths)
    names = ("b_mag", "b_gate", "r_mag") if architecture == "gated" else ("b_enc",)
    extra = {"jumprelu": _THRESHOLDS, "batchtopk": ("topk_threshold",)}.get(architecture, ())
    known = ("W_enc", "W_dec", "b_dec", *names, *extra, *_FACTORS)
    nothing_else(files.weights, tensors, *known)
    gain, back, threshold, keep = np.ones(d_sae), np.ones(d_sae), np.zeros(d_sae), ALL
    b_enc, *others = vectors(files.weights, tensors, d_sae, *names)
    if architecture == "gated":
        b_gate, r_mag = others
        gain = np.exp(r_mag)
        threshold = b_enc - gain * b_gate
    elif architecture == "jumprelu":
        logarithm = "log_threshold" in tensors
        name = _THRESHOLDS[logarithm]
        (threshold,) = vectors(files.weights, tensors, d_sae, name)
        threshold = np.exp(threshold) if logarithm else threshold
    elif architecture == "batchtopk":
        threshold += scalar(files.weights, tensors, "topk_threshold")
    elif architecture in ("topk", "abstopk"):
        keep = Keep(
            "top" if architecture == "topk" else "magnitude",
            settings.whole(files.config, "k", config.k),
        )
    rescale = config.rescale_acts_by_decoder_norm
    if (architecture == "batchtopk" if rescale is None else rescale) and "topk" in architecture:
        norm = row_norms(W_dec)
        gain, back, b_enc = gain * norm, back / norm, b_enc * norm
    elif variant == "fold_decoder_norm":
        if keep != ALL:
            raise ValueError(f"{files.weights} is a {architecture}, whose decoder stays as it is.")
        norm = np.maximum(row_norms(W_dec), 1e-8)
        gain, back, b_enc, threshold = gain * norm, back / norm, b_enc * norm, threshold * norm
    (b_dec,) = vectors(files.weights, tensors, d_model, "b_dec")
    center = b_dec if config.apply_b_dec_to_input else None
    if config.normalize_activations == "expected_average_only_in":
        scale = _scale(files, config, d_model)
        gain, back, b_dec = gain * scale, back / scale, b_dec / scale
        center = None if center is None else center / scale
    factors = [name for name in _FACTORS if name in tensors]
    if config.finetuning_scaling_factor and not factors:
        factors = _FACTORS[:1]
    for factor in vectors(files.weights, tensors, d_sae, *factors):  # of the decoder only
        back = back * factor
    return StoredSAE.build(
        files.weights,
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        threshold,
        center=center,
        encoder_gain=gain,
        decoder_gain=back,
        keep=keep,
        normalise=normalise,
    )


def to_files(arrays: dict[str, np.ndarray], k: int, **metadata: Any) -> dict[str, bytes]:
    """Returns the two files of a top-k SAE that reads raw activations, by name.

    Args:
      arrays: `W_enc`, `b_enc`, `W_dec`, `b_dec`.
      k: active latents per row.
      **metadata: what else is known, such as `model_name` and `hook_name`.
    """
    kept = {
        name: np.ascontiguousarray(arrays[name]) for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    }
    d_in, d_sae = kept["W_enc"].shape
    config = {
        "architecture": "topk",
        "k": k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", **metadata},
    }
    text = json.dumps(config, indent=1) + "\n"
    return {"sae_weights.safetensors": save(kept), "cfg.json": text.encode()}


def _scale(files: Files, config: _Config, d_model: int) -> float:
    """Returns the factor that gives inputs a mean norm of sqrt(d_model)."""
    scale = config.norm_scaling_factor
    if not scale:
        raise ValueError(
            f"{files.config} says normalize_activations=expected_average_only_in but not by what "
            f"factor; add norm_scaling_factor, which is sqrt({d_model}) divided by the mean norm "
            "of the activations it was trained on."
        )
    return scale


FORMAT = Format(
    "sae_lens",
    "sae_weights.safetensors",
    "cfg.json",
    _describe,
    _load,
    variants=("reference", "fold_decoder_norm"),
)

"""SAELens: `cfg.json` and `sae_weights.safetensors`, before and since its version 6.

Files of a finished SAE hold one of five architectures; a checkpoint of a BatchTopK training run
holds its threshold too. `fold_decoder_norm` gives latents in the units of their reconstruction, as
Neuronpedia shows them.
"""

import json
import math
from typing import Any

import numpy as np
from safetensors.numpy import save

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
from probejax.saes.sae import Normalise
from probejax.saes.stored import StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

_ARCHITECTURES = ("standard", "gated", "jumprelu", "topk", "abstopk", "batchtopk")
_BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")  # only while they train
_TRAINED = {"standard": "relu", "matryoshka_batchtopk": "matryoshka"}  # by our names
_NORMALISE: dict[str, Normalise] = {
    "none": "none",
    "expected_average_only_in": "none",  # a factor, which is folded
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
}


def _settings(files: Files) -> dict:
    """Returns the settings under the names of version 6."""
    found = files.settings()
    found = found.get("metadata", {}) | found
    version = found.get("sae_lens_version")
    old = version is None or int(str(version).split(".")[0]) < 6
    k = (found.get("activation_fn_kwargs") or {}).get("k")
    if old and found.get("activation_fn_str", found.get("activation_fn")) == "topk":
        found |= {"architecture": "topk", "k": k}
    normalise = found.get("normalize_activations")
    if normalise in (None, False, True):
        normalise = "expected_average_only_in" if normalise else "none"
    return {
        "architecture": "standard",
        "apply_b_dec_to_input": True,
        "hook_name": found.get("hook_point"),
        **found,
        "normalize_activations": normalise,
    }


def _describe(files: Files) -> Description:
    (W_dec,) = take(files.weights, safetensors_file.read(files.weights), "W_dec")
    settings = _settings(files)
    layer, site = place(settings["hook_name"])
    l0 = settings.get("k") if "topk" in settings["architecture"] else settings.get("l0")
    trained = settings.get("training_architecture") or settings["architecture"]
    return Description(
        *sizes(files.weights, W_dec.T),
        model_name(settings.get("model_name")),
        layer,
        site,
        l0,
        _TRAINED.get(trained, trained),
    )


def _load(files: Files, variant: str) -> StoredSAE:
    settings, tensors = _settings(files), safetensors_file.read(files.weights)
    architecture = settings["architecture"]
    if "transcoder" in architecture:
        raise refuse_transcoder(files.weights)
    if architecture in _BATCH_TOP_K:
        architecture = "batchtopk"
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"{files.config} says architecture={architecture}; probejax reads "
            f"{', '.join(_ARCHITECTURES)}."
        )
    normalise = settings["normalize_activations"]
    if normalise not in _NORMALISE:
        raise ValueError(
            f"{files.config} says normalize_activations={normalise}; expected "
            f"{', '.join(_NORMALISE)}."
        )
    W_enc, W_dec, b_dec = take(files.weights, tensors, "W_enc", "W_dec", "b_dec")
    d_model, d_sae = W_enc.shape
    names = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    gain, back, threshold, keep = np.ones(d_sae), np.ones(d_sae), np.zeros(d_sae), ALL
    vectors = [vector[...].astype(np.float64) for vector in take(files.weights, tensors, *names)]
    b_enc = vectors[0]
    if architecture == "gated":
        b_gate, b_enc, r_mag = vectors
        gain = np.exp(r_mag)
        threshold = b_enc - gain * b_gate
    elif architecture == "jumprelu":
        threshold = _threshold(files, tensors)
    elif architecture == "batchtopk":
        threshold += take(files.weights, tensors, "topk_threshold")[0][...]
    elif architecture in ("topk", "abstopk"):
        keep = Keep("top" if architecture == "topk" else "magnitude", int(settings.get("k") or 0))
    rescale = settings.get("rescale_acts_by_decoder_norm", architecture == "batchtopk")
    if rescale and "topk" in architecture:
        norm = row_norms(W_dec)
        gain, back, b_enc = gain * norm, back / norm, b_enc * norm
    elif variant == "fold_decoder_norm":
        if keep != ALL:
            raise ValueError(f"{files.weights} is a {architecture}, whose decoder stays as it is.")
        norm = np.maximum(row_norms(W_dec), 1e-8)
        gain, back, b_enc, threshold = gain * norm, back / norm, b_enc * norm, threshold * norm
    b_dec, center = b_dec[...].astype(np.float64), None
    if settings["apply_b_dec_to_input"]:
        center = b_dec
    if normalise == "expected_average_only_in":
        scale = _scale(files, settings, d_model)
        gain, back, b_dec = gain * scale, back / scale, b_dec / scale
        center = None if center is None else center / scale
    if "scaling_factor" in tensors:
        back = back * tensors["scaling_factor"][...]
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
        normalise=_NORMALISE[normalise],
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


def _threshold(files: Files, tensors: dict) -> np.ndarray:
    if "log_threshold" in tensors:  # a checkpoint of an old training run
        return np.exp(tensors["log_threshold"][...].astype(np.float64))
    return take(files.weights, tensors, "threshold")[0][...].astype(np.float64)


def _scale(files: Files, settings: dict, d_model: int) -> float:
    """Returns the factor that gives inputs a mean norm of sqrt(d_model)."""
    scale = settings.get("norm_scaling_factor")
    if not scale or not math.isfinite(scale):
        raise ValueError(
            f"{files.config} says normalize_activations=expected_average_only_in but not by what "
            f"factor; add norm_scaling_factor, which is sqrt({d_model}) divided by the mean norm "
            "of the activations it was trained on."
        )
    return float(scale)


FORMAT = Format(
    "sae_lens",
    "sae_weights.safetensors",
    "cfg.json",
    _describe,
    _load,
    variants=("reference", "fold_decoder_norm"),
)

"""dictionary_learning and SAEBench: `ae.pt` and `config.json`, seven classes.

Every class but JumpReluAutoEncoder and AutoEncoderNew subtracts its decoder's bias first. ReLU SAEs
are loaded with unit decoder rows, as both references do; the variant `raw` keeps them as stored.
"""

import math
from typing import Any, ClassVar

import msgspec
import numpy as np

from probejax.saes import model_names
from probejax.saes.formats import settings, torch_zip
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    nothing_else,
    place,
    scalar,
    take,
    vectors,
)
from probejax.saes.formats.settings import Amount, Layer, Settings, Width
from probejax.saes.stored import FileArray, StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

_MEASURED = "eval_results.json"
_CLASSES = (
    *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"),
    *("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"),
)


class _Trainer(Settings, frozen=True):
    """What trained it."""

    dict_class: str | None = None
    trainer_class: str = ""
    activation_dim: Width | None = None
    dict_size: Width | None = None
    k: Width | None = None
    target_l0: Amount | None = None
    layer: Layer | None = None
    lm_name: str | None = None
    submodule_name: str | None = None

    only: ClassVar = {"dict_class": _CLASSES}
    idle: ClassVar = frozenset(  # at inference all groups of a Matryoshka SAE are active
        (
            *("threshold_beta", "threshold_start_step", "top_k_aux", "k_anneal_steps", "k_aux"),
            *("group_fractions", "group_weights", "group_sizes"),
        )
    )


class _Buffer(Settings, frozen=True):
    """Where its activations came from."""

    d_submodule: Width | None = None

    only: ClassVar = {"io": ("out",)}  # the input of a module is the output of another


class _Config(Settings, frozen=True):
    """Both tables of the file."""

    trainer: dict[str, Any] = msgspec.field(default_factory=dict)
    buffer: dict[str, Any] = msgspec.field(default_factory=dict)


class _Measured(Settings, frozen=True):
    """What an evaluation found."""

    l0: Amount | None = None


_BIASES = {  # of the encoder and of the decoder, where not encoder.bias and b_dec
    "AutoEncoder": ("encoder.bias", "bias"),
    "AutoEncoderNew": ("encoder.bias", "decoder.bias"),
    "GatedAutoEncoder": ("mag_bias", "decoder_bias"),
}
_OTHERS = {
    "GatedAutoEncoder": ("r_mag", "gate_bias"),
    "JumpReluAutoEncoder": ("threshold",),
    "AutoEncoderTopK": ("k", "threshold"),  # the latter for another way of inference
    "BatchTopKSAE": ("k", "threshold"),
    "MatryoshkaBatchTopKSAE": ("k", "threshold", "group_sizes"),
}
_TRAINED = {
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
}


def _tensors(files: Files) -> tuple[dict[str, Any], float]:
    """Returns the tensors, and the factor by which a checkpoint's biases are still to be scaled."""
    found = torch_zip.read(files.weights)
    if "ae" not in found:
        return found, 1.0
    tensors, factor = found["ae"], found.get("norm_factor")  # what an interrupted run leaves behind
    if isinstance(factor, FileArray):
        factor = scalar(files.weights, found, "norm_factor")
    factor = 1.0 if factor is None else factor
    usable = isinstance(factor, int | float) and math.isfinite(factor) and factor > 0
    if not usable or not isinstance(tensors, dict):
        raise ValueError(
            f"{files.weights} is a backup of an interrupted run, but has no tensors under ae or no "
            "norm_factor above 0."
        )
    return tensors, float(factor)


def _settings(files: Files) -> _Trainer:
    """Returns what is known of the training.

    Raises:
      ValueError: it is damaged, or asks for what is not implemented.
    """
    config = files.settings(_Config)
    settings.settle(files.config, config.buffer, _Buffer)
    return settings.settle(files.config, config.trainer, _Trainer)


def _describe(files: Files) -> Description:
    tensors, _ = _tensors(files)
    trainer = _settings(files)
    if "W_enc" in tensors:
        W_enc = tensors["W_enc"]
    else:
        W_enc = take(files.weights, tensors, "encoder.weight")[0].T
    layer, kind = place(trainer.submodule_name, trainer.lm_name)
    if layer is None and trainer.layer is not None:
        layer, kind = trainer.layer, kind or "resid_post"
    l0 = trainer.target_l0 if trainer.k is None else trainer.k
    if files.config is not None and (measured := files.config.with_name(_MEASURED)).exists():
        found = settings.settle(measured, settings.read(measured), _Measured).l0
        l0 = l0 if found is None else found
    return Description(
        *sizes(files.weights, W_enc),
        model_names.usual(trainer.lm_name),
        layer,
        kind,
        l0,
        _architecture(trainer),
    )


def _architecture(trainer: _Trainer) -> str | None:
    """Returns what was trained; three architectures have the class of ReLU SAEs."""
    kind, trained = trainer.dict_class, trainer.trainer_class
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        if "PAnneal" in trained:
            return "p_anneal"
        return "relu_new" if "April" in trained or kind == "AutoEncoderNew" else "relu"
    return _TRAINED.get(str(kind))


def _load(files: Files, variant: str) -> StoredSAE:
    tensors, factor = _tensors(files)
    trainer = _settings(files)
    kind = trainer.dict_class
    if kind is None:
        raise settings.refusal(files.config, "dict_class", None, _CLASSES)
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        W_enc, W_dec, *_ = take(files.weights, tensors, *names)
    else:
        names = ("encoder.weight", "decoder.weight", *_BIASES.get(kind, ("encoder.bias", "b_dec")))
        encoder, decoder, *_ = take(files.weights, tensors, *names)
        W_enc, W_dec = encoder.T, decoder.T
    nothing_else(files.weights, tensors, *names, *_OTHERS.get(kind, ()))
    d_model, d_sae = sizes(files.weights, W_enc, W_dec)
    widths = {"activation_dim": trainer.activation_dim, "dict_size": trainer.dict_size}
    settings.same_widths(files.config, files.weights, (d_model, d_sae), **widths)
    (b_enc,) = vectors(files.weights, tensors, d_sae, names[2])
    (b_dec,) = vectors(files.weights, tensors, d_model, names[3])
    b_enc, b_dec = factor * b_enc, factor * b_dec
    gain = back = np.ones(d_sae)
    threshold, keep = np.zeros(d_sae), ALL
    if kind == "GatedAutoEncoder":
        r_mag, gate = vectors(files.weights, tensors, d_sae, *_OTHERS[kind])
        gain = np.exp(r_mag)
        threshold = b_enc - gain * factor * gate
    elif kind == "AutoEncoderTopK":
        k = scalar(files.weights, tensors, "k") if "k" in tensors else trainer.k
        keep = Keep("top", settings.whole(files.weights, "k", k))
    elif kind == "JumpReluAutoEncoder":
        threshold = factor * vectors(files.weights, tensors, d_sae, "threshold")[0]
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold += factor * scalar(files.weights, tensors, "threshold")
        if threshold[0] < 0:
            raise ValueError(
                f"{files.weights} has the threshold {threshold[0]:g}, so its training never set it;"
                " choose a later checkpoint."
            )
    if kind == "AutoEncoder" and variant == "reference":
        norm = row_norms(W_dec)
        gain, back, b_enc = gain * norm, back / norm, b_enc * norm
    centred = kind not in ("JumpReluAutoEncoder", "AutoEncoderNew")
    return StoredSAE.build(
        files.weights,
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        threshold,
        center=b_dec if centred else None,
        encoder_gain=gain,
        decoder_gain=back,
        keep=keep,
    )


FORMAT = Format(
    "dictionary_learning",
    "ae*.pt",
    "config.json",
    _describe,
    _load,
    variants=("reference", "raw"),
)

"""dictionary_learning and SAEBench: `ae.pt` and `config.json`, seven classes.

Every class but JumpReluAutoEncoder and AutoEncoderNew subtracts its decoder's bias first. ReLU SAEs
are loaded with unit decoder rows, as both references do; the variant `raw` keeps them as stored.
"""

from typing import Any

import numpy as np

from probejax.saes.formats import torch_zip
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    model_name,
    place,
    take,
)
from probejax.saes.stored import FileArray, StoredSAE, row_norms, sizes
from probejax.saes.winners import ALL, Keep

_MEASURED = "eval_results.json"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_CLASSES = (
    *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"),
    *("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"),
)
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
    if not isinstance(found, dict):
        raise ValueError(f"{files.weights} holds a {type(found).__name__}; expected a dictionary.")
    if "ae" not in found:
        return found, 1.0
    factor = found.get("norm_factor")  # what an interrupted run leaves behind
    return found["ae"], float(factor[...] if isinstance(factor, FileArray) else factor or 1.0)


def _describe(files: Files) -> Description:
    tensors, _ = _tensors(files)
    trainer = files.settings().get("trainer", {})
    if "W_enc" in tensors:
        W_enc = tensors["W_enc"]
    else:
        W_enc = take(files.weights, tensors, "encoder.weight")[0].T
    layer, site = place(trainer.get("submodule_name"))
    if layer is None and trainer.get("layer") is not None:
        layer, site = int(trainer["layer"]), site or "resid_post"
    l0 = trainer.get("k", trainer.get("target_l0"))
    if files.config is not None and (measured := files.config.with_name(_MEASURED)).is_file():
        l0 = Files(files.weights, measured).settings().get("l0", l0)
    return Description(
        *sizes(files.weights, W_enc),
        model_name(trainer.get("lm_name")),
        layer,
        site,
        l0,
        _architecture(trainer),
    )


def _architecture(trainer: dict[str, Any]) -> str | None:
    """Returns what was trained; three architectures have the class of ReLU SAEs."""
    kind, trained = trainer.get("dict_class"), str(trainer.get("trainer_class", ""))
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        if "PAnneal" in trained:
            return "p_anneal"
        return "relu_new" if "April" in trained or kind == "AutoEncoderNew" else "relu"
    return _TRAINED.get(str(kind))


def _load(files: Files, variant: str) -> StoredSAE:
    tensors, factor = _tensors(files)
    trainer = files.settings().get("trainer", {})
    kind = trainer.get("dict_class")
    if kind not in _CLASSES:
        raise ValueError(f"{files.config} says dict_class={kind}; expected {', '.join(_CLASSES)}.")
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        W_enc, b_enc, W_dec, b_dec = take(files.weights, tensors, *_MATRICES)
    else:
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}
        bias |= {"GatedAutoEncoder": "decoder_bias"}
        names = [*_LINEAR, bias.get(kind, "b_dec")]
        if kind == "GatedAutoEncoder":
            names[1] = "mag_bias"
        encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *names)
        W_enc, W_dec = encoder.T, decoder.T
    b_enc, b_dec = (factor * vector[...].astype(np.float64) for vector in (b_enc, b_dec))
    d_sae = len(b_enc)
    gain = back = np.ones(d_sae)
    threshold, keep = np.zeros(d_sae), ALL
    if kind == "GatedAutoEncoder":
        r_mag, gate = (v[...].astype(np.float64) for v in take(files.weights, tensors, *_GATE))
        gain = np.exp(r_mag)
        threshold = b_enc - gain * factor * gate
    elif kind == "AutoEncoderTopK":
        k = tensors["k"][...] if "k" in tensors else trainer.get("k", 0)
        keep = Keep("top", int(k))
    elif kind not in ("AutoEncoder", "AutoEncoderNew"):
        threshold += factor * take(files.weights, tensors, "threshold")[0][...].astype(np.float64)
        if kind != "JumpReluAutoEncoder" and threshold[0] < 0:
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


_GATE = ("r_mag", "gate_bias")

FORMAT = Format(
    "dictionary_learning",
    "ae*.pt",
    "config.json",
    _describe,
    _load,
    variants=("reference", "raw"),
)

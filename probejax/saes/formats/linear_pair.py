"""Two linear layers in one PyTorch file: Goodfire's ReLU SAEs and Qwen Scope's top-k SAEs."""

import re

from probejax.saes.formats import torch_zip
from probejax.saes.formats.format import Description, Files, Format, nothing_else, take
from probejax.saes.stored import StoredSAE, sizes
from probejax.saes.winners import Keep

_RELU_PREFIXES = (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
_QWEN = ("W_enc", "b_enc", "W_dec", "b_dec")


def _relu_names(tensors: dict) -> list[str]:
    pair = next((p for p in _RELU_PREFIXES if f"{p[0]}.weight" in tensors), _RELU_PREFIXES[0])
    return [f"{name}.{part}" for name in pair for part in ("weight", "bias")]


def _describe_goodfire(files: Files) -> Description:
    tensors = torch_zip.read(files.weights)
    weight, *_ = take(files.weights, tensors, *_relu_names(tensors))
    found = re.fullmatch(r"(.+)-SAE-l(\d+)", files.weights.stem)
    place = (found[1], int(found[2]), "resid_post") if found else (None, None, None)
    return Description(*sizes(files.weights, weight.T), *place, architecture="relu")


def _load_goodfire(files: Files, variant: str) -> StoredSAE:
    tensors = torch_zip.read(files.weights)
    nothing_else(files.weights, tensors, *_relu_names(tensors))
    encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *_relu_names(tensors))
    return StoredSAE.build(files.weights, encoder.T, b_enc[...], decoder.T, b_dec[...])


def _describe_qwen(files: Files) -> Description:
    (weight,) = take(files.weights, torch_zip.read(files.weights), "W_enc")
    path = "/".join(files.weights.absolute().parts)
    layer = re.search(r"layer(\d+)\.sae\.pt$", path)
    model = re.search(r"SAE-Res-(.+?)-W\d+K-L0_\d+", path)
    return Description(
        *sizes(files.weights, weight.T),
        model[1] if model else None,
        int(layer[1]) if layer else None,
        "resid_post",
        _k(files),
        "topk",
    )


def _k(files: Files) -> int | None:
    found = re.search(r"-L0_(\d+)(?=[/@])", "/".join(files.weights.absolute().parts))
    return int(found[1]) if found else None


def _load_qwen(files: Files, variant: str) -> StoredSAE:
    tensors = torch_zip.read(files.weights)
    nothing_else(files.weights, tensors, *_QWEN)
    encoder, b_enc, decoder, b_dec = take(files.weights, tensors, *_QWEN)
    if (k := _k(files)) is None:
        raise ValueError(
            f"{files.weights} does not say how many latents it keeps; put it into a folder named "
            "as its repository, SAE-Res-...-L0_<k>."
        )
    matrices = (encoder.T, b_enc[...], decoder.T, b_dec[...])
    return StoredSAE.build(files.weights, *matrices, keep=Keep("top", k))


QWEN_SCOPE = Format("qwen_scope", "*.sae.pt", None, _describe_qwen, _load_qwen)
GOODFIRE = Format("goodfire", "*.pt*", None, _describe_goodfire, _load_goodfire, unlike="ae*.pt")

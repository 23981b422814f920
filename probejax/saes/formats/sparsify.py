"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`; top-k or group-max of centred inputs.

The decoder is stored by latent, unlike the encoder; some files hold no decoder.
"""

from probejax.saes.formats import safetensors_file
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    place,
    refuse_transcoder,
    take,
)
from probejax.saes.stored import StoredSAE, sizes
from probejax.saes.winners import Keep

_KEEP = {"topk": Keep("top"), "groupmax": Keep("group")}


def _describe(files: Files) -> Description:
    (weight,) = take(files.weights, safetensors_file.read(files.weights), "encoder.weight")
    layer, site = place(files.weights.parent.name)  # `layers.10`, or `layers.10.mlp`
    settings = files.settings()
    kind = settings.get("activation", "topk")
    return Description(*sizes(files.weights, weight.T), None, layer, site, settings.get("k"), kind)


def _load(files: Files, variant: str) -> StoredSAE:
    settings, tensors = files.settings(), safetensors_file.read(files.weights)
    if settings.get("transcode") or "W_skip" in tensors:
        raise refuse_transcoder(files.weights)
    if settings.get("signed"):
        raise ValueError(f"{files.config} says signed=true, an option of June 2024 only.")
    kind = settings.get("activation", "topk")
    if kind not in _KEEP:
        raise ValueError(f"{files.config} says activation={kind}; expected {', '.join(_KEEP)}.")
    names = ("encoder.weight", "encoder.bias", "b_dec")
    encoder, b_enc, b_dec = take(files.weights, tensors, *names)
    return StoredSAE.build(
        files.weights,
        encoder.T,
        b_enc[...],
        tensors.get("W_dec"),
        b_dec[...],
        center=b_dec[...],
        keep=_KEEP[kind]._replace(k=int(settings.get("k", 0))),
    )


FORMAT = Format("sparsify", "sae.safetensors", "cfg.json", _describe, _load)

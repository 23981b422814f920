"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`; top-k or group-max of centred inputs.

The decoder is stored by latent, unlike the encoder; some files hold no decoder.
"""

from typing import Annotated, ClassVar

import msgspec

from probejax.saes.formats import safetensors_file, settings
from probejax.saes.formats.format import (
    Description,
    Files,
    Format,
    nothing_else,
    place,
    refuse_transcoder,
    take,
)
from probejax.saes.formats.settings import Settings, Width
from probejax.saes.stored import StoredSAE, sizes
from probejax.saes.winners import Keep

_KEEP = {"topk": Keep("top"), "groupmax": Keep("group")}


class _Config(Settings, frozen=True):
    """What the file says."""

    activation: str = "topk"
    k: int = 0
    d_in: Width | None = None
    num_latents: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0 stands for d_in * expansion_factor
    transcode: bool = False
    skip_connection: bool = False

    only: ClassVar = {"activation": tuple(_KEEP), "signed": (False,)}  # signed: June 2024 only
    idle: ClassVar = frozenset(("expansion_factor", "normalize_decoder", "multi_topk"))


def _describe(files: Files) -> Description:
    (weight,) = take(files.weights, safetensors_file.read(files.weights), "encoder.weight")
    layer, kind = place(
        files.weights.parent.name, str(files.weights)
    )  # `layers.10`, or `layers.10.mlp`
    config = files.settings(_Config)
    widths = sizes(files.weights, weight.T)
    return Description(*widths, None, layer, kind, config.k, config.activation)


def _load(files: Files, variant: str) -> StoredSAE:
    config, tensors = files.settings(_Config), safetensors_file.read(files.weights)
    if config.transcode or config.skip_connection or "W_skip" in tensors:
        raise refuse_transcoder(files.weights)
    names = ("encoder.weight", "encoder.bias", "b_dec")
    nothing_else(files.weights, tensors, *names, "W_dec")
    encoder, b_enc, b_dec = take(files.weights, tensors, *names)
    widths = {"d_in": config.d_in, "num_latents": config.num_latents or None}
    shape = sizes(files.weights, encoder.T)
    settings.same_widths(files.config, files.weights, shape, **widths)
    return StoredSAE.build(
        files.weights,
        encoder.T,
        b_enc[...],
        tensors.get("W_dec"),
        b_dec[...],
        center=b_dec[...],
        keep=_KEEP[config.activation]._replace(k=config.k),
    )


FORMAT = Format("sparsify", "sae.safetensors", "cfg.json", _describe, _load)

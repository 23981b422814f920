"""Reads the numbers of a model from the header of a GGUF file, whoever wrote it.

A header leaves out what the program that it was written for knows by heart, and the programs know
different things. llama.cpp leaves out the alternation of window and full attention, the rotary
base of Gemma 3's sliding blocks and the query scale; Ollama gives the rotary bases other names, or
leaves them out. So a number is the file's own under any of its names; else that of the published
model of the same size; else there is none, and the file is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from probejax.models import config as configs
from probejax.models.config import GLOBAL, LOCAL, PRESETS, GemmaConfig, Layers, Positive, Size

_KEYS = {  # ours -> the key after `gemma3.`
    "n_layers": "block_count",
    "d_model": "embedding_length",
    "d_mlp": "feed_forward_length",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "d_head": "attention.key_length",
    "d_value": "attention.value_length",
    "sliding_window": "attention.sliding_window",
    "layer_types": "attention.sliding_window_pattern",
    "scale": "attention.scale",
    "base": "rope.freq_base",
    "base_swa": "rope.freq_base_swa",
    "base_global": "rope.global.freq_base",  # as Ollama calls them
    "base_local": "rope.local.freq_base",
    "scaling": "rope.scaling.type",
    "factor": "rope.scaling.factor",
    "old_factor": "rope.scale_linear",  # llama.cpp until 2023
    "attn_softcap": "attn_logit_softcapping",
    "final_softcap": "final_logit_softcapping",
}
_OTHER_KEYS = {  # the key to name where a field of GemmaConfig has no value
    "rope_base_global": _KEYS["base"],
    "rope_base_local": _KEYS["base_swa"],
    "rope_scale_global": _KEYS["factor"],
    "query_pre_attn_scalar": _KEYS["scale"],
}


class _Header(msgspec.Struct, rename=_KEYS):
    """What a header may say; what has no default here is in every file."""

    n_layers: Layers
    d_model: Size
    d_mlp: Size
    n_heads: Size
    n_kv_heads: Size
    norm_eps: configs.Epsilon
    d_head: Size | None = None
    d_value: Size | None = None
    sliding_window: Size | None = None
    layer_types: Size | list[bool] | None = None  # a period, or whether each block slides
    scale: Positive | None = None
    base: Positive | None = None
    base_swa: Positive | None = None
    base_global: Positive | None = None
    base_local: Positive | None = None
    scaling: str | None = None
    factor: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    old_factor: Positive | None = None
    attn_softcap: Positive | None = None
    final_softcap: Positive | None = None


def from_gguf(fields: Mapping[str, Any], name: str, d_vocab: int) -> GemmaConfig:
    """Reads the header of a GGUF file.

    Args:
      fields: header key -> value.
      name: label for messages.
      d_vocab: rows of the embedding.

    Raises:
      ValueError: another architecture, or a header without a number that is needed.
    """
    kind = fields.get("general.architecture")
    if kind not in ("gemma2", "gemma3"):
        raise ValueError(f"{name} holds a {kind!r} model; probejax runs gemma2 and gemma3.")
    prefix = f"{kind}."
    own = {key.removeprefix(prefix): x for key, x in fields.items() if key.startswith(prefix)}
    try:
        header = msgspec.convert(own, _Header)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"The GGUF header of {name} is not valid among its keys {prefix}*: {error}; download "
            "the file again, or another conversion of the model."
        ) from error
    gemma3 = kind == "gemma3"
    known = _published(header, gemma3)

    def choose(field: str, *own: Any) -> Any:
        """Returns the file's value, else the published model's, which may be None."""
        for value in own:
            if value is not None:
                return value
        if known is None:
            key = prefix + (_KEYS | _OTHER_KEYS)[field]
            raise ValueError(
                f"The GGUF header of {name} has no {key}, and no published model has its sizes "
                f"({header.n_layers} blocks of width {header.d_model}) to take it from; use "
                "another conversion, or the model's folder of safetensors."
            )
        return getattr(known, field)

    d_head = choose("d_head", header.d_head)
    if header.d_value not in (None, d_head):
        raise ValueError(
            f"{name} has values of width {header.d_value} and keys of width {d_head}; no Gemma has."
        )
    base = float(choose("rope_base_global", header.base, header.base_global))
    scalar = None if header.scale is None else header.scale**-2
    return GemmaConfig(
        name=name,
        d_model=header.d_model,
        d_head=d_head,
        d_mlp=header.d_mlp,
        d_vocab=d_vocab,
        n_heads=header.n_heads,
        n_kv_heads=header.n_kv_heads,
        layer_types=choose("layer_types", _layer_types(header, name)),
        sliding_window=choose("sliding_window", header.sliding_window),
        rope_base_local=(  # Gemma 2 turns all blocks alike
            float(choose("rope_base_local", header.base_swa, header.base_local)) if gemma3 else base
        ),
        rope_base_global=base,
        rope_scale_global=float(choose("rope_scale_global", _rope_scale(header, name))),
        query_pre_attn_scalar=float(choose("query_pre_attn_scalar", scalar)),
        qk_norm=gemma3,
        attn_softcap=header.attn_softcap if gemma3 else choose("attn_softcap", header.attn_softcap),
        final_softcap=(
            header.final_softcap if gemma3 else choose("final_softcap", header.final_softcap)
        ),
        norm_eps=float(str(np.float32(header.norm_eps))),  # stored as float32, meant as a decimal
    )


def _published(header: _Header, gemma3: bool) -> GemmaConfig | None:
    """Returns the published model of these sizes."""
    sizes = ("n_layers", "d_model", "d_mlp", "n_heads", "n_kv_heads")
    for config in PRESETS.values():
        if config.qk_norm == gemma3 and all(
            getattr(config, size) == getattr(header, size) for size in sizes
        ):
            return config
    return None


def _layer_types(header: _Header, name: str) -> tuple[str, ...] | None:
    if isinstance(header.layer_types, list):
        if len(header.layer_types) != header.n_layers:
            raise ValueError(
                f"The GGUF header of {name} says of {len(header.layer_types)} blocks whether they "
                f"slide (attention.sliding_window_pattern), and has {header.n_layers}."
            )
        return tuple(LOCAL if slides else GLOBAL for slides in header.layer_types)
    if header.layer_types is None:
        return None
    return configs.alternate(header.n_layers, header.layer_types)


def _rope_scale(header: _Header, name: str) -> float | None:
    if header.scaling not in (None, "none", "linear"):
        raise ValueError(
            f"{name} uses {header.scaling!r} rotary scaling; only `linear` is implemented."
        )
    if header.scaling == "none":
        return 1.0
    factor = header.old_factor if header.factor is None else header.factor
    return 1.0 if factor == 0.0 else factor  # llama.cpp reads 0 as no scaling

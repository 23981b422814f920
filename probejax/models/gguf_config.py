"""Reads the numbers of a model from the header of a GGUF file, whoever wrote it.

A header leaves out what the program that it was written for knows by heart, and the programs know
different things. Of Gemma, llama.cpp leaves out the alternation of window and full attention, the
rotary base of Gemma 3's sliding blocks and the query scale; Ollama gives the rotary bases other
names, or leaves them out. So a number is the file's own under any of its names; else what follows
from the others; else that of the published model of the same size; else there is none, and the
file is refused, as it is for a key that is not known.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from probejax.models import config as configs
from probejax.models import families
from probejax.models.config import GLOBAL, LOCAL, Layers, ModelConfig, Positive, Size
from probejax.models.family import ACTIVATIONS, Family
from probejax.models.layouts import Tensors
from probejax.models.presets import PRESETS
from probejax.models.rope import Rope

_KEYS = {  # ours -> the key after `gemma3.`
    "n_layers": "block_count",
    "d_model": "embedding_length",
    "d_mlp": "feed_forward_length",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "rms_eps": "attention.layer_norm_rms_epsilon",
    "layer_eps": "attention.layer_norm_epsilon",
    "d_head": "attention.key_length",
    "d_value": "attention.value_length",
    "sliding_window": "attention.sliding_window",
    "layer_types": "attention.sliding_window_pattern",
    "scale": "attention.scale",
    "base": "rope.freq_base",
    "base_swa": "rope.freq_base_swa",
    "base_global": "rope.global.freq_base",  # as Ollama calls them
    "base_local": "rope.local.freq_base",
    "turned": "rope.dimension_count",
    "scaling": "rope.scaling.type",
    "factor": "rope.scaling.factor",
    "old_factor": "rope.scale_linear",  # llama.cpp until 2023
    "attn_softcap": "attn_logit_softcapping",
    "final_softcap": "final_logit_softcapping",
    "parallel": "use_parallel_residual",
}
# Keys that change nothing, or say what the tensors say as well; what belongs to an image model.
_IDLE = ("context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned")
_IDLE_PREFIXES = ("vision.", "mm.")
_ONLY = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True}
_DIVISORS = "rope_freqs.weight"


class _Header(msgspec.Struct, rename=_KEYS):
    """What a header may say; what has no default here is in every file."""

    n_layers: Layers
    d_model: Size
    d_mlp: Size
    n_heads: Size
    n_kv_heads: Size | None = None
    rms_eps: configs.Epsilon | None = None
    layer_eps: configs.Epsilon | None = None
    d_head: Size | None = None
    d_value: Size | None = None
    sliding_window: Size | None = None
    layer_types: Size | list[bool] | None = None  # a period, or whether each block slides
    scale: Positive | None = None
    base: Positive | None = None
    base_swa: Positive | None = None
    base_global: Positive | None = None
    base_local: Positive | None = None
    turned: Size | None = None
    scaling: str | None = None
    factor: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    old_factor: Positive | None = None
    attn_softcap: Positive | None = None
    final_softcap: Positive | None = None
    parallel: bool | None = None


def from_gguf(fields: Mapping[str, Any], name: str, tensors: Tensors) -> ModelConfig:
    """Reads the header of a GGUF file.

    Args:
      fields: header key -> value.
      name: label for messages.
      tensors: of the file, which tell the sizes of the tables, the biases and the head.

    Raises:
      ValueError: another architecture, a header without a number that is needed, or with a key
        that is not known.
    """
    family = _family(fields.get("general.architecture"), name)
    header = _header(fields, family, name)
    spare = _published(header, family) if family.leaves_out else _following(header, family)

    def choose(key: str, *values: Any) -> Any:
        """Returns the first value that is there, else the spare one, which may be None."""
        for value in values:
            if value is not None:
                return value
        if key not in spare:
            raise ValueError(
                f"The GGUF header of {name} has no {family.architecture}.{_KEYS[key]}, and "
                + (
                    f"no published model has its sizes ({header.n_layers} blocks of width "
                    f"{header.d_model}) to take it from"
                    if family.leaves_out
                    else "it does not follow from the other numbers"
                )
                + "; use another conversion, or the model's folder of safetensors."
            )
        return spare[key]

    d_head = choose("d_head", header.d_head)
    if header.d_value not in (None, d_head):
        raise ValueError(
            f"{name} has values of width {header.d_value} and keys of width {d_head}; probejax "
            "runs models in which they are the same."
        )
    learned = "n_positions" in family.fields.values()
    local, everywhere = (None, None) if learned else _ropes(header, d_head, choose, name)
    if everywhere is not None and _DIVISORS in tensors.names():
        everywhere = _divided(everywhere, d_head, family, tensors, name)
        local = local if family.leaves_out else everywhere
    held = set(tensors.names())
    eps = "layer_eps" if family.constants["norm"] == "layer" else "rms_eps"
    scalar = None if header.scale is None else header.scale**-2
    found = {
        "d_model": header.d_model,
        "d_head": d_head,
        "d_mlp": header.d_mlp,
        "d_vocab": _rows(tensors, "token_embd.weight", name),
        "n_heads": header.n_heads,
        "n_kv_heads": choose("n_kv_heads", header.n_kv_heads),
        "layer_types": choose("layer_types", _layer_types(header, name)),
        # Stored as float32, meant as a decimal.
        "norm_eps": float(str(np.float32(choose(eps, getattr(header, eps))))),
        "activation": ACTIVATIONS[family.defaults["activation"]],
        "query_pre_attn_scalar": float(choose("scale", scalar) or d_head),
        "sliding_window": choose("sliding_window", header.sliding_window),
        "rope_local": local,
        "rope_global": everywhere,
        "n_positions": _rows(tensors, "position_embd.weight", name) if learned else None,
        "parallel": choose("parallel", header.parallel),
        "qkv_bias": bool(held & {"blk.0.attn_q.bias", "blk.0.attn_qkv.bias"}),
        "out_bias": "blk.0.attn_output.bias" in held,
        "mlp_bias": "blk.0.ffn_up.bias" in held,
        "embed_scale": math.sqrt(header.d_model) if family.scales_embedding else 1.0,
        "attn_softcap": choose("attn_softcap", header.attn_softcap),
        "final_softcap": choose("final_softcap", header.final_softcap),
        "tied": "output.weight" not in held,
    }
    return ModelConfig(name=name, family=family.name, **found | family.constants)


def _family(architecture: Any, name: str) -> Family:
    for family in families.FAMILIES:
        if architecture is not None and family.architecture == architecture:
            return family
    raise ValueError(
        f"{name} holds a {architecture!r} model; probejax runs "
        f"{families.listed(family.architecture for family in families.FAMILIES)}."
    )


def _header(fields: Mapping[str, Any], family: Family, name: str) -> _Header:
    prefix = f"{family.architecture}."
    own = {key.removeprefix(prefix): x for key, x in fields.items() if key.startswith(prefix)}
    for key, value in own.items():
        idle = key in _IDLE or key.startswith(_IDLE_PREFIXES) or _ONLY.get(key, own) == value
        if key not in _KEYS.values() and not idle:
            raise ValueError(
                f"The GGUF header of {name} says {prefix}{key}={value!r}, which probejax does not "
                f"know of {family.architecture} models: it could change every number."
            )
    try:
        header = msgspec.convert(own, _Header)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"The GGUF header of {name} is not valid among its keys {prefix}*: {error}; download "
            "the file again, or another conversion of the model."
        ) from error
    if header.sliding_window and header.layer_types is None and not family.leaves_out:
        raise ValueError(
            f"The GGUF header of {name} has {prefix}{_KEYS['sliding_window']}, and does not say "
            "which blocks it holds for; use the model's folder of safetensors."
        )
    return header


def _following(header: _Header, family: Family) -> dict[str, Any]:
    """Returns what may be left out because it follows from the other numbers, as in llama.cpp."""
    d_model, n_heads = header.d_model, header.n_heads
    found = {
        "n_kv_heads": n_heads,
        "layer_types": (GLOBAL,) * header.n_layers,
        "base": 10_000.0,
        "base_swa": None,
        "factor": 1.0,
        "scale": None,
        "sliding_window": None,
        "parallel": family.defaults.get("parallel", False),
        "attn_softcap": None,
        "final_softcap": None,
    }
    return found if d_model % n_heads else found | {"d_head": d_model // n_heads}


def _published(header: _Header, family: Family) -> dict[str, Any]:
    """Returns the same of the published model of these sizes, which a header of Gemma leaves out.

    Where there is none, little remains.
    """
    found: dict[str, Any] = {"parallel": False}
    found |= {
        cap: None for cap in ("attn_softcap", "final_softcap") if family.defaults.get(cap) is None
    }
    if "rope_base_local" not in family.defaults:  # Gemma 2 turns all blocks alike
        found["base_swa"] = None
    sizes = ("n_layers", "d_model", "d_mlp", "n_heads", "n_kv_heads")
    for config in PRESETS.values():
        same = all(getattr(config, size) == getattr(header, size) for size in sizes)
        if config.family == family.name and same:
            assert config.rope_global is not None and config.rope_local is not None
            return {
                "base": config.rope_global.base,
                "base_swa": config.rope_local.base,
                "factor": config.rope_global.factor,
                "scale": config.query_pre_attn_scalar,
                "d_head": config.d_head,
                "layer_types": config.layer_types,
                "sliding_window": config.sliding_window,
                "attn_softcap": config.attn_softcap,
                "final_softcap": config.final_softcap,
            } | found
    return found


def _rows(tensors: Tensors, table: str, name: str) -> int:
    """Returns the rows of a table: tokens may be fewer than an embedding's, or more."""
    if table not in tensors.names():
        raise ValueError(f"{name} has no tensor {table}; give the file of a whole model.")
    return tensors.shape(table)[0]


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


def _ropes(
    header: _Header, d_head: int, choose: Callable[..., Any], name: str
) -> tuple[Rope, Rope]:
    """Returns the rotary numbers of the sliding blocks and of the full ones."""
    if header.scaling not in (None, "none", "linear"):
        raise ValueError(
            f"{name} uses {header.scaling!r} rotary scaling; only `linear` is implemented."
        )
    factor = header.old_factor if header.factor is None else header.factor
    if header.scaling == "none" or factor == 0.0:  # llama.cpp reads 0 as no scaling
        factor = 1.0
    fraction = 1.0 if header.turned is None else header.turned / d_head
    base = float(choose("base", header.base, header.base_global))
    everywhere = Rope(base, float(choose("factor", factor)), fraction)
    local = choose("base_swa", header.base_swa, header.base_local)
    return everywhere if local is None else Rope(float(local), fraction=fraction), everywhere


def _divided(rope: Rope, d_head: int, family: Family, tensors: Tensors, name: str) -> Rope:
    """Returns a rope with the divisors that the file keeps as a tensor (Llama 3.1)."""
    pairs = rope.pairs(d_head)
    if tensors.shape(_DIVISORS) != (pairs,):
        raise ValueError(
            f"{name} has {_DIVISORS} of shape {tensors.shape(_DIVISORS)}, expected ({pairs},)."
        )
    divisors = tensors.read(_DIVISORS, (slice(None),)).astype(np.float64)
    if (divisors == 1.0).all():
        return rope
    if not family.divides_angles or not (divisors > 0).all():
        raise ValueError(
            f"{name} scales each rotary angle by a factor of its own ({_DIVISORS}), which "
            f"{'no positive number does' if family.divides_angles else 'none of its family does'}."
        )
    return dataclasses.replace(rope, factor=1.0, divisors=tuple(divisors * rope.factor))

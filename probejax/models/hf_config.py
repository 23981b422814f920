"""Reads the numbers of a model from the `config.json` of its folder.

Every field of the file is known to the family and applied, or known to change nothing, or refused
by name: a field that were ignored could make all numbers wrong and say nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from probejax.models import config as configs
from probejax.models import families
from probejax.models.config import GLOBAL, LOCAL, Layers, ModelConfig, Positive, Size
from probejax.models.families import Family
from probejax.models.quantised import require_float_config
from probejax.models.rope import Llama3, Rope

_ROLES: dict[str, Any] = {  # what a field may be to us -> what it may hold
    "d_model": Size,
    "d_head": Size,
    "d_mlp": Size,
    "d_vocab": Size,
    "n_layers": Layers,
    "n_heads": Size,
    "n_kv_heads": Size,
    "n_positions": Size,
    "norm_eps": configs.Epsilon,
    "activation": str,
    "query_pre_attn_scalar": Positive,
    "attn_softcap": Positive,
    "final_softcap": Positive,
    "tied": bool,
    "parallel": bool,
    "attention_bias": bool,  # of queries, keys and values, and of the projection
    "mlp_bias": bool,
    "layer_types": list[str],
    "sliding_window": Size,
    "use_sliding_window": bool,
    "first_window_layer": Annotated[int, Meta(ge=0, le=1024)],
    "period": Size,  # every so-manieth block attends in full
    "context": Size,  # the longest prompt that it was trained for
    "rope_base": Positive,
    "rope_base_local": Positive,
    "rope_fraction": Annotated[float, Meta(gt=0, le=1)],
    "rope_scaling": dict[str, Any],
    "rope_parameters": dict[str, Any],
}
_MAY_BE_NULL = {
    *("d_head", "attn_softcap", "final_softcap", "layer_types", "sliding_window"),
    *("rope_scaling", "rope_parameters"),
}
_ROPE_KINDS = ("default", "linear", "llama3")

# Fields of transformers' base class, and those of programs that write into the same file. They
# say how a model was trained, is used or was saved.
_IDLE = frozenset(
    """
    model_type architectures transformers_version name_or_path auto_map torch_dtype dtype
    quantization_config quantization use_cache cache_implementation attn_implementation
    initializer_range initializer_factor attention_dropout hidden_dropout classifier_dropout
    gradient_checkpointing chunk_size_feed_forward use_bfloat16 torchscript tf_legacy_loss
    return_dict output_attentions output_hidden_states output_scores return_dict_in_generate
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    bos_token eos_token pad_token tokenizer_class prefix task_specific_params problem_type
    finetuning_task id2label label2id num_labels max_length min_length max_new_tokens do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_return_sequences forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    cross_attention_hidden_size is_decoder unsloth_version unsloth_fixed transformers.js_config
    neftune_noise_alpha custom_pipelines
    """.split()
)
_ONLY = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
}


class _Rope(msgspec.Struct, forbid_unknown_fields=True):
    """The rotary numbers of one type of block."""

    rope_theta: Positive | None = None
    rope_type: str | None = None
    type: str | None = None  # the older name
    factor: Positive | None = None
    partial_rotary_factor: Annotated[float, Meta(gt=0, le=1)] | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Size | None = None


def from_hf(fields: Mapping[str, Any], name: str) -> ModelConfig:
    """Reads a checkpoint's `config.json`.

    Args:
      fields: the parsed `config.json`.
      name: label for messages.

    Raises:
      ValueError: the file describes another kind of model, or one that cannot be.
    """
    require_float_config(fields, name)
    text = _convert(fields.get("text_config", fields), dict[str, Any], name)  # of a vision model
    require_float_config(text, name)
    family = _family(text.get("model_type"), name)
    _require_known(family, text, name)
    own = _read(family, text, name)
    if own["activation"] not in families.ACTIVATIONS:
        raise ValueError(
            f"{name} has the activation {own['activation']!r}; probejax implements "
            f"{', '.join(families.ACTIVATIONS)}."
        )
    rope_local, rope_global = _ropes(family, own, name)
    same = (
        "d_model d_vocab n_heads norm_eps sliding_window n_positions parallel mlp_bias "
        "attn_softcap final_softcap tied"
    ).split()
    found = {
        **{field: own[field] for field in same if field in own},
        "d_mlp": own["d_mlp"] or 4 * own["d_model"],
        "n_kv_heads": own.get("n_kv_heads") or own["n_heads"],
        "d_head": own.get("d_head") or _d_head(own, name),
        "layer_types": _layer_types(own, name),
        "activation": families.ACTIVATIONS[own["activation"]],
        "rope_local": rope_local,
        "rope_global": rope_global,
        "embed_scale": math.sqrt(own["d_model"]) if family.scales_embedding else 1.0,
    }
    found["query_pre_attn_scalar"] = float(own.get("query_pre_attn_scalar") or found["d_head"])
    if LOCAL not in found["layer_types"]:
        found["sliding_window"] = None
    if "attention_bias" in own:
        found["qkv_bias"] = found["out_bias"] = own["attention_bias"]
    return ModelConfig(name=name, family=family.name, **found | family.constants)


def _family(model_type: Any, name: str) -> Family:
    for family in families.FAMILIES:
        if family.model_type == model_type:
            return family
    raise ValueError(
        f"{name} is a {model_type or 'model of unknown type'!r}; probejax runs "
        f"{families.listed(family.model_type for family in families.FAMILIES)}."
    )


def _require_known(family: Family, text: Mapping[str, Any], name: str) -> None:
    """Raises ValueError for a field that may change numbers in a way that is not implemented."""
    only = _ONLY | dict(family.only)
    for field, value in text.items():
        if value is None or field.startswith("_"):  # says nothing; private to transformers
            continue
        if field in only and value not in only[field]:
            raise ValueError(
                f"{name} says {field}={value!r} in its config.json; of {family.model_type} models "
                f"probejax runs those with {' or '.join(map(repr, only[field]))}."
            )
        if field not in {*family.fields, *only, *family.idle, *_IDLE}:
            raise ValueError(
                f"{name} says {field}={value!r} in its config.json, which probejax does not know "
                f"of {family.model_type} models: it could change every number. If it changes none, "
                "delete it from the file."
            )


@functools.cache
def _struct(family_name: str) -> type[msgspec.Struct]:
    family = families.named(family_name)
    fields: list[Any] = []
    for field, role in family.fields.items():
        kind = _ROLES[role]
        if role in _MAY_BE_NULL or family.defaults.get(role) is None:
            kind = kind | None
        fields.append((field, kind | UnsetType, UNSET))
    return msgspec.defstruct("Fields", fields)


def _read(family: Family, text: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns what each role has; a field left out takes the default of transformers' class.

    That is how the published files are meant to be read.
    """
    given = _convert(text, _struct(family.name), name)
    found, said = dict.fromkeys(family.fields.values()) | dict(family.defaults), {}
    for field, role in family.fields.items():
        value = getattr(given, field)
        if value is UNSET:
            continue
        if said.setdefault(role, (field, value))[1] != value:
            other, first = said[role]
            raise ValueError(
                f"The config.json of {name} is not valid: {other}={first!r} and {field}={value!r} "
                "mean the same and differ."
            )
        found[role] = value
    return {role: bool(x) if _ROLES[role] is bool else x for role, x in found.items()}


def _convert(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"The config.json of {name} is not valid: {error}.") from error


def _d_head(own: Mapping[str, Any], name: str) -> int:
    if own["d_model"] % own["n_heads"]:
        raise ValueError(
            f"The config.json of {name} is not valid: a width of {own['d_model']} cannot be cut "
            f"into {own['n_heads']} heads, and no head_dim says how wide they are."
        )
    return own["d_model"] // own["n_heads"]


def _layer_types(own: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Returns which blocks slide: as listed, every so-manieth not, from some block on, all, none.

    Where a file lists none, the fields that its family has decide.
    """
    n_layers, window = own["n_layers"], own.get("sliding_window")
    if (listed := own.get("layer_types")) is not None:
        if len(listed) != n_layers:
            raise ValueError(
                f"The config.json of {name} is not valid: it has {len(listed)} layer_types for "
                f"{n_layers} blocks (num_hidden_layers)."
            )
        return tuple(listed)
    if "period" in own:
        return configs.alternate(n_layers, own["period"])
    if window is None or not own.get("use_sliding_window", True):
        return (GLOBAL,) * n_layers
    first = own.get("first_window_layer", 0)
    return tuple(LOCAL if i >= first else GLOBAL for i in range(n_layers))


def _ropes(family: Family, own: Mapping[str, Any], name: str) -> list[Rope | None]:
    """Returns the rotary numbers of the sliding blocks, then of the full ones.

    Files spell them in two ways: transformers 4 in `rope_theta` and its neighbours, transformers 5
    in `rope_parameters`, for all blocks or for each type of them.
    """
    if "rope_parameters" not in own:
        return [None, None]
    given = own["rope_parameters"] or {}
    nested = LOCAL in given or GLOBAL in given
    base = own.get("rope_base") or 10_000.0
    local_base = own.get("rope_base_local")
    found: list[Rope | None] = []
    for layer, default in ((LOCAL, local_base or base), (GLOBAL, base)):
        part = _convert((given.get(layer) if nested else given) or {}, dict[str, Any], name)
        if layer == GLOBAL or local_base is None:  # Gemma 3 scales its full blocks alone
            part = part | (own["rope_scaling"] or {})
        found.append(_rope(part, default, own, name))
    local = found[0]
    if local_base is not None and local is not None and local != Rope(local.base):
        raise ValueError(
            f"{name} scales the rotary angles of its sliding blocks, which no Gemma does."
        )
    return found


def _rope(given: Mapping[str, Any], base: float, own: Mapping[str, Any], name: str) -> Rope:
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _ROPE_KINDS:
        raise ValueError(
            f"{name} uses {kind!r} rotary scaling; only {', '.join(_ROPE_KINDS)} are implemented."
        )
    rope = _convert({k: x for k, x in given.items() if x is not None}, _Rope, name)
    fraction = rope.partial_rotary_factor or own.get("rope_fraction") or 1.0
    if fraction != 1.0 and "rope_fraction" not in own:
        raise ValueError(f"{name} rotates only a part of each head, which none of its family does.")
    found = Rope(float(rope.rope_theta or base), fraction=fraction)
    if kind == "default":
        return found
    if rope.factor is None:
        raise ValueError(f"The config.json of {name} has {kind} rotary scaling without a factor.")
    if kind == "linear":
        return dataclasses.replace(found, factor=float(rope.factor))
    low, high = rope.low_freq_factor, rope.high_freq_factor
    length = rope.original_max_position_embeddings or own["context"]
    if low is None or high is None or length is None or low >= high:
        raise ValueError(
            f"The config.json of {name} has llama3 rotary scaling without a low_freq_factor below "
            "its high_freq_factor, or without original_max_position_embeddings."
        )
    llama3 = Llama3(float(rope.factor), float(low), float(high), float(length))
    return dataclasses.replace(found, llama3=llama3)

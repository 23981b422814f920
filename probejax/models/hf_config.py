"""Reads the numbers of a model from the `config.json` of its folder."""

import math
from collections.abc import Mapping
from typing import Any

from probejax.models import config as configs
from probejax.models import families
from probejax.models.config import GLOBAL, LOCAL, ModelConfig
from probejax.models.family import ACTIVATIONS, Family
from probejax.models.hf_fields import convert, read, require_known
from probejax.models.hf_rope import ropes
from probejax.models.quantised import require_float_config


def from_hf(fields: Mapping[str, Any], name: str) -> ModelConfig:
    """Reads a checkpoint's `config.json`.

    Args:
      fields: the parsed `config.json`.
      name: label for messages.

    Raises:
      ValueError: the file describes another kind of model, or one that cannot be.
    """
    require_float_config(fields, name)
    text = convert(fields.get("text_config", fields), dict[str, Any], name)  # of a vision model
    require_float_config(text, name)
    family = _family(text.get("model_type"), name)
    if "text_config" in fields and fields.get("model_type") not in family.inside:
        raise ValueError(
            f"{name} is a {fields.get('model_type') or 'model of unknown type'!r} with a "
            f"{family.model_type!r} inside it for text; of such models probejax runs "
            f"{families.listed(t for each in families.FAMILIES for t in each.inside)}: take one "
            "that reads text alone."
        )
    require_known(family, text, name)
    own = read(family, text, name)
    if own["activation"] not in ACTIVATIONS:
        raise ValueError(
            f"{name} has the activation {own['activation']!r}; probejax implements "
            f"{', '.join(ACTIVATIONS)}."
        )
    rope_local, rope_global = ropes(own, name)
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
        "activation": ACTIVATIONS[own["activation"]],
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

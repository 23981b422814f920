"""Reads the fields of a `config.json` that its family knows, and refuses by name any other.

Every field is known to the family and applied, or known to change nothing, or refused: one that
were ignored could make all numbers wrong and say nothing.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from probejax.models import families
from probejax.models.config import Epsilon, Layers, Positive, Size
from probejax.models.family import Family

_ROLES: dict[str, Any] = {  # what a field may be to us -> what it may hold
    "d_model": Size,
    "d_head": Size,
    "d_mlp": Size,
    "d_vocab": Size,
    "n_layers": Layers,
    "n_heads": Size,
    "n_kv_heads": Size,
    "n_positions": Size,
    "norm_eps": Epsilon,
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
    neftune_noise_alpha custom_pipelines output_past eos_token_ids xla_device
    """.split()
)
_ONLY = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
}


def require_known(family: Family, text: Mapping[str, Any], name: str) -> None:
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


def read(family: Family, text: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns what each role has; a field left out takes the default of transformers' class.

    That is how the published files are meant to be read.
    """
    given = convert(text, _struct(family.name), name)
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


def convert(value: Any, kind: Any, name: str) -> Any:
    """Returns a value of the file as a type that msgspec knows.

    Raises:
      ValueError: it is none; the message says where it departs from it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"The config.json of {name} is not valid: {error}.") from error

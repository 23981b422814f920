"""Reads the rotary numbers of a `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from probejax.models.config import GLOBAL, LOCAL, Positive, Size
from probejax.models.hf_fields import convert
from probejax.models.rope import Llama3, Rope

_ROPE_KINDS = ("default", "linear", "llama3")


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


def ropes(own: Mapping[str, Any], name: str) -> list[Rope | None]:
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
        part = convert((given.get(layer) if nested else given) or {}, dict[str, Any], name)
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
    rope = convert({k: x for k, x in given.items() if x is not None}, _Rope, name)
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

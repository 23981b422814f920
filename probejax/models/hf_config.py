"""Reads the numbers of a model from the `config.json` of its folder."""

from collections.abc import Mapping
from typing import Any

import msgspec

from probejax.models import config as configs
from probejax.models.config import GLOBAL, LOCAL, GemmaConfig, Layers, Positive, Size
from probejax.models.quantised import require_float_config

_ACTIVATION = "gelu_pytorch_tanh"


class _Gemma(msgspec.Struct):
    """The fields that both have; a field left out takes the default of transformers' class.

    That is how the published files are meant to be read. They spell the rotary numbers in two ways:
    transformers 4 in `rope_theta` and its neighbours, transformers 5 in `rope_parameters`.
    """

    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    hidden_activation: str | None = _ACTIVATION
    rms_norm_eps: configs.Epsilon = 1e-6
    query_pre_attn_scalar: Positive = 256
    sliding_window: Size = 4096
    layer_types: list[str] | None = None
    use_bidirectional_attention: bool | None = False
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


class _Gemma2(_Gemma):
    vocab_size: Size = 256_000
    sliding_window_pattern: Size = 2
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0
    rope_theta: Positive = 10_000.0

    @property
    def rope_local_base_freq(self) -> float:
        return self.rope_theta


class _Gemma3(_Gemma):
    vocab_size: Size = 262_208
    sliding_window_pattern: Size = 6
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    rope_theta: Positive = 1_000_000.0
    rope_local_base_freq: Positive = 10_000.0


_KINDS = {"gemma2": _Gemma2, "gemma3_text": _Gemma3}


class _Rope(msgspec.Struct):
    """The rotary numbers of one type of block."""

    rope_theta: Positive | None = None
    rope_type: str | None = None
    type: str | None = None  # the older name
    factor: Positive | None = None
    partial_rotary_factor: float = 1.0


def from_hf(fields: Mapping[str, Any], name: str) -> GemmaConfig:
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
    kind = text.get("model_type", "")
    if kind not in _KINDS:
        raise ValueError(
            f"{name} is a {kind or 'model of unknown type'!r}; probejax runs {', '.join(_KINDS)}."
        )
    hf = _convert(text, _KINDS[kind], name)
    if hf.use_bidirectional_attention:
        raise ValueError(
            f"{name} attends in both directions; probejax runs causal language models only."
        )
    if hf.hidden_activation != _ACTIVATION:
        raise ValueError(
            f"{name} says hidden_activation={hf.hidden_activation}; probejax implements "
            f"{_ACTIVATION}, which every Gemma has."
        )
    layer_types = hf.layer_types or configs.alternate(
        hf.num_hidden_layers, hf.sliding_window_pattern
    )
    if len(layer_types) != hf.num_hidden_layers:
        raise ValueError(
            f"The config.json of {name} is not valid: it has {len(layer_types)} layer_types for "
            f"{hf.num_hidden_layers} blocks (num_hidden_layers)."
        )
    (base_local, scale_local), (base_global, scale_global) = _ropes(hf, name)
    if scale_local != 1.0:
        raise ValueError(
            f"{name} scales the rotary angles of its sliding blocks, which no Gemma does."
        )
    return GemmaConfig(
        name=name,
        d_model=hf.hidden_size,
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_heads=hf.num_attention_heads,
        n_kv_heads=hf.num_key_value_heads,
        layer_types=tuple(layer_types),
        sliding_window=hf.sliding_window,
        rope_base_local=base_local,
        rope_base_global=base_global,
        rope_scale_global=scale_global,
        query_pre_attn_scalar=float(hf.query_pre_attn_scalar),
        qk_norm=kind == "gemma3_text",
        attn_softcap=hf.attn_logit_softcapping,
        final_softcap=hf.final_logit_softcapping,
        norm_eps=hf.rms_norm_eps,
    )


def _convert(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"The config.json of {name} is not valid: {error}.") from error


def _ropes(hf: _Gemma2 | _Gemma3, name: str) -> list[tuple[float, float]]:
    """Returns base and scale of the sliding blocks, then of the full ones."""
    given = hf.rope_parameters or {}
    nested = LOCAL in given or GLOBAL in given
    found = []
    for layer, base in ((LOCAL, hf.rope_local_base_freq), (GLOBAL, hf.rope_theta)):
        own = _convert((given.get(layer) if nested else given) or {}, dict[str, Any], name)
        if layer == GLOBAL or isinstance(hf, _Gemma2):  # Gemma 3 scales its full blocks alone
            own = own | (hf.rope_scaling or {})
        rope = _convert(own, _Rope, name)
        base = base if rope.rope_theta is None else rope.rope_theta
        found.append((float(base), _scale(rope, name)))
    return found


def _scale(rope: _Rope, name: str) -> float:
    kind = rope.rope_type or rope.type or "default"
    if kind not in ("default", "linear"):
        raise ValueError(
            f"{name} uses {kind!r} rotary scaling; only `default` and `linear` are implemented."
        )
    if rope.partial_rotary_factor != 1.0:
        raise ValueError(f"{name} rotates only a part of each head, which no Gemma does.")
    if kind == "default":
        return 1.0
    if rope.factor is None:
        raise ValueError(f"The config.json of {name} has linear rotary scaling without a factor.")
    return float(rope.factor)

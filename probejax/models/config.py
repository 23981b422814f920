"""The numbers of a Gemma 2 or Gemma 3 text model, read from its checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # the names of `config.json`
_ACTIVATION = "gelu_pytorch_tanh"


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """Everything about a checkpoint that changes its numbers.

    Attributes:
      name: label for messages and results; no effect on the numbers.
      d_model: width of the residual stream.
      d_head: width of one attention head.
      d_mlp: width of the gated MLP.
      d_vocab: rows of the embedding.
      n_heads: query heads.
      n_kv_heads: key and value heads, shared by `n_heads // n_kv_heads` query heads each.
      layer_types: per block, `sliding_attention` or `full_attention`.
      sliding_window: keys that a query of a sliding block sees, itself included.
      rope_base_local: base of the rotary angles in sliding blocks.
      rope_base_global: the same in full blocks.
      rope_scale_global: positions of full blocks are divided by this (linear scaling).
      query_pre_attn_scalar: queries are divided by its square root.
      qk_norm: whether queries and keys pass an RMSNorm (Gemma 3).
      attn_softcap: bound of the attention scores, `cap * tanh(score / cap)` (Gemma 2).
      final_softcap: the same for the logits.
      norm_eps: added to the mean square in every RMSNorm.
    """

    name: str
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    n_kv_heads: int
    layer_types: tuple[str, ...]
    sliding_window: int
    rope_base_local: float
    rope_base_global: float
    rope_scale_global: float
    query_pre_attn_scalar: float
    qk_norm: bool
    attn_softcap: float | None
    final_softcap: float | None
    norm_eps: float = 1e-6

    @property
    def n_layers(self) -> int:
        """Blocks of the full model."""
        return len(self.layer_types)

    @property
    def n_parameters(self) -> int:
        """Parameters of the full text model; the embedding counts once, it is tied."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        norms = 4 * self.d_model + 2 * self.d_head * self.qk_norm
        block = attention + 3 * self.d_model * self.d_mlp + norms
        return self.d_vocab * self.d_model + self.n_layers * block + self.d_model

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Raises ValueError unless every layer is a block of this model or -1, the embedding."""
        wrong = [layer for layer in layers if not -1 <= layer < self.n_layers]
        if wrong or not layers:
            raise ValueError(
                f"Layer {', '.join(map(str, wrong)) or '(none)'} was asked for, but {self.name} "
                f"has layers 0 to {self.n_layers - 1}, and `embed` after the embedding."
            )


def from_hf(fields: Mapping[str, Any], name: str) -> GemmaConfig:
    """Reads a checkpoint's `config.json`.

    Fields that the file leaves out take the defaults of transformers' own config class, which is
    how the published Gemma 3 files are meant to be read.

    Args:
      fields: the parsed `config.json`.
      name: label for messages.

    Raises:
      ValueError: the file describes another kind of model.
    """
    from transformers import Gemma2Config, Gemma3TextConfig  # slow import, needed only here

    fields = fields.get("text_config", fields)  # the vision models nest the text model
    kinds = {"gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig}
    kind = fields.get("model_type", "")
    if kind not in kinds:
        raise ValueError(
            f"{name} is a {kind or 'model of unknown type'!r}; probejax runs {', '.join(kinds)}."
        )
    try:
        hf = kinds[kind](**{k: v for k, v in fields.items() if k != "model_type"})
    except StrictDataclassError as error:
        raise ValueError(f"The config.json of {name} is not valid: {error}") from error
    if getattr(hf, "use_bidirectional_attention", False):
        raise ValueError(
            f"{name} attends in both directions; probejax runs causal language models only."
        )
    if hf.hidden_activation != _ACTIVATION:
        raise ValueError(
            f"{name} says hidden_activation={hf.hidden_activation}; probejax implements "
            f"{_ACTIVATION}, which every Gemma has."
        )
    ropes = _ropes(hf)
    for rope in ropes.values():
        if rope.get("rope_type", "default") not in ("default", "linear"):
            raise ValueError(
                f"{name} uses {rope['rope_type']!r} rotary scaling; only `default` and `linear` "
                "are implemented."
            )
    if ropes[LOCAL].get("factor", 1.0) != 1.0:
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
        layer_types=tuple(hf.layer_types),
        sliding_window=hf.sliding_window,
        rope_base_local=float(ropes[LOCAL]["rope_theta"]),
        rope_base_global=float(ropes[GLOBAL]["rope_theta"]),
        rope_scale_global=float(ropes[GLOBAL].get("factor", 1.0)),
        query_pre_attn_scalar=float(hf.query_pre_attn_scalar),
        qk_norm=kind == "gemma3_text",
        attn_softcap=hf.attn_logit_softcapping,
        final_softcap=hf.final_logit_softcapping,
        norm_eps=hf.rms_norm_eps,
    )


def _ropes(hf) -> dict[str, dict[str, Any]]:
    """Returns the rotary parameters per layer type; Gemma 2 has one set for both."""
    parameters = getattr(hf, "rope_parameters", None)
    if parameters is None:  # transformers 4
        scaling = getattr(hf, "rope_scaling", None) or {}
        full = {"rope_theta": hf.rope_theta, **scaling}
        return {
            GLOBAL: full,
            LOCAL: {"rope_theta": getattr(hf, "rope_local_base_freq", hf.rope_theta)},
        }
    if GLOBAL in parameters:
        return {GLOBAL: parameters[GLOBAL], LOCAL: parameters[LOCAL]}
    return {GLOBAL: parameters, LOCAL: parameters}


def from_gguf(fields: Mapping[str, Any], name: str) -> GemmaConfig:
    """Reads the header of a GGUF file.

    The header leaves out what llama.cpp hard-codes per architecture: the alternation of window and
    full attention (1:1 in Gemma 2, 5:1 in Gemma 3), the local rotary base of Gemma 3 (10,000) and
    the query scale, which is `d_head` except in the 27B models, where it is `d_model / n_heads`.

    Args:
      fields: header key -> value.
      name: label for messages.

    Raises:
      ValueError: another architecture, or a header without a number that is needed.
    """
    kind = fields.get("general.architecture")
    if kind not in ("gemma2", "gemma3"):
        raise ValueError(f"{name} holds a {kind!r} model; probejax runs gemma2 and gemma3.")

    def read(key: str, default=None):
        value = fields.get(f"{kind}.{key}", default)
        if value is None:
            raise ValueError(
                f"The GGUF header of {name} has no {kind}.{key}; is the file complete?"
            )
        return value

    n_layers, d_model, n_heads = (
        read("block_count"),
        read("embedding_length"),
        read("attention.head_count"),
    )
    d_head = read("attention.key_length")
    period = 2 if kind == "gemma2" else 6
    gemma3 = kind == "gemma3"
    is_27b = n_layers == (62 if gemma3 else 46)
    base = float(read("rope.freq_base", 10_000.0))
    return GemmaConfig(
        name=name,
        d_model=d_model,
        d_head=d_head,
        d_mlp=read("feed_forward_length"),
        d_vocab=len(fields["tokenizer.ggml.tokens"]),
        n_heads=n_heads,
        n_kv_heads=read("attention.head_count_kv"),
        layer_types=_alternate(n_layers, period),
        sliding_window=read("attention.sliding_window"),
        rope_base_local=10_000.0 if gemma3 else base,
        rope_base_global=base,
        rope_scale_global=float(read("rope.scaling.factor", 1.0)),
        query_pre_attn_scalar=float(d_model // n_heads if is_27b else d_head),
        qk_norm=gemma3,
        attn_softcap=None if gemma3 else float(read("attn_logit_softcapping", 50.0)),
        final_softcap=None if gemma3 else float(read("final_logit_softcapping", 30.0)),
        norm_eps=round(float(read("attention.layer_norm_rms_epsilon")), 12),  # stored as float32
    )


def _alternate(n_layers: int, period: int) -> tuple[str, ...]:
    return tuple(GLOBAL if (i + 1) % period == 0 else LOCAL for i in range(n_layers))


def _gemma2(name, d_model, d_head, d_mlp, n_heads, n_kv_heads, n_layers, scalar) -> GemmaConfig:
    return GemmaConfig(
        name, d_model, d_head, d_mlp, 256_000, n_heads, n_kv_heads, _alternate(n_layers, 2),
        sliding_window=4096, rope_base_local=1e4, rope_base_global=1e4, rope_scale_global=1.0,
        query_pre_attn_scalar=scalar, qk_norm=False, attn_softcap=50.0, final_softcap=30.0,
    )  # fmt: skip


def _gemma3(
    name, d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads, n_layers, window, scale, scalar
) -> GemmaConfig:
    return GemmaConfig(
        name, d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads, _alternate(n_layers, 6),
        sliding_window=window, rope_base_local=1e4, rope_base_global=1e6, rope_scale_global=scale,
        query_pre_attn_scalar=scalar, qk_norm=True, attn_softcap=None, final_softcap=None,
    )  # fmt: skip


# The published models, for shape tests and memory plans; a run reads its checkpoint instead.
# Sources: arXiv 2408.00118 table 1, arXiv 2503.19786 table 1, and the checkpoints' config.json.
PRESETS = {
    config.name: config
    for config in (
        _gemma2("gemma-2-2b", 2304, 256, 9216, 8, 4, 26, 256.0),
        _gemma2("gemma-2-9b", 3584, 256, 14336, 16, 8, 42, 256.0),
        _gemma2("gemma-2-27b", 4608, 128, 36864, 32, 16, 46, 144.0),
        _gemma3("gemma-3-270m", 640, 256, 2048, 262_144, 4, 1, 18, 512, 1.0, 256.0),
        _gemma3("gemma-3-1b", 1152, 256, 6912, 262_144, 4, 1, 26, 512, 1.0, 256.0),
        _gemma3("gemma-3-4b", 2560, 256, 10240, 262_208, 8, 4, 34, 1024, 8.0, 256.0),
        _gemma3("gemma-3-12b", 3840, 256, 15360, 262_208, 16, 8, 48, 1024, 8.0, 256.0),
        _gemma3("gemma-3-27b", 5376, 128, 21504, 262_208, 32, 16, 62, 1024, 8.0, 168.0),
    )
}

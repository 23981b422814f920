"""The table of families: what differs between the language models that probejax runs.

A new family is a row here. A row says which fields of `config.json` change its numbers and what
they mean to us, what is the same in all its models, and how its files name the tensors. A field
that a row does not list is refused by name, unless it is known to change nothing.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from probejax.models.layouts import Layout

ACTIVATIONS = {  # as transformers calls them -> ours
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Family(NamedTuple):
    """One row.

    Attributes:
      name: as GGUF files call it in `general.architecture`, where it has a name of its own there.
      model_type: as `config.json` calls it.
      fields: field of `config.json` -> what it is to us: a field of `ModelConfig`, or one of the
        roles that `hf_config.py` lists.
      defaults: the same -> its value where a file leaves it out, as transformers' class has it.
      constants: field of `ModelConfig` -> its value in every model of the family.
      files: how safetensors files name the tensors.
      architecture: as GGUF files call it; None where they have it under another family's.
      gguf: how GGUF files name the tensors.
      only: field of `config.json` -> the values that are implemented.
      idle: fields of `config.json` that its models have and that change nothing.
      scales_embedding: whether the embedding is multiplied by the root of its width.
      leaves_out: whether a GGUF header leaves out what does not follow from its other numbers, so
        that the published model of its size must say it (Gemma).
      divides_angles: whether llama.cpp divides its rotary angles by the file's `rope_freqs`.
    """

    name: str
    model_type: str
    fields: dict[str, str]
    defaults: dict[str, Any]
    constants: dict[str, Any]
    files: Layout
    architecture: str | None
    gguf: Layout
    only: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    idle: frozenset[str] = frozenset()
    scales_embedding: bool = False
    leaves_out: bool = False
    divides_angles: bool = False


_SIZES = {
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "vocab_size": "d_vocab",
    "tie_word_embeddings": "tied",
    "max_position_embeddings": "context",
    "rope_scaling": "rope_scaling",
    "rope_parameters": "rope_parameters",
}
_GROUPED = {  # of all that came after Llama
    **_SIZES,
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "d_head",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
}
_PROJECTIONS = {
    **{f"self_attn.{x}_proj": f"self_attn.{x}_proj" for x in "qkvo"},
    **{f"self_attn.{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    **{f"mlp.{x}_proj": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    "input_layernorm": "input_layernorm",
}
_OUTSIDE = {"embed_tokens": "embed_tokens", "norm": "norm", "lm_head": "lm_head"}
_LLAMA_FILES = Layout(
    prefixes=("model.",),
    block="layers.",
    outside=_OUTSIDE,
    inside=_PROJECTIONS | {"post_attention_layernorm": "pre_feedforward_layernorm"},
    ignored=r"\.rotary_emb\.inv_freq$",
)
_GEMMA_FILES = Layout(
    prefixes=("model.", "language_model.model.", "model.language_model.", "language_model."),
    block="layers.",
    outside=_OUTSIDE,
    inside=_PROJECTIONS
    | {f"{x}_layernorm": f"{x}_layernorm" for x in (
        "post_attention", "pre_feedforward", "post_feedforward",
    )},
    ignored=r"^(model\.)?(vision_tower|multi_modal_projector)\.",
)  # fmt: skip
_GGUF = Layout(
    prefixes=("",),
    block="blk.",
    outside={
        "token_embd": "embed_tokens",
        "position_embd": "embed_positions",
        "output_norm": "norm",
        "output": "lm_head",
    },
    inside={
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    ignored=r"^rope_freqs\.weight$",  # which `gguf_config` reads
)

GEMMA2 = Family(
    name="gemma2",
    model_type="gemma2",
    fields=_GROUPED
    | {
        "hidden_activation": "activation",
        "query_pre_attn_scalar": "query_pre_attn_scalar",
        "sliding_window": "sliding_window",
        "sliding_window_pattern": "period",
        "layer_types": "layer_types",
        "attn_logit_softcapping": "attn_softcap",
        "final_logit_softcapping": "final_softcap",
        "attention_bias": "attention_bias",
    },
    defaults=dict(
        d_model=2304, d_mlp=9216, n_layers=26, n_heads=8, n_kv_heads=4, d_head=256,
        d_vocab=256_000, norm_eps=1e-6, activation="gelu_pytorch_tanh", query_pre_attn_scalar=256.0,
        sliding_window=4096, period=2, attn_softcap=50.0, final_softcap=30.0, tied=True,
    ),
    constants=dict(norm="rms_plus_one", post_norms=True),
    files=_GEMMA_FILES,
    architecture="gemma2",
    gguf=_GGUF._replace(whole_gain=True),
    only={"use_bidirectional_attention": (False,)},
    idle=frozenset({"hidden_act"}),
    scales_embedding=True,
    leaves_out=True,
)  # fmt: skip
GEMMA3 = GEMMA2._replace(
    name="gemma3",
    model_type="gemma3_text",
    fields=GEMMA2.fields | {"rope_local_base_freq": "rope_base_local"},
    defaults=dict(
        GEMMA2.defaults, d_vocab=262_208, period=6, attn_softcap=None, final_softcap=None,
        rope_base=1e6, rope_base_local=1e4,
    ),
    constants=GEMMA2.constants | {"qk_norm": True},
    architecture="gemma3",
)  # fmt: skip
LLAMA = Family(
    name="llama",
    model_type="llama",
    fields=_GROUPED
    | {"hidden_act": "activation", "attention_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    defaults=dict(
        d_model=4096, d_mlp=11008, n_layers=32, n_heads=32, d_vocab=32000, norm_eps=1e-6,
        activation="silu", tied=False, context=2048,
    ),
    constants=dict(norm="rms"),
    files=_LLAMA_FILES,
    architecture="llama",
    gguf=_GGUF._replace(paired=True),
    only={"rope_interleaved": (False,)},
    # The first splits a product into parts and adds them up, which changes no more than rounding.
    idle=frozenset({"pretraining_tp", "is_llama_config"}),
    divides_angles=True,
)  # fmt: skip

FAMILIES = (GEMMA2, GEMMA3, LLAMA)


def named(name: str) -> Family:
    """Returns the row of `ModelConfig.family`."""
    return next(family for family in FAMILIES if family.name == name)


def listed(names: Iterable[str | None]) -> str:
    """Returns names for a sentence, each once."""
    return ", ".join(dict.fromkeys(name for name in names if name))

"""One row of the table of families, and what many rows share."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from probejax.models.layouts import Layout

ACTIVATIONS = {  # as transformers calls them -> ours
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Family(NamedTuple):
    """One row.

    Attributes:
      name: what `ModelConfig.family` holds.
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
      inside: `model_type` of the models that see pictures and have one of this family for text.
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
    inside: tuple[str, ...] = ()


SIZES = {
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
GROUPED = {  # of all that came after Llama
    **SIZES,
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "d_head",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
}
GGUF = Layout(
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

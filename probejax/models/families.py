"""The table of families: what differs between the language models that probejax runs.

A new family is a row here. A row says which fields of `config.json` change its numbers and what
they mean to us, what is the same in all its models, and how its files name the tensors. A field
that a row does not list is refused by name, unless it is known to change nothing.
"""

from collections.abc import Iterable

from probejax.models.family import GGUF, GROUPED, SIZES, Family
from probejax.models.layouts import Layout

_PROJECTIONS = {
    **{f"self_attn.{x}_proj": f"self_attn.{x}_proj" for x in "qkvo"},
    **{f"self_attn.{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    **{f"mlp.{x}_proj": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    "input_layernorm": "input_layernorm",
}
_OUTSIDE = {"embed_tokens": "embed_tokens", "norm": "norm", "lm_head": "lm_head"}
_OTHER_HEADS = r"^(score|classifier|v_head)\."  # of reward models and classifiers: no residual
_LLAMA_FILES = Layout(
    prefixes=("model.",),
    block="layers.",
    outside=_OUTSIDE,
    inside=_PROJECTIONS | {"post_attention_layernorm": "pre_feedforward_layernorm"},
    ignored=rf"\.rotary_emb\.inv_freq$|{_OTHER_HEADS}",
)
_GEMMA_FILES = Layout(
    prefixes=("model.", "language_model.model.", "model.language_model.", "language_model."),
    block="layers.",
    outside=_OUTSIDE,
    inside=_PROJECTIONS
    | {f"{x}_layernorm": f"{x}_layernorm" for x in (
        "post_attention", "pre_feedforward", "post_feedforward",
    )},
    ignored=rf"^(model\.)?(vision_tower|multi_modal_projector)\.|{_OTHER_HEADS}",
)  # fmt: skip

GEMMA2 = Family(
    name="gemma2",
    model_type="gemma2",
    fields=GROUPED
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
    gguf=GGUF._replace(whole_gain=True),
    only={"use_bidirectional_attention": (False,)},
    # The first files have the second beside sliding_window; transformers does not read it.
    idle=frozenset({"hidden_act", "sliding_window_size"}),
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
    inside=("gemma3",),
)  # fmt: skip
GEMMA = GEMMA2._replace(
    name="gemma",
    model_type="gemma",
    fields=GROUPED | {"attention_bias": "attention_bias"},
    defaults=dict(
        d_model=3072, d_mlp=24576, n_layers=28, n_heads=16, n_kv_heads=16, d_head=256,
        d_vocab=256_000, norm_eps=1e-6, activation="gelu_pytorch_tanh", tied=True,
    ),
    constants=dict(norm="rms_plus_one"),
    files=_LLAMA_FILES,
    architecture="gemma",
    # The first files say gelu, and mean its tanh form, as transformers reads them.
    only={
        "hidden_act": ("gelu", "gelu_pytorch_tanh"),
        "hidden_activation": ("gelu_pytorch_tanh",),
        "use_bidirectional_attention": (False,),
    },
    idle=frozenset(),
    leaves_out=False,
)  # fmt: skip
LLAMA = Family(
    name="llama",
    model_type="llama",
    fields=GROUPED
    | {"hidden_act": "activation", "attention_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    defaults=dict(
        d_model=4096, d_mlp=11008, n_layers=32, n_heads=32, d_vocab=32000, norm_eps=1e-6,
        activation="silu", tied=False, context=2048,
    ),
    constants=dict(norm="rms"),
    files=_LLAMA_FILES,
    architecture="llama",
    gguf=GGUF._replace(paired=True),
    only={"rope_interleaved": (False,)},
    # The first splits a product into parts and adds them up, which changes no more than rounding.
    idle=frozenset({"pretraining_tp", "is_llama_config", "max_sequence_length"}),
    divides_angles=True,
)  # fmt: skip
MISTRAL = LLAMA._replace(
    name="mistral",
    model_type="mistral",
    fields=GROUPED | {"hidden_act": "activation", "sliding_window": "sliding_window"},
    defaults=dict(LLAMA.defaults, d_mlp=14336, n_kv_heads=8, sliding_window=4096, context=131_072),
    architecture=None,  # llama.cpp calls its files llama
    only={},
    idle=frozenset(),
)
QWEN2 = LLAMA._replace(
    name="qwen2",
    model_type="qwen2",
    fields=GROUPED
    | {
        "hidden_act": "activation",
        "use_sliding_window": "use_sliding_window",
        "sliding_window": "sliding_window",
        "max_window_layers": "first_window_layer",
        "layer_types": "layer_types",
    },
    defaults=dict(
        d_model=4096, d_mlp=22016, n_layers=32, n_heads=32, n_kv_heads=32, d_vocab=151_936,
        norm_eps=1e-6, activation="silu", use_sliding_window=False, sliding_window=4096,
        first_window_layer=28, tied=False, context=32768,
    ),
    constants=dict(norm="rms", qkv_bias=True),
    architecture="qwen2",
    gguf=GGUF,
    only={"use_mrope": (False,)},
    idle=frozenset(),
    divides_angles=False,
)  # fmt: skip
QWEN3 = QWEN2._replace(
    name="qwen3",
    model_type="qwen3",
    fields=QWEN2.fields | {"attention_bias": "attention_bias"},
    defaults=dict(QWEN2.defaults, d_head=128),
    constants=dict(norm="rms", qk_norm=True),
    architecture="qwen3",
    only={},
)
GPT_NEOX = Family(  # Pythia
    name="gpt_neox",
    model_type="gpt_neox",
    fields=SIZES
    | {
        "hidden_act": "activation",
        "layer_norm_eps": "norm_eps",
        "use_parallel_residual": "parallel",
        "attention_bias": "attention_bias",
        "rotary_pct": "rope_fraction",
        "partial_rotary_factor": "rope_fraction",
        "rotary_emb_base": "rope_base",
        "rope_theta": "rope_base",
    },
    defaults=dict(
        d_model=6144, d_mlp=24576, n_layers=44, n_heads=64, d_vocab=50432, norm_eps=1e-5,
        activation="gelu", parallel=True, attention_bias=True, rope_fraction=0.25, tied=False,
        context=2048,
    ),
    constants=dict(norm="layer", gated=False, mlp_bias=True),
    files=Layout(
        prefixes=("gpt_neox.",),
        block="layers.",
        outside={
            "embed_in": "embed_tokens",
            "final_layer_norm": "norm",
            "embed_out": "lm_head",
            "lm_head": "lm_head",
        },
        inside={
            "input_layernorm": "input_layernorm",
            "attention.dense": "self_attn.o_proj",
            "post_attention_layernorm": "pre_feedforward_layernorm",
            "mlp.dense_h_to_4h": "mlp.up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
        },
        fused=("attention.query_key_value", "by head"),
        ignored=rf"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$|{_OTHER_HEADS}",
    ),
    architecture="gptneox",
    gguf=GGUF._replace(fused=("attn_qkv", "stacked")),
    idle=frozenset({"attention_probs_dropout_prob", "hidden_dropout_prob"}),
)  # fmt: skip
GPT2 = Family(
    name="gpt2",
    model_type="gpt2",
    fields={
        "n_embd": "d_model",
        "n_inner": "d_mlp",
        "n_layer": "n_layers",
        "n_head": "n_heads",
        "n_positions": "n_positions",
        "vocab_size": "d_vocab",
        "layer_norm_epsilon": "norm_eps",
        "activation_function": "activation",
        "tie_word_embeddings": "tied",
    },
    defaults=dict(
        d_model=768, n_layers=12, n_heads=12, n_positions=1024, d_vocab=50257, norm_eps=1e-5,
        activation="gelu_new", tied=True,
    ),
    constants=dict(norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True),
    files=Layout(
        prefixes=("transformer.",),
        block="h.",
        outside={
            "wte": "embed_tokens",
            "wpe": "embed_positions",
            "ln_f": "norm",
            "lm_head": "lm_head",
        },
        inside={
            "ln_1": "input_layernorm",
            "attn.c_proj": "self_attn.o_proj",
            "ln_2": "pre_feedforward_layernorm",
            "mlp.c_fc": "mlp.up_proj",
            "mlp.c_proj": "mlp.down_proj",
        },
        fused=("attn.c_attn", "stacked"),
        transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
        ignored=rf"\.attn\.(bias|masked_bias)$|{_OTHER_HEADS}",
    ),
    architecture="gpt2",
    gguf=GGUF._replace(fused=("attn_qkv", "stacked")),
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "n_special": (0,),  # rows of the embedding behind the vocabulary, in 2019
    },
    # Dropout in training, and what a classifier on top would have.
    idle=frozenset(
        {"n_ctx", "attn_pdrop", "embd_pdrop", "resid_pdrop", "predict_special_tokens"}
        | {f"summary_{x}" for x in (
            "activation", "first_dropout", "proj_to_labels", "type", "use_proj",
        )}
    ),
)  # fmt: skip

FAMILIES = (GEMMA, GEMMA2, GEMMA3, LLAMA, MISTRAL, QWEN2, QWEN3, GPT_NEOX, GPT2)


def named(name: str) -> Family:
    """Returns the row of `ModelConfig.family`."""
    return next(family for family in FAMILIES if family.name == name)


def listed(names: Iterable[str | None]) -> str:
    """Returns names for a sentence, each once."""
    return ", ".join(dict.fromkeys(name for name in names if name))

"""What `config.json` and GGUF headers of every family may say, and what is refused by name."""

import json
import math

import numpy as np
import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from probejax import models
from probejax.models import families
from probejax.models.gguf_config import from_gguf
from probejax.models.hf_config import from_hf
from tests import tiny_models

CLASSES = {
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3TextConfig,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gpt_neox": GPTNeoXConfig,
    "gpt2": GPT2Config,
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def test_every_family_is_here():
    assert {family.model_type for family in families.FAMILIES} == set(CLASSES)
    assert len({family.name for family in families.FAMILIES}) == len(CLASSES)


@pytest.mark.parametrize("model_type", CLASSES)
def test_all_that_transformers_writes_is_understood(model_type):
    """In full, with every default: which is also what a file that says nothing means."""
    config = CLASSES[model_type]()
    written = json.loads(config.to_json_string(use_diff=False))
    found = from_hf({"model_type": model_type}, "x")
    assert from_hf(written, "x") == found
    assert found.d_model == config.hidden_size and found.d_vocab == config.vocab_size
    assert (found.n_layers, found.n_heads) == (config.num_hidden_layers, config.num_attention_heads)
    assert found.n_kv_heads == getattr(config, "num_key_value_heads", config.num_attention_heads)
    d_head = config.hidden_size // config.num_attention_heads
    assert found.d_head == (getattr(config, "head_dim", None) or d_head)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    assert found.d_mlp == inner and found.tied == config.tie_word_embeddings
    eps = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
    assert found.norm_eps == next(getattr(config, e) for e in eps if hasattr(config, e))


def read(model_type, **fields):
    return from_hf({"model_type": model_type, **fields}, "some-model")


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALED = models.Rope(5e5, llama3=models.Llama3(8.0, 1.0, 4.0, 8192.0))


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}, {"rope_global": SCALED}),
        ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, {"rope_global": SCALED}),
        (
            "llama",
            {
                "rope_theta": 5e5,
                "max_position_embeddings": 8192,
                "rope_scaling": {
                    k: x for k, x in LLAMA3.items() if k != "original_max_position_embeddings"
                },
            },
            {"rope_global": SCALED},
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_global": models.Rope(1e4, factor=2.0)},
        ),
        ("llama", {"attention_bias": True}, {"qkv_bias": True, "out_bias": True}),
        ("llama", {"mlp_bias": True}, {"mlp_bias": True, "qkv_bias": False}),
        ("llama", {"head_dim": 64}, {"d_head": 64, "query_pre_attn_scalar": 64.0}),
        ("llama", {"num_key_value_heads": 8}, {"n_kv_heads": 8}),
        ("llama", {"pretraining_tp": 4, "_name_or_path": "x"}, {}),
        ("mistral", {}, {"layer_types": (LOCAL,) * 32, "sliding_window": 4096, "n_kv_heads": 8}),
        ("mistral", {"sliding_window": None}, {"layer_types": (GLOBAL,) * 32}),
        ("qwen2", {}, {"layer_types": (GLOBAL,) * 32, "qkv_bias": True, "out_bias": False}),
        ("qwen2", {"use_sliding_window": True}, {"layer_types": (GLOBAL,) * 28 + (LOCAL,) * 4}),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 7},
            {"layer_types": (LOCAL,) * 32, "sliding_window": 7},
        ),
        ("qwen3", {}, {"qk_norm": True, "qkv_bias": False, "d_head": 128}),
        (
            "gpt_neox",
            {},
            {"parallel": True, "rope_global": models.Rope(1e4, fraction=0.25), "out_bias": True},
        ),
        (
            "gpt_neox",
            {"rotary_pct": 1.0, "rotary_emb_base": 5e3, "use_parallel_residual": False},
            {"parallel": False, "rope_global": models.Rope(5e3)},
        ),
        (
            "gpt_neox",
            {"rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rope_theta": 1e4},
            {"rope_global": models.Rope(1e4, fraction=0.5)},
        ),
        ("gpt2", {}, {"n_positions": 1024, "rope_global": None, "activation": "gelu_tanh"}),
        ("gpt2", {"n_inner": 100, "n_ctx": 1024, "summary_type": "cls_index"}, {"d_mlp": 100}),
    ],
)
def test_what_the_file_says_counts(model_type, fields, expected):
    found = vars(read(model_type, **fields))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("model_type", "fields", "said"),
    [
        ("llama", {"sliding_window": 4096}, "sliding_window=4096"),
        ("llama", {"layer_types": [LOCAL]}, "layer_types="),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier=12.0"),
        ("llama", {"num_local_experts": 8}, "num_local_experts=8"),
        ("llama", {"hidden_act": "xielu"}, "activation 'xielu'"),
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder=True"),
        ("llama", {"pruned_heads": {"1": [2]}}, "pruned_heads={'1': [2]}"),
        ("llama", {"hidden_size": 100, "num_attention_heads": 3}, "cannot be cut into 3 heads"),
        *(
            ("llama", {"rope_scaling": {"rope_type": kind, "factor": 2.0}}, f"{kind!r} rotary")
            for kind in ("yarn", "longrope", "dynamic", "su", "proportional")
        ),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        (
            "llama",
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "low_freq_factor below its high_freq_factor",
        ),
        ("llama", {"rope_scaling": LLAMA3 | {"mscale": 1.0}}, "mscale"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "only a part of each head"),
        ("mistral", {"layer_types": [LOCAL] * 32}, "layer_types="),
        ("mistral", {"attention_bias": True}, "attention_bias=True"),
        ("qwen2", {"attention_bias": False}, "attention_bias=False"),
        ("qwen2", {"use_mrope": True}, "use_mrope=True"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 32}, "type chunked_attention"),
        ("qwen3", {"num_experts": 128}, "num_experts=128"),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.25}, "mean the same and di"),
        ("gpt_neox", {"num_key_value_heads": 8}, "num_key_value_heads=8"),
        ("gpt_neox", {"rotary_pct": 0.0}, "rotary_pct"),
        ("gpt_neox", {"head_dim": 8}, "head_dim=8"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("gpt2", {"rope_theta": 1e4}, "rope_theta=10000.0"),
        ("gpt2", {"n_positions": 0}, "n_positions"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act='silu'"),
        ("gemma2", {"final_logit_scale": 2.0}, "final_logit_scale=2.0"),
        ("gemma3_text", {"query_norm": True}, "query_norm=True"),
        ("mixtral", {}, "is a 'mixtral'"),
    ],
)
def test_a_field_that_could_change_numbers_is_refused_by_name(model_type, fields, said):
    with pytest.raises(ValueError) as error:
        read(model_type, **fields)
    text = str(error.value)
    assert said in text and "some-model" in text and "\n" not in text


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_field_of_null_says_nothing(model_type):
    assert read(model_type, some_new_thing=None, _private=3) == read(model_type)
    with pytest.raises(ValueError, match="some-model says some_new_thing=False in its"):
        read(model_type, some_new_thing=False)


# GGUF headers.
SIZES = {
    "block_count": 3,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
}
EPS = {"attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5}


def header(architecture, changes, tensors=()):
    fields = {f"{architecture}.{key}": x for key, x in (SIZES | EPS | changes).items()}
    fields["general.architecture"] = architecture
    shapes = {"token_embd.weight": (61, 32), "position_embd.weight": (64, 32)}
    held = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | dict(tensors)
    return from_gguf(fields, "some-model", tiny_models.Arrays(held))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gptneox", "gpt2"])
def test_what_a_gguf_header_leaves_out_follows_from_its_sizes(architecture):
    found = header(architecture, {})
    assert (found.d_head, found.n_kv_heads, found.query_pre_attn_scalar) == (8, 4, 8.0)
    assert found.rope_global == (None if architecture == "gpt2" else models.Rope(1e4))
    assert (found.n_positions, found.tied) == (64 if architecture == "gpt2" else None, True)
    assert found.layer_types == (GLOBAL,) * 3 and found.norm_eps == 1e-5
    assert found.parallel == (architecture == "gptneox")


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("llama", {"expert_count": 8}, "llama.expert_count=8"),
        ("llama", {"attention.causal": False}, "llama.attention.causal=False"),
        ("llama", {"logit_scale": 0.5}, "llama.logit_scale=0.5"),
        ("llama", {"rope.scaling.type": "yarn"}, "'yarn' rotary scaling"),
        ("llama", {"attention.sliding_window": 4096}, "llama.attention.sliding_window, and does"),
        ("llama", {"attention.value_length": 16}, "values of width 16 and keys of width 8"),
        ("llama", {"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon, and it doe"),
        ("gptneox", {"attention.layer_norm_epsilon": None}, "attention.layer_norm_epsilon, and it"),
        ("gptneox", {"rope.dimension_count": 3}, "of which 3 are turned"),
        ("gptneox", {"rope.dimension_count": 16}, "of which 16 are turned"),
        ("qwen2", {"attention.head_count": 5}, "has no qwen2.attention.key_length, and it does"),
        (
            "qwen2vl",
            {},
            "a 'qwen2vl' model; probejax runs gemma, gemma2, gemma3, llama, qwen2, qwen3",
        ),
    ],
)
def test_a_gguf_key_that_could_change_numbers_is_refused_by_name(architecture, changes, said):
    header(architecture if architecture != "qwen2vl" else "llama", {"expert_count": 0})
    with pytest.raises(ValueError) as error:
        header(architecture, changes)
    assert said in str(error.value) and "some-model" in str(error.value)


def test_divisors_of_the_rotary_angles():
    divisors = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
    held = {"rope_freqs.weight": divisors}
    found = header("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, held)
    assert found.rope_global == found.rope_local == models.Rope(1e4, divisors=(2.0, 4.0, 8.0, 16.0))
    assert header("llama", {}, {"rope_freqs.weight": divisors**0}).rope_global == models.Rope(1e4)
    with pytest.raises(ValueError, match=r"which none of its family does"):
        header("qwen2", {}, held)
    with pytest.raises(ValueError, match=r"rope_freqs.weight of shape \(3,\), expected \(4,\)"):
        header("llama", {}, {"rope_freqs.weight": divisors[:3]})
    with pytest.raises(ValueError, match=r"which no positive number does"):
        header("llama", {}, {"rope_freqs.weight": divisors - 1})


def test_the_rule_of_llama_3_1_is_the_list_that_llama_cpp_keeps():
    """By the three cases in which both are written, for each of Llama 3.1 8B's frequencies."""
    expected = []
    for i in range(64):
        wave = 2 * math.pi * 5e5 ** (i / 64)
        if wave < 8192 / 4:
            expected.append(1.0)
        elif wave > 8192 / 1:
            expected.append(8.0)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            expected.append(1 / ((1 - smooth) / 8 + smooth))
    np.testing.assert_allclose(SCALED.divided_by(64), expected, rtol=1e-12)
    assert 1.0 < sorted(set(expected))[1] < 8.0

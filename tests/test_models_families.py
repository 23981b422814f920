"""What `config.json` and GGUF headers of every family may say, and what is refused by name."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
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


_USUAL = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True}
_NEXT = {"torch_dtype": "bfloat16", "transformers_version": "4.43.0", "hidden_act": "silu"}


def sizes(kind, d_model, d_mlp, n_layers, n_heads, d_vocab, **more):
    """Most of a published `config.json`."""
    return {
        "architectures": ["ForCausalLM"], "model_type": kind, "hidden_size": d_model,
        "intermediate_size": d_mlp, "num_hidden_layers": n_layers, "num_attention_heads": n_heads,
        "vocab_size": d_vocab, "bos_token_id": 1, "eos_token_id": 2, **_USUAL, **_NEXT, **more,
    }  # fmt: skip


_LLAMA3 = {
    "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": LLAMA3,
    "tie_word_embeddings": False, "mlp_bias": False, "attention_bias": False, "pretraining_tp": 1,
    "max_position_embeddings": 131_072,
}  # fmt: skip
_QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False}
PUBLISHED = {  # name -> what its config.json says, and how many parameters it was published with
    "gemma-2b": (
        sizes("gemma", 2048, 16384, 18, 8, 256_000, num_key_value_heads=1, head_dim=256,
              rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None, attention_bias=False)
        | {"hidden_act": "gelu", "hidden_activation": None},
        2_506_172_416,
    ),
    "Llama-3.1-8B": (
        sizes("llama", 4096, 14336, 32, 32, 128_256, **_LLAMA3),
        8_030_261_248,
    ),
    "Llama-3.1-70B": (
        sizes("llama", 8192, 28672, 80, 64, 128_256, **_LLAMA3),
        70_553_706_496,
    ),
    "TinyLlama-1.1B": (
        sizes("llama", 2048, 5632, 22, 32, 32000, num_key_value_heads=4, rms_norm_eps=1e-5,
              tie_word_embeddings=False, max_position_embeddings=2048, rope_scaling=None),
        1_100_048_384,
    ),
    "SmolLM2-135M": (
        sizes("llama", 576, 1536, 30, 9, 49152, num_key_value_heads=3, rms_norm_eps=1e-5,
              rope_theta=100_000, tie_word_embeddings=True, head_dim=64, is_llama_config=True,
              rope_interleaved=False, rope_scaling=None, mlp_bias=False, pretraining_tp=1,
              _name_or_path="HuggingFaceTB/SmolLM2-135M"),
        134_515_008,
    ),
    "Mistral-7B-v0.1": (
        sizes("mistral", 4096, 14336, 32, 32, 32000, num_key_value_heads=8, rms_norm_eps=1e-5,
              rope_theta=10000.0, sliding_window=4096, tie_word_embeddings=False),
        7_241_732_096,
    ),
    "Qwen2.5-0.5B": (
        sizes("qwen2", 896, 4864, 24, 14, 151_936, num_key_value_heads=2, **_QWEN,
              tie_word_embeddings=True, use_mrope=False, sliding_window=32768,
              max_window_layers=24),
        494_032_768,
    ),
    "Qwen2.5-7B": (
        sizes("qwen2", 3584, 18944, 28, 28, 152_064, num_key_value_heads=4, **_QWEN,
              tie_word_embeddings=False, use_mrope=False, sliding_window=131_072,
              max_window_layers=28),
        7_615_616_512,
    ),
    "Qwen3-0.6B": (
        sizes("qwen3", 1024, 3072, 28, 16, 151_936, num_key_value_heads=8, head_dim=128, **_QWEN,
              tie_word_embeddings=True, attention_bias=False, rope_scaling=None,
              sliding_window=None, max_window_layers=28),
        596_049_920,
    ),
    "pythia-1b": (
        sizes("gpt_neox", 2048, 8192, 16, 8, 50304, layer_norm_eps=1e-5, rotary_emb_base=10000,
              rotary_pct=0.25, tie_word_embeddings=False, use_parallel_residual=True)
        | {"hidden_act": "gelu"},
        1_011_781_632,
    ),
    "gpt2": (
        {
            "model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
            "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
            "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "attn_pdrop": 0.1,
            "embd_pdrop": 0.1, "resid_pdrop": 0.1, "summary_activation": None,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
            "summary_type": "cls_index", "summary_use_proj": True, "bos_token_id": 50256,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        124_439_808,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters_as_was_published(name):
    fields, total = PUBLISHED[name]
    config = from_hf(fields, name)
    assert config.n_parameters == total
    abstract = nnx.eval_shape(lambda: models.Transformer(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract))) == total


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

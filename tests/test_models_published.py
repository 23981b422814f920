"""What published models say in their `config.json`: all of it is known, and the sizes are right."""

import jax
import pytest
import torch
from flax import nnx
from transformers.activations import ACT2FN

from probejax import models
from probejax.models.blocks import _ACTIVATIONS
from probejax.models.family import ACTIVATIONS as NAMES
from probejax.models.hf_config import from_hf

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
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
_GPT2 = {
    "model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "attn_pdrop": 0.1,
    "embd_pdrop": 0.1, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "bos_token_id": 50256,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
_OLD = {"n_special": 0, "predict_special_tokens": True}  # of 2019
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
    "llama-7b": (
        sizes("llama", 4096, 11008, 32, 32, 32000, rms_norm_eps=1e-6, max_sequence_length=2048,
              pad_token_id=0),
        6_738_415_616,
    ),
    "gemma-2-9b": (
        sizes("gemma2", 3584, 14336, 42, 16, 256_000, num_key_value_heads=8, head_dim=256,
              rms_norm_eps=1e-6, rope_theta=10000.0, attention_bias=False, sliding_window=4096,
              sliding_window_size=4096, query_pre_attn_scalar=256, attn_logit_softcapping=50.0,
              final_logit_softcapping=30.0, max_position_embeddings=8192, pad_token_id=0,
              cache_implementation="hybrid")
        | {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
        9_241_705_984,
    ),
    "gpt-neox-20b": (
        sizes("gpt_neox", 6144, 24576, 44, 64, 50432, layer_norm_eps=1e-5, rotary_emb_base=10000,
              rotary_pct=0.25, tie_word_embeddings=False, attention_probs_dropout_prob=0,
              hidden_dropout_prob=0)
        | {"hidden_act": "gelu_fast"},
        20_554_567_680,
    ),
    "gpt2": (_GPT2, 124_439_808),
    "distilgpt2": (
        _GPT2 | {"n_layer": 6, "_num_labels": 1, "id2label": {"0": "LABEL_0"},
                 "label2id": {"LABEL_0": 0}},
        81_912_576,
    ),
    "gpt2-medium": (
        _GPT2 | _OLD | {"n_embd": 1024, "n_head": 16, "n_layer": 24},
        354_823_168,
    ),
    "gpt2-large": (
        _GPT2 | _OLD | {"n_embd": 1280, "n_head": 20, "n_layer": 36},
        774_030_080,
    ),
    "gpt2-xl": (
        _GPT2 | _OLD | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True},
        1_557_611_200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters_as_was_published(name):
    fields, total = PUBLISHED[name]
    config = from_hf(fields, name)
    assert config.n_parameters == total
    abstract = nnx.eval_shape(lambda: models.Transformer(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract))) == total


def test_some_special_tokens_more_are_refused():
    """The library of 2019 had rows for them behind the vocabulary; transformers has none."""
    with pytest.raises(ValueError, match="some-model says n_special=2 in its"):
        from_hf(_GPT2 | {"n_special": 2}, "some-model")


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("mistral3", "Mistral-7B-v0.1"),
        ("llava", "TinyLlama-1.1B"),
        ("llava_next", "Mistral-7B-v0.1"),
        ("idefics3", "SmolLM2-135M"),
        ("internvl", "Qwen2.5-0.5B"),
        ("paligemma", "gemma-2b"),
        ("paligemma", "gemma-2-9b"),
        ("gemma3", "Llama-3.1-8B"),
        (None, "Qwen3-0.6B"),
    ],
)
def test_a_text_model_inside_another_is_refused_by_its_config(outer, inner):
    fields = {"model_type": outer, "text_config": PUBLISHED[inner][0], "vision_config": {}}
    with pytest.raises(ValueError) as error:
        from_hf(fields, "some-model")
    said = str(error.value)
    assert said.startswith(f"some-model is a {outer or 'model of unknown type'!r} with a ")
    assert said.endswith("of such models probejax runs gemma3: take one that reads text alone.")


@pytest.mark.parametrize("theirs", NAMES)
def test_an_activation_is_what_transformers_calls_so(theirs):
    x = torch.linspace(-4, 4, 101)
    ours = _ACTIVATIONS[NAMES[theirs]](x.numpy())
    torch.testing.assert_close(torch.tensor(ours.tolist()), ACT2FN[theirs](x), atol=2e-6, rtol=1e-5)

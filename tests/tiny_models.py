"""Tiny random models in which every feature of the real ones bites.

The window (3) is shorter than the prompts (12), the soft caps (2.0) bend, two query heads share a
key head, the heads are together wider than the model, and the query scale is not the head width's.
"""

import dataclasses
import json
import math

import numpy as np
import tokenizers
from flax import nnx
from safetensors.numpy import save_file

from probejax import models
from probejax.models import weights

N_LAYERS, LENGTH, VOCABULARY = 3, 12, 61
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_GEMMA = dict(
    d_model=32,
    d_head=16,
    d_mlp=48,
    d_vocab=VOCABULARY,
    n_heads=4,
    n_kv_heads=2,
    layer_types=(_LOCAL, _GLOBAL, _LOCAL),
    norm="rms_plus_one",
    norm_eps=1e-3,
    activation="gelu_tanh",
    query_pre_attn_scalar=23.0,
    sliding_window=3,
    post_norms=True,
    embed_scale=32**0.5,
    final_softcap=2.0,
)
GEMMA2 = models.ModelConfig(
    name="tiny-gemma-2",
    family="gemma2",
    **_GEMMA,
    rope_local=models.Rope(50.0),
    rope_global=models.Rope(50.0),
    attn_softcap=2.0,
)
GEMMA3 = models.ModelConfig(
    name="tiny-gemma-3",
    family="gemma3",
    **_GEMMA,
    rope_local=models.Rope(50.0),
    rope_global=models.Rope(200.0, factor=4.0),
    qk_norm=True,
)
_OTHERS = dict(
    d_model=32,
    d_head=8,
    d_mlp=48,
    n_kv_heads=4,
    layer_types=(_GLOBAL,) * 2,
    norm_eps=1e-3,
    query_pre_attn_scalar=8.0,
    tied=False,
)
LLAMA = models.ModelConfig(
    name="tiny-llama",
    family="llama",
    d_vocab=64,
    n_heads=8,
    norm="rms",
    activation="silu",
    rope_global=models.Rope(50.0, llama3=models.Llama3(8.0, 1.0, 4.0, 32.0)),
    **_OTHERS,
)
PYTHIA = models.ModelConfig(
    name="tiny-pythia",
    family="gpt_neox",
    d_vocab=61,
    n_heads=4,
    norm="layer",
    activation="gelu",
    rope_global=models.Rope(50.0, fraction=0.5),
    gated=False,
    parallel=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    **_OTHERS,
)
CONFIGS = {config.name: config for config in (GEMMA2, GEMMA3)}


class Arrays:
    """The tensors of a checkpoint in memory; `reads` lists what was read, in order."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.reads: list[tuple[str, tuple[slice, ...]]] = []

    def names(self):
        return self.arrays

    def called(self, name):
        return name

    def shape(self, name):
        return self.arrays[name].shape

    def read(self, name, cuts):
        self.reads.append((name, cuts))
        return self.arrays[name][cuts]


def arrays(config, seed=0) -> Arrays:
    """Random weights in the shapes of a Hugging Face checkpoint, which flattens the heads."""
    rng = np.random.default_rng(seed)
    state = nnx.state(nnx.eval_shape(lambda: models.Transformer(config)))
    found = {}
    for path, leaf in nnx.to_flat_state(state):
        *outputs, inputs = leaf.shape
        if path[-2] in ("q_proj", "k_proj", "v_proj"):
            shape = (math.prod(leaf.shape),) if path[-1] == "bias" else (math.prod(outputs), inputs)
        elif path[-2:] == ("o_proj", "weight"):
            shape = (leaf.shape[0], math.prod(leaf.shape[1:]))
        else:
            shape = leaf.shape
        scale = 0.5 if len(shape) == 1 else shape[-1] ** -0.5
        found[weights.tensor_name(path)] = (scale * rng.normal(size=shape)).astype(np.float32)
    return Arrays(found)


def transformer(config, seed=0, **options) -> models.Transformer:
    """A model with random weights."""
    return weights.load(config, arrays(config, seed), **options)


def language_model(config=GEMMA3, seed=0) -> models.LoadedModel:
    """A model with random weights and a tokenizer that knows the words `w0`, `w1`, ..."""
    words = {f"w{i}": i + 3 for i in range(config.d_vocab - 3)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<pad>": 0, "<unk>": 1, "<bos>": 2, **words}, "<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return models.LoadedModel(config, transformer(config, seed), tokenizer)


def prompts(n, longest, seed=0, words=VOCABULARY - 3) -> list[str]:
    """Distinct prompts of 0 to `longest` random words."""
    rng = np.random.default_rng(seed)
    found = {
        " ".join(f"w{i}" for i in rng.integers(0, words, rng.integers(0, longest + 1)))
        for _ in range(4 * n)
    }
    return sorted(found)[:n]


def change(config, **fields):
    """The config with other values in some fields."""
    return dataclasses.replace(config, **fields)


def hf_config(config) -> dict:
    """The `config.json` of a tiny Gemma 3."""
    return {
        "model_type": "gemma3_text",
        "vocab_size": config.d_vocab,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "layer_types": list(config.layer_types),
        "sliding_window": config.sliding_window,
        "query_pre_attn_scalar": int(config.query_pre_attn_scalar),
        "rms_norm_eps": config.norm_eps,
        "final_logit_softcapping": config.final_softcap,
        "rope_parameters": {
            _LOCAL: {"rope_type": "default", "rope_theta": config.rope_local.base},
            _GLOBAL: {
                "rope_type": "linear",
                "rope_theta": config.rope_global.base,
                "factor": config.rope_global.factor,
            },
        },
    }


def write(folder, config=GEMMA3) -> str:
    """Writes a model folder as it lies on the Hub; returns its path."""
    folder.mkdir(parents=True)
    language_model(config).tokenizer.save(str(folder / "tokenizer.json"))
    save_file(arrays(config).arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    return str(folder)

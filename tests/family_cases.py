"""Tiny random models of every family but Gemma 2 and 3, in transformers' PyTorch classes."""

import numpy as np
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from probejax.sites import EMBEDDING, KINDS, Site

N_LAYERS, LENGTH, VOCABULARY = 2, 12, 61
SITES = (EMBEDDING, *(Site(kind, n) for n in range(N_LAYERS) for kind in KINDS[1:]))

SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-3,
    max_position_embeddings=64,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=50.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip

NEOX = {k: x for k, x in SIZES.items() if k not in ("num_key_value_heads", "rms_norm_eps")}
NEOX |= dict(layer_norm_eps=1e-3)
PARTLY = dict(rope_type="default", rope_theta=50.0)

CLASSES = {  # importing them sets a variable of the environment, so not inside a test
    "Gemma": (GemmaConfig, GemmaForCausalLM),
    "Llama": (LlamaConfig, LlamaForCausalLM),
    "Mistral": (MistralConfig, MistralForCausalLM),
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "GPTNeoX": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "GPT2": (GPT2Config, GPT2LMHeadModel),
}

# name -> which class, and its config.
CASES = {
    "gemma": ("Gemma", SIZES | dict(head_dim=16, hidden_act="gelu")),
    "llama": (
        "Llama",
        SIZES | dict(head_dim=16, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    ),
    "llama, plain": ("Llama", SIZES | dict(hidden_act="gelu", tie_word_embeddings=True)),
    "llama, linear": (
        "Llama",
        SIZES | dict(rope_parameters=dict(rope_type="linear", rope_theta=50.0, factor=4.0)),
    ),
    "mistral": ("Mistral", SIZES | dict(sliding_window=3, head_dim=16)),
    "qwen2": ("Qwen2", SIZES | dict(tie_word_embeddings=True)),
    "qwen2, windows": (
        "Qwen2",
        SIZES | dict(use_sliding_window=True, sliding_window=3, max_window_layers=1),
    ),
    "qwen3": ("Qwen3", SIZES | dict(head_dim=16, attention_bias=True)),
    "pythia": ("GPTNeoX", NEOX | dict(rope_parameters=dict(PARTLY, partial_rotary_factor=0.5))),
    "pythia, one after the other": (
        "GPTNeoX",
        NEOX | dict(use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new"),
    ),
    "gpt2": (
        "GPT2",
        dict(
            vocab_size=VOCABULARY, n_embd=32, n_layer=N_LAYERS, n_head=4, n_positions=64,
            layer_norm_epsilon=1e-3,
        ),
    ),
}  # fmt: skip
PARTS = {  # where a model's blocks are; of a block, its attention, the projection and the MLP
    "GPTNeoX": ("gpt_neox.layers", "attention", "attention.dense", "mlp"),
    "GPT2": ("transformer.h", "attn", "attn.c_proj", "mlp"),
}
USUAL = ("model.layers", "self_attn", "self_attn.o_proj", "mlp")


def build(case):
    """A random model of transformers."""
    kind, fields = CASES[case]
    settings, make = CLASSES[kind]
    torch.manual_seed(0)
    model = make(settings(**fields, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn_like(parameter))
    return model


def padded(lengths=(LENGTH, 7, 1)):
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (len(lengths), LENGTH))
    mask = np.arange(LENGTH)[None] < np.array(lengths)[:, None]
    return np.where(mask, ids, 0).astype(np.int32), mask


def run_theirs(case, model, ids, mask):
    """Returns the activations at every site (by hooks), and the logits."""
    blocks, attention, projection, mlp = PARTS.get(CASES[case][0], USUAL)
    found, handles = {}, []

    def keep(site):
        def hook(module, given, output):
            found[site] = (output[0] if isinstance(output, tuple) else output).float().numpy()

        return hook

    def keep_input(site):
        def hook(module, args, kwargs):
            given = args[0] if args else kwargs["hidden_states"]
            found[site] = given.float().flatten(2).numpy()

        return hook

    for n, block in enumerate(model.get_submodule(blocks)):
        for kind, name in (("resid_post", ""), ("attn_out", attention), ("mlp_out", mlp)):
            module = block.get_submodule(name)
            handles.append(module.register_forward_hook(keep(Site(kind, n))))
        readers = [(Site("attn_z", n), projection)] + ([(EMBEDDING, "")] if n == 0 else [])
        for site, name in readers:
            module = block.get_submodule(name)
            handles.append(module.register_forward_pre_hook(keep_input(site), with_kwargs=True))
    mask = torch.tensor(mask).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(torch.tensor(ids).long(), attention_mask=mask, position_ids=positions)
    for handle in handles:
        handle.remove()
    return found, output.logits.float().numpy()


def error(found, expected, where):
    """Returns the largest relative error, over the tokens that are `where`."""
    difference = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return difference[where].max()

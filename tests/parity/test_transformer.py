"""Gemma 2 and 3 against transformers' PyTorch classes, component by component, in float32.

The weights go through real safetensors files and the loader that users get.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
)

from probejax import models
from probejax.models.blocks import softcap
from probejax.models.rope import rotate
from probejax.sites import EMBEDDING, KINDS, Site
from tests import tiny_models

RTOL_RESIDUAL = 1e-4  # of the norm of a token's residual; float32 gives about 1e-6
LENGTH = tiny_models.LENGTH
RESIDUALS = jax.jit(models.residuals, static_argnames="layers")
READ = jax.jit(models.read_sites, static_argnames="sites")
LOGITS = jax.jit(models.logits)


def hf_model(config):
    """A random model of transformers with the numbers of our config."""
    c = config
    shared = dict(
        hidden_size=c.d_model,
        head_dim=c.d_head,
        intermediate_size=c.d_mlp,
        vocab_size=c.d_vocab,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        num_hidden_layers=c.n_layers,
        layer_types=list(c.layer_types),
        sliding_window=c.sliding_window,
        query_pre_attn_scalar=int(c.query_pre_attn_scalar),
        attn_logit_softcapping=c.attn_softcap,
        final_logit_softcapping=c.final_softcap,
        rms_norm_eps=c.norm_eps,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    # As transformers 4 spells the rotary numbers; 5 reads it too, and saves its own spelling.
    shared["rope_theta"] = c.rope_global.base
    if c.qk_norm:
        ropes = dict(
            rope_local_base_freq=c.rope_local.base,
            rope_scaling={"rope_type": "linear", "factor": c.rope_global.factor},
        )
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shared, **ropes))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**shared))
    with torch.no_grad():
        for parameter in model.parameters():  # large enough to bend the soft caps
            scale = 0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn_like(parameter))
    return model.float().eval()


@pytest.fixture(scope="module", params=tiny_models.CONFIGS)
def pair(request, tmp_path_factory):
    """transformers' model, ours after a trip through the disk, and the folder."""
    config = tiny_models.CONFIGS[request.param]
    theirs = hf_model(config)
    folder = tmp_path_factory.mktemp("model") / config.name
    theirs.save_pretrained(folder)
    checkpoint = models.find(str(folder))
    assert checkpoint.config == config  # also that config.json is read in full
    return theirs, checkpoint.transformer(None, jnp.float32), folder


def tokens(*shape):
    found = np.random.default_rng(1).integers(3, tiny_models.VOCABULARY, shape)
    found[:, 0] = 2
    return found.astype(np.int32)


def run_theirs(model, ids, mask):
    """Returns the activations at every site (by hooks), and the logits."""
    mask = torch.tensor(mask).long()
    found, handles = {}, []

    def keep(site):
        def hook(module, given, output):  # a tuple in transformers 4
            found[site] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    def keep_input(site):
        return lambda module, given: found.__setitem__(site, given[0].numpy())

    for layer, block in enumerate(model.model.layers):
        for kind, module in (
            ("resid_post", block),
            ("attn_out", block.post_attention_layernorm),
            ("mlp_out", block.post_feedforward_layernorm),
        ):
            handles.append(module.register_forward_hook(keep(Site(kind, layer))))
        heads = block.self_attn.o_proj.register_forward_pre_hook(keep_input(Site("attn_z", layer)))
        handles.append(heads)

    def keep_embedding(module, args, kwargs):  # scaled by then, whichever module scales it
        found[EMBEDDING] = (args[0] if args else kwargs["hidden_states"]).numpy()

    first = model.model.layers[0]
    handles.append(first.register_forward_pre_hook(keep_embedding, with_kwargs=True))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(torch.tensor(ids).long(), attention_mask=mask, position_ids=positions)
    for handle in handles:
        handle.remove()
    return found, output.logits.numpy()


def run_ours(model, ids, mask):
    sites = (EMBEDDING, *(Site(kind, n) for n in range(len(model.layers)) for kind in KINDS[1:]))
    found = READ(model, jnp.asarray(ids), jnp.asarray(mask), sites)
    logits = LOGITS(model, jnp.asarray(ids), jnp.asarray(mask))
    return {site: np.asarray(x) for site, x in found.items()}, np.asarray(logits)


def error(found, expected, where):
    """Returns the largest relative error, over the tokens that are `where`."""
    difference = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return difference[where].max()


def random(*shape):
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def test_rms_norm(pair):
    theirs, ours, _ = pair
    x = random(2, LENGTH, 32) * np.logspace(-3, 2, LENGTH, dtype=np.float32)[:, None]
    for name in ("input_layernorm", "post_feedforward_layernorm"):
        expected = getattr(theirs.model.layers[1], name)(torch.tensor(x)).detach().numpy()
        found = np.asarray(getattr(ours.layers[1], name)(jnp.asarray(x)))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [1, 2])
def test_rope(pair, layer):
    theirs, ours, _ = pair
    positions = np.array([[0, 1, 2, 5, 40, 200]])
    x = random(1, 6, 4, 16)
    rotary, where = theirs.model.rotary_emb, torch.tensor(positions)
    kind = [theirs.config.layer_types[layer]] if hasattr(rotary, "layer_types") else []
    if theirs.config.layer_types[layer] == "sliding_attention":  # a module of its own in version 4
        rotary = getattr(theirs.model, "rotary_emb_local", rotary)
    cos, sin = (each[:, :, None].numpy() for each in rotary(torch.tensor(x), where, *kind))
    half = np.concatenate([-x[..., 8:], x[..., :8]], axis=-1)
    block = ours.layers[layer].self_attn
    found = rotate(jnp.asarray(x), jnp.asarray(positions), block.rope)
    # A float32 angle of 200 radians is known to 1e-5.
    np.testing.assert_allclose(found[:, :4], (x * cos + half * sin)[:, :4], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, x * cos + half * sin, rtol=0, atol=3e-5)


def test_softcap_is_odd_bounded_and_close_to_the_identity_near_zero():
    x = np.linspace(-30, 30, 61, dtype=np.float32)
    found = np.asarray(softcap(jnp.asarray(x), 2.0))
    np.testing.assert_allclose(found, 2 * np.tanh(x / 2), atol=1e-6)
    np.testing.assert_allclose(found, -found[::-1], atol=1e-7)
    assert np.abs(found).max() <= 2.0 and (np.diff(found) >= 0).all()
    assert np.array_equal(softcap(jnp.asarray(x), None), x)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("part, tolerance", [("self_attn", 1e-5), ("mlp", 1e-5), ("block", 1e-4)])
def test_attention_mlp_and_block(pair, layer, part, tolerance):
    """The input and output of transformers' module are recorded inside a run of its model."""
    theirs, ours, _ = pair
    block = theirs.model.layers[layer]
    recorded = {}

    def keep(module, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        recorded["x"], recorded["y"] = given, output[0] if isinstance(output, tuple) else output

    module = block if part == "block" else getattr(block, part)
    handle = module.register_forward_hook(keep, with_kwargs=True)
    run_theirs(theirs, tokens(3, LENGTH), np.ones((3, LENGTH)))
    handle.remove()
    x, expected = (jnp.asarray(recorded[name].detach().numpy()) for name in ("x", "y"))
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None, :], (3, LENGTH))
    causal = jnp.broadcast_to(jnp.tri(LENGTH, dtype=bool)[None], (3, LENGTH, LENGTH))
    our_block = ours.layers[layer]
    found = {
        "self_attn": lambda: our_block.self_attn(x, positions, causal),
        "mlp": lambda: our_block.mlp(x),
        "block": lambda: our_block(x, positions, causal).resid_post,
    }[part]()
    assert error(np.asarray(found), np.asarray(expected), np.ones((3, LENGTH), bool)) < tolerance


def padded(side, lengths=(LENGTH, 7, 1)):
    mask = np.zeros((len(lengths), LENGTH), bool)
    for row, length in enumerate(lengths):
        mask[row, slice(LENGTH - length, None) if side == "left" else slice(length)] = True
    ids = tokens(len(lengths), LENGTH)
    ids[~mask] = 0
    return ids, mask


CASES = {
    "full rows, odd batch": lambda: (tokens(3, LENGTH), np.ones((3, LENGTH), bool)),
    "left padding": lambda: padded("left"),
    "right padding": lambda: padded("right"),
    "one prompt": lambda: (tokens(1, LENGTH), np.ones((1, LENGTH), bool)),
    "one token": lambda: (tokens(1, 1), np.ones((1, 1), bool)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_site_and_the_logits(pair, case):
    theirs, ours, _ = pair
    ids, mask = CASES[case]()
    expected, expected_logits = run_theirs(theirs, ids, mask)
    found, logits = run_ours(ours, ids, mask)
    assert found.keys() == expected.keys() and len(found) == 1 + 4 * tiny_models.N_LAYERS
    assert np.array_equal(found[EMBEDDING][mask], expected[EMBEDDING][mask])
    for site, x in found.items():
        assert x.shape[-1] == (64 if site.kind == "attn_z" else 32)
        assert error(x, expected[site], mask) < RTOL_RESIDUAL, site
    np.testing.assert_allclose(logits[mask], expected_logits[mask], atol=1e-3, rtol=0)
    assert 1.0 < np.abs(logits[mask]).max() <= 2.0  # the cap bends


def test_prompts_packed_into_one_row_equal_prompts_alone(pair):
    theirs, ours, _ = pair
    lengths = (5, 1, LENGTH, 4)
    alone = [tokens(1, n) + np.int32(0) for n in lengths]
    for i, each in enumerate(alone):
        each[:, 1:] = (each[:, 1:] + 7 * i) % 50 + 3
    row = np.concatenate([*alone, np.zeros((1, 2), np.int32)], axis=1)
    segments = np.repeat([1, 2, 3, 4, 0], [*lengths, 2])[None]
    found, logits = run_ours(ours, row, segments)
    for number, ids in enumerate(alone, start=1):
        expected, expected_logits = run_theirs(theirs, ids, np.ones_like(ids))
        here = segments[0] == number
        for site, x in found.items():
            assert error(x[:, here], expected[site], np.ones(ids.shape, bool)) < RTOL_RESIDUAL
        np.testing.assert_allclose(logits[:, here], expected_logits, atol=1e-3, rtol=0)


def test_bfloat16(pair):
    """bfloat16 keeps 8 bits: half a per cent per rounding, some per cent after three blocks."""
    theirs, _, folder = pair
    ours = models.find(str(folder)).transformer(None, jnp.bfloat16)
    ids, mask = padded("right")
    expected, _ = run_theirs(theirs, ids, mask)
    found, logits = run_ours(ours, ids, mask)
    assert logits.dtype == np.float32
    for site, x in found.items():
        assert x.dtype == jnp.bfloat16
        difference = error(x.astype(np.float32), expected[site], mask)
        most = 0.06 if site.is_residual else 0.12  # a part has not the norm of the whole
        assert (0.0 if site == EMBEDDING else 0.001) < difference < most, (site, difference)


def test_bfloat16_embedding_is_scaled_by_the_rounded_root(pair):
    theirs, _, folder = pair
    ours = models.find(str(folder)).transformer(0, jnp.bfloat16)
    ids = tokens(2, LENGTH)
    with torch.no_grad():
        weight = theirs.model.embed_tokens.weight.bfloat16()
        scale = torch.tensor(32**0.5).bfloat16()  # 5.65625, not 5.65685
        expected = (weight[torch.tensor(ids).long()] * scale).float().numpy()
    found = RESIDUALS(ours, jnp.asarray(ids), jnp.ones((2, LENGTH), bool), ("embed",))["embed"]
    assert np.array_equal(np.asarray(found, np.float32), expected)


def same_model(a, b):
    ids, mask = padded("right")
    x, y = (RESIDUALS(m, jnp.asarray(ids), jnp.asarray(mask), (2,))[2] for m in (a, b))
    return np.array_equal(x, y)


def test_sharded_files(pair, tmp_path):
    theirs, ours, _ = pair
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert same_model(models.find(str(tmp_path)).transformer(None, jnp.float32), ours)


@pytest.mark.parametrize("pair", ["tiny-gemma-3"], indirect=True)  # the one read inside
@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_text_model_of_a_vision_checkpoint(pair, tmp_path, prefix):
    _, ours, folder = pair
    tensors = load_file(folder / "model.safetensors")
    renamed = {prefix + name.removeprefix("model."): x for name, x in tensors.items()}
    renamed |= {
        "vision_tower.vision_model.embeddings.patch_embedding.bias": np.ones(3, np.float32),
        "model.vision_tower.vision_model.post_layernorm.bias": np.ones(3, np.float32),
        "multi_modal_projector.mm_soft_emb_norm.weight": np.ones(3, np.float32),
        "language_model.lm_head.weight": tensors["model.embed_tokens.weight"],
    }
    save_file(renamed, tmp_path / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    nested = {"model_type": "gemma3", "text_config": fields, "vision_config": {"hidden_size": 3}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    checkpoint = models.find(str(tmp_path))
    assert dataclasses.replace(checkpoint.config, name="") == dataclasses.replace(
        models.find(str(folder)).config, name=""
    )
    assert same_model(checkpoint.transformer(None, jnp.float32), ours)

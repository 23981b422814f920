import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probejax import artifacts, models
from probejax.models import config as configs
from probejax.models.gguf import Gguf
from tests import tiny_models

GOLDEN = Path(__file__).parent / "golden" / "configs"

# Totals as published; golden/configs/README.md names the sources.
TEXT_TOTALS = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
}
VISION_TOTALS = {
    "gemma-3-4b": 4_300_079_472,
    "gemma-3-12b": 12_187_325_040,
    "gemma-3-27b": 27_432_406_640,
}
VISION_TOWER = 416_866_032


def test_every_preset_has_a_published_total():
    assert set(models.PRESETS) == TEXT_TOTALS.keys() | VISION_TOTALS.keys()
    assert all(config.name == name for name, config in models.PRESETS.items())


@pytest.mark.parametrize("name", models.PRESETS)
def test_parameters_equal_the_published_total(name):
    config = models.PRESETS[name]
    published = TEXT_TOTALS.get(name)
    if published is None:
        projection = 1152 * config.d_model + 1152
        published = VISION_TOTALS[name] - VISION_TOWER - projection
    assert config.n_parameters == published


@pytest.mark.parametrize("name", models.PRESETS)
def test_shapes_of_the_preset(name):
    """`eval_shape` allocates nothing, so 27 billion parameters are no trouble."""
    config = models.PRESETS[name]
    abstract = nnx.eval_shape(lambda: models.Transformer(config, dtype=jnp.bfloat16))
    leaves = jax.tree.leaves(nnx.state(abstract))
    assert sum(leaf.size for leaf in leaves) == config.n_parameters
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    tokens = jax.ShapeDtypeStruct((3, 17), jnp.int32)
    found = jax.eval_shape(
        lambda model, ids: models.residuals(model, ids, ids > 0, (-1, 5)), abstract, tokens
    )
    assert {layer: x.shape for layer, x in found.items()} == {
        -1: (3, 17, config.d_model),
        5: (3, 17, config.d_model),
    }


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_preset_equals_the_published_config(path):
    assert configs.from_hf(json.loads(path.read_text()), path.stem) == models.PRESETS[path.stem]


def test_every_preset_has_a_published_config():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(models.PRESETS)


def test_fields_left_out_take_the_defaults_of_transformers():
    """The published vision checkpoints say no more than this."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    found = configs.from_hf({"model_type": "gemma3", "text_config": text}, "gemma-3-4b")
    assert found == models.PRESETS["gemma-3-4b"]


def test_old_and_new_spelling_of_the_rotary_numbers_agree():
    old = json.loads((GOLDEN / "gemma-3-270m.json").read_text())
    old |= {"rope_scaling": {"factor": 4.0, "rope_type": "linear"}, "rope_local_base_freq": 123.0}
    new = {k: v for k, v in old.items() if not k.startswith("rope")}
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
    }
    found = configs.from_hf(new, "x")
    assert configs.from_hf(old, "x") == found
    assert (found.rope_base_local, found.rope_base_global) == (123.0, 1e6)
    assert found.rope_scale_global == 4.0


def test_gguf_header_of_the_real_file_equals_the_preset():
    header = Gguf(artifacts.gemma_3_270m()).fields
    assert configs.from_gguf(header, "gemma-3-270m") == models.PRESETS["gemma-3-270m"]


@pytest.mark.parametrize("name", ["gemma-2-9b", "gemma-2-27b", "gemma-3-27b"])
def test_gguf_header_of_the_large_models(name):
    """The header lacks the query scale, which differs in the 27B models."""
    config = models.PRESETS[name]
    kind = "gemma3" if config.qk_norm else "gemma2"
    numbers = {
        "block_count": config.n_layers,
        "embedding_length": config.d_model,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "feed_forward_length": config.d_mlp,
        "attention.sliding_window": config.sliding_window,
        "attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
    }
    if kind == "gemma3":
        numbers |= {"rope.freq_base": 1e6, "rope.scaling.factor": 8.0}
    else:
        numbers |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    header = {f"{kind}.{key}": value for key, value in numbers.items()}
    header |= {"general.architecture": kind, "tokenizer.ggml.tokens": [""] * config.d_vocab}
    assert configs.from_gguf(header, name) == config


# Each field and another value for it. A new field of GemmaConfig must find its place here.
OTHER_VALUES = {
    "layer_types": ("full_attention",) * 3,
    "sliding_window": 4,
    "rope_base_local": 51.0,
    "rope_base_global": 51.0,
    "rope_scale_global": 3.0,
    "query_pre_attn_scalar": 16.0,
    "attn_softcap": 3.0,
    "norm_eps": 2e-3,
}
OTHER_LOGITS = {"final_softcap": 3.0}  # enters after the residual stream
OTHER_SHAPES = {  # cannot change without other weights
    "d_model": 16,
    "d_head": 8,
    "d_mlp": 24,
    "d_vocab": 30,
    "n_heads": 2,
    "n_kv_heads": 4,
    "qk_norm": False,
}
NO_EFFECT = {"name": "another"}


def test_every_field_is_tested_for_its_effect():
    tested = OTHER_VALUES.keys() | OTHER_LOGITS.keys() | OTHER_SHAPES.keys() | NO_EFFECT.keys()
    assert {field.name for field in dataclasses.fields(models.GemmaConfig)} == tested


@pytest.fixture(scope="module")
def outputs():
    """Gives the last residual and the logits of a config, on the same weights."""
    arrays = tiny_models.arrays(tiny_models.GEMMA3)
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 61, (2, tiny_models.LENGTH)))
    mask = jnp.ones(ids.shape, bool)

    @jax.jit
    def run(model):
        return models.residuals(model, ids, mask, (2,))[2], models.logits(model, ids, mask)

    def outputs(config):
        return [np.asarray(x) for x in run(models.weights.load(config, arrays))]

    return outputs


@pytest.fixture(scope="module")
def base(outputs):
    return outputs(tiny_models.GEMMA3)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_field_changes_the_residual(outputs, base, field):
    found = outputs(tiny_models.change(tiny_models.GEMMA3, **{field: OTHER_VALUES[field]}))
    assert np.abs(found[0] - base[0]).max() > 1e-3 * np.abs(base[0]).max()


def test_final_softcap_changes_the_logits_alone(outputs, base):
    residual, logits = outputs(tiny_models.change(tiny_models.GEMMA3, **OTHER_LOGITS))
    assert np.array_equal(residual, base[0])
    assert np.abs(logits - base[1]).max() > 1e-2


def test_name_changes_nothing(outputs, base):
    found = outputs(tiny_models.change(tiny_models.GEMMA3, **NO_EFFECT))
    assert all(np.array_equal(a, b) for a, b in zip(found, base, strict=True))


@pytest.mark.parametrize("field", OTHER_SHAPES)
def test_field_changes_the_weights_wanted(field):
    config = tiny_models.change(tiny_models.GEMMA3, **{field: OTHER_SHAPES[field]})
    with pytest.raises(ValueError, match="The checkpoint does not fit tiny-gemma-3: "):
        models.weights.load(config, tiny_models.arrays(tiny_models.GEMMA3))


def test_window_of_w_sees_w_keys():
    """With one sliding block, a token's residual depends on itself and the w - 1 before it."""
    config = tiny_models.change(tiny_models.GEMMA3, layer_types=("sliding_attention",))
    model = tiny_models.transformer(config)
    ids = np.arange(3, 15)[None]
    run = jax.jit(lambda ids: models.residuals(model, ids, jnp.ones(ids.shape, bool), (0,))[0][0])
    changed = ids.copy()
    changed[0, 4] += 20
    differs = np.abs(np.asarray(run(ids)) - np.asarray(run(changed))).max(axis=-1) > 1e-6
    assert np.flatnonzero(differs).tolist() == [4, 5, 6]


def refused(fields, message, name="some-model"):
    with pytest.raises(ValueError, match=message):
        configs.from_hf(fields, name)


def test_other_models_are_refused():
    refused({"model_type": "llama"}, "some-model is a 'llama'; probejax runs gemma2, gemma3_text")
    refused({}, "some-model is a 'model of unknown type'; probejax runs gemma2, gemma3_text")
    golden = json.loads((GOLDEN / "gemma-3-270m.json").read_text())
    refused(
        {**golden, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "some-model uses 'yarn' rotary scaling; only `default` and `linear` are implemented",
    )
    refused(
        {**golden, "use_bidirectional_attention": True},
        "some-model attends in both directions",
    )
    refused(
        {**golden, "hidden_activation": "silu"},
        "^some-model says hidden_activation=silu; probejax implements gelu_pytorch_tanh, which",
    )
    with pytest.raises(
        ValueError, match="x holds a 'llama' model; probejax runs gemma2 and gemma3"
    ):
        configs.from_gguf({"general.architecture": "llama"}, "x")
    with pytest.raises(
        ValueError, match=r"header of x has no gemma3\.block_count; is the file com"
    ):
        configs.from_gguf({"general.architecture": "gemma3"}, "x")


@pytest.mark.parametrize("layers", [(18,), (-2,), (0, 99), ()])
def test_layer_out_of_range(layers):
    with pytest.raises(
        ValueError, match=r"^Layer .* gemma-3-270m has layers 0 to 17, and `embed` after the emb"
    ):
        models.PRESETS["gemma-3-270m"].check_layers(layers)
    models.PRESETS["gemma-3-270m"].check_layers((-1, 0, 17))

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import Gemma2Config, Gemma3TextConfig

from probejax import models
from probejax.models.hf_config import from_hf
from probejax.sites import parse
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


PLACES = ("embed", "attn_z.4", "attn_out.5", "resid_post.5")


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
        lambda model, ids: models.residuals(model, ids, ids > 0, PLACES), abstract, tokens
    )
    for place in PLACES:
        assert found[place].shape == (3, 17, config.width(parse(place)))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_preset_equals_the_published_config(path):
    assert from_hf(json.loads(path.read_text()), path.stem) == models.PRESETS[path.stem]


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
    found = from_hf({"model_type": "gemma3", "text_config": text}, "gemma-3-4b")
    assert found == models.PRESETS["gemma-3-4b"]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_the_defaults_are_those_of_transformers(kind):
    """Whatever version is installed; the rotary numbers are compared below, and by their effect."""
    found = from_hf({"model_type": kind}, "x")
    hf = {"gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig}[kind]()
    assert found == models.ModelConfig(
        name="x",
        family=kind[:6],
        d_model=hf.hidden_size,
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_heads=hf.num_attention_heads,
        n_kv_heads=hf.num_key_value_heads,
        layer_types=tuple(hf.layer_types),
        sliding_window=hf.sliding_window,
        rope_local=models.Rope(1e4),
        rope_global=models.Rope(1e4 if kind == "gemma2" else 1e6),
        query_pre_attn_scalar=float(hf.query_pre_attn_scalar),
        qk_norm=kind == "gemma3_text",
        attn_softcap=hf.attn_logit_softcapping,
        final_softcap=hf.final_logit_softcapping,
        norm="rms_plus_one",
        norm_eps=hf.rms_norm_eps,
        activation="gelu_tanh",
        post_norms=True,
        embed_scale=hf.hidden_size**0.5,
        tied=hf.tie_word_embeddings,
    )


# The same rotary numbers (123 in sliding blocks, 1e6 over 4 in full ones) as files spell them.
LINEAR = {"rope_type": "linear", "factor": 4.0}
SPELLINGS = {
    "transformers 4": {"rope_theta": 1e6, "rope_local_base_freq": 123, "rope_scaling": LINEAR},
    "before 4.43": {"rope_local_base_freq": 123, "rope_scaling": {"type": "linear", "factor": 4}},
    "transformers 5": {
        "rope_parameters": {
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
        },
    },
    "bases outside": {
        "rope_parameters": {
            "full_attention": LINEAR,
            "sliding_attention": {"rope_type": "default"},
        },
        "rope_theta": 1e6,
        "rope_local_base_freq": 123.0,
    },
    "full blocks alone": {
        "rope_parameters": {"full_attention": LINEAR},
        "rope_local_base_freq": 123.0,
        "rope_scaling": None,
    },
    "both": {
        "rope_parameters": {
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
        },
        "rope_theta": 5.0,
        "rope_local_base_freq": 6.0,
    },
    "an unused factor": {
        "rope_parameters": {
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 123.0, "factor": 9.0},
        },
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_rotary_numbers(spelling):
    golden = json.loads((GOLDEN / "gemma-3-270m.json").read_text())
    fields = {k: v for k, v in golden.items() if not k.startswith("rope")}
    found = from_hf(fields | SPELLINGS[spelling], "x")
    assert found.rope_local == models.Rope(123.0)
    assert found.rope_global == models.Rope(1e6, factor=4.0)


@pytest.mark.parametrize(
    "fields",
    [{"rope_theta": 99.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 99.0}}],
)
def test_every_spelling_of_gemma_2s_one_base(fields):
    found = from_hf({"model_type": "gemma2", **fields}, "x")
    assert found.rope_local == found.rope_global == models.Rope(99.0)


# Small programs: there are many.
SMALL = tiny_models.change(tiny_models.GEMMA3, layer_types=("sliding_attention", "full_attention"))

# Each field and other values for it. A new field of ModelConfig must find its place here.
GLOBAL_ROPE = SMALL.rope_global
OTHER_VALUES = [
    ("layer_types", ("full_attention",) * 2),
    ("sliding_window", 4),
    ("norm", "rms"),
    ("norm_eps", 2e-3),
    ("activation", "silu"),
    ("activation", "gelu"),
    ("query_pre_attn_scalar", 16.0),
    ("parallel", True),
    ("embed_scale", 2.0),
    ("attn_softcap", 3.0),
    ("rope_local", models.Rope(51.0)),
    ("rope_global", tiny_models.change(GLOBAL_ROPE, base=51.0)),
    ("rope_global", tiny_models.change(GLOBAL_ROPE, factor=3.0)),
    ("rope_global", tiny_models.change(GLOBAL_ROPE, fraction=0.5)),
    ("rope_global", tiny_models.change(GLOBAL_ROPE, divisors=(2.0,) * 8)),
    *(
        ("rope_global", tiny_models.change(GLOBAL_ROPE, llama3=models.Llama3(*numbers)))
        for numbers in ((8, 1, 4, 64), (9, 1, 4, 64), (8, 2, 4, 64), (8, 1, 5, 64), (8, 1, 4, 80))
    ),
]
OTHER_LOGITS = {"final_softcap": 3.0}  # enters after the residual stream
OTHER_SHAPES = {  # cannot change without other weights
    "d_model": 16,
    "d_head": 8,
    "d_mlp": 24,
    "d_vocab": 30,
    "n_heads": 2,
    "n_kv_heads": 4,
    "norm": "layer",
    "n_positions": 20,
    "gated": False,
    "post_norms": False,
    "qk_norm": False,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
NO_EFFECT = {"name": "another", "family": "gemma2"}
HEAD = {"tied"}  # tested where there is one


def test_every_field_is_tested_for_its_effect():
    values = [value for field, value in OTHER_VALUES if field.startswith("rope_")]
    for kind, found in (
        (models.ModelConfig, {field for field, _ in OTHER_VALUES}),
        (models.Rope, {n for x in values for n, y in vars(x).items() if y != vars(GLOBAL_ROPE)[n]}),
    ):
        if kind is models.ModelConfig:
            found |= OTHER_LOGITS.keys() | OTHER_SHAPES.keys() | NO_EFFECT.keys() | HEAD
        assert {field.name for field in dataclasses.fields(kind)} == found


@pytest.fixture(scope="module")
def outputs():
    """Gives the last residual and the logits of a config, on the same weights."""
    arrays = tiny_models.arrays(SMALL)
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 61, (2, tiny_models.LENGTH)))
    mask = jnp.ones(ids.shape, bool)

    @jax.jit
    def run(model):
        return models.residuals(model, ids, mask, (1,))[1], models.logits(model, ids, mask)

    def outputs(config):
        return [np.asarray(x) for x in run(models.weights.load(config, arrays))]

    return outputs


@pytest.fixture(scope="module")
def base(outputs):
    return outputs(SMALL)


@pytest.fixture(scope="module")
def seen():
    """The residuals of the values before, all of which differ."""
    return []


@pytest.mark.parametrize(("field", "value"), OTHER_VALUES)
def test_field_changes_the_residual(outputs, base, seen, field, value):
    found = outputs(tiny_models.change(SMALL, **{field: value}))[0]
    for other in (base[0], *seen):
        assert np.abs(found - other).max() > 1e-4 * np.abs(base[0]).max()
    seen.append(found)


def test_final_softcap_changes_the_logits_alone(outputs, base):
    residual, logits = outputs(tiny_models.change(SMALL, **OTHER_LOGITS))
    assert np.array_equal(residual, base[0])
    assert np.abs(logits - base[1]).max() > 1e-2


def test_labels_change_nothing(outputs, base):
    found = outputs(tiny_models.change(SMALL, **NO_EFFECT))
    assert all(np.array_equal(a, b) for a, b in zip(found, base, strict=True))


@pytest.mark.parametrize("field", OTHER_SHAPES)
def test_field_changes_the_weights_wanted(field):
    ropes = dict(rope_local=None, rope_global=None) if field == "n_positions" else {}
    config = tiny_models.change(SMALL, **{field: OTHER_SHAPES[field]}, **ropes)
    with pytest.raises(ValueError, match="The checkpoint does not fit tiny-gemma-3: "):
        models.weights.load(config, tiny_models.arrays(SMALL))


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
        from_hf(fields, name)


def test_other_models_are_refused():
    refused(
        {"model_type": "mamba"}, "some-model is a 'mamba'; probejax runs gemma, gemma2, gemma3_text"
    )
    refused({}, "some-model is a 'model of unknown type'; probejax runs gemma, gemma2, gemma3_text")
    golden = json.loads((GOLDEN / "gemma-3-270m.json").read_text())
    refused(
        {**golden, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "some-model uses 'yarn' rotary scaling; only default, linear, llama3 are implemented",
    )
    refused(
        {**golden, "use_bidirectional_attention": True},
        "some-model says use_bidirectional_attention=True in its config.json; of gemma3_text",
    )
    refused(
        {**golden, "hidden_activation": "quick_gelu"},
        "^some-model has the activation 'quick_gelu'; probejax implements silu, swish, gelu, ",
    )


@pytest.mark.parametrize("places", [(18,), ("mlp_out.18",), (0, 99)])
def test_site_out_of_range(places):
    with pytest.raises(
        ValueError,
        match=r"^--site=\w*\.\d\d was asked for, but gemma-3-270m has layers 0 to 17",
    ):
        models.PRESETS["gemma-3-270m"].check([parse(place) for place in places])
    models.PRESETS["gemma-3-270m"].check([parse(place) for place in ("embed", 0, 17, "attn_z.17")])
    with pytest.raises(ValueError, match="No site was asked for"):
        models.PRESETS["gemma-3-270m"].check([])


DAMAGED = [
    *(
        ({key: bad}, key)
        for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "sliding_window")
        for bad in (-1, 0, "4", 10**9, 2.5, [4], None)
    ),
    *(({key: bad}, key) for key in ("rms_norm_eps", "rope_theta") for bad in (-1, 0, "1", [1])),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ({"num_hidden_layers": 17}, "18 layer_types for 17 blocks"),
    ({"layer_types": ["full_attention"]}, "1 layer_types for 18 blocks"),
    ({"layer_types": ["full_attention"] * 17 + ["chunked_attention"]}, "type chunked_attention"),
    ({"layer_types": 18}, "layer_types"),
    ({"num_attention_heads": 5, "num_key_value_heads": 2}, "5 query heads, which cannot share"),
    ({"head_dim": 255}, "heads of width 255"),
    ({"text_config": [1]}, "Expected `object`, got `array`"),
    ({"text_config": None}, "Expected `object`, got `null`"),
    ({"rope_parameters": {"full_attention": 3}}, "Expected `object`, got `int`"),
    ({"rope_scaling": {"rope_type": "linear"}}, "without a factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -8.0}}, "factor"),
    ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, "part of each head"),
    ({"hidden_activation": None}, "hidden_activation"),
]


@pytest.mark.parametrize(("fields", "said"), DAMAGED)
def test_numbers_that_cannot_be_are_refused(fields, said):
    golden = json.loads((GOLDEN / "gemma-3-270m.json").read_text())
    with pytest.raises(ValueError) as error:
        from_hf(golden | fields, "some-model")
    assert said in str(error.value) and "some-model" in str(error.value)
    assert "\n" not in str(error.value)

"""The numbers of a model from GGUF headers, in the dialects of the programs that write them."""

import numpy as np
import pytest

from probejax import artifacts, models
from probejax.models.gguf import Gguf
from probejax.models.gguf_config import from_gguf
from tests import tiny_models

EPS = float(np.float32(1e-6))  # as the files store it


def sizes(config):
    """The keys that every program writes."""
    return {
        "block_count": config.n_layers,
        "embedding_length": config.d_model,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "attention.value_length": config.d_head,
        "feed_forward_length": config.d_mlp,
        "attention.layer_norm_rms_epsilon": EPS,
    }


def table(d_vocab):
    """The tensor that tells how many tokens there are."""
    return tiny_models.Arrays({"token_embd.weight": np.broadcast_to(np.float32(0), (d_vocab, 1))})


def read(config, numbers, name=None):
    kind = "gemma3" if config.qk_norm else "gemma2"
    header = {f"{kind}.{key}": value for key, value in numbers.items() if value is not None}
    header["general.architecture"] = kind
    return from_gguf(header, name or config.name, table(config.d_vocab))


def test_header_of_the_real_file_equals_the_preset():
    found = Gguf(artifacts.gemma_3_270m())
    config = from_gguf(found.fields, "gemma-3-270m", found)
    assert config == models.PRESETS["gemma-3-270m"]


def llama_cpp(c):
    """llama.cpp's converter, since Gemma 2 and 3 came out."""
    if not c.qk_norm:
        return {
            "attention.sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        }
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": c.rope_global.factor}
    return {
        "rope.freq_base": 1e6,
        "attention.sliding_window": c.sliding_window,
        **(scaling if c.rope_global.factor != 1.0 else {}),
    }


def llama_cpp_complete(c):
    """Every key that llama.cpp knows."""
    return {
        **llama_cpp(c),
        "rope.freq_base": c.rope_global.base,
        "rope.freq_base_swa": c.rope_local.base,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": c.rope_global.factor,
        "attention.sliding_window_pattern": [t == "sliding_attention" for t in c.layer_types],
        "attention.scale": float(np.float32(c.query_pre_attn_scalar**-0.5)),
    }


def ollama(c):
    """Ollama's converter for text models; it writes a cap on the logits even where none is."""
    own = {
        "rope.global.freq_base": 1e6,
        "rope.local.freq_base": 1e4,
        "attention.sliding_window": c.sliding_window,
        "context_length": 32768,
    }
    return own if c.qk_norm else llama_cpp(c)


def ollama_with_vision(c):
    """Ollama's converter for vision models: no rotary numbers, no window of its own."""
    own = {"vision.block_count": 27, "mm.tokens_per_image": 256, "attention.key_length": 256}
    if c.d_head != 256:
        own["attention.key_length"] = own["attention.value_length"] = c.d_head
    return own


def silent(c):
    """A program that leaves out all that may be left out."""
    return dict.fromkeys(("attention.key_length", "attention.value_length"))


DIALECTS = (llama_cpp, llama_cpp_complete, ollama, ollama_with_vision, silent)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", models.PRESETS)
def test_a_published_model_is_the_same_in_every_dialect(name, dialect):
    config = models.PRESETS[name]
    found = read(config, sizes(config) | dialect(config))
    scalar = found.query_pre_attn_scalar  # from a float32
    assert scalar == pytest.approx(config.query_pre_attn_scalar, rel=1e-6)
    assert tiny_models.change(found, query_pre_attn_scalar=config.query_pre_attn_scalar) == config


CUSTOM = tiny_models.change(models.PRESETS["gemma-3-1b"], name="mine", n_heads=8, sliding_window=77)
COMPLETE = sizes(CUSTOM) | llama_cpp_complete(CUSTOM)


def test_a_file_that_says_all_needs_no_published_model():
    found = read(CUSTOM, COMPLETE)
    assert found.query_pre_attn_scalar == pytest.approx(256.0, rel=1e-6)
    assert tiny_models.change(found, query_pre_attn_scalar=256.0) == CUSTOM


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("rope.freq_base", 5e5, "rope_global", models.Rope(5e5, 8.0)),
        ("rope.global.freq_base", 5e5, "rope_global", models.Rope(5e5, 8.0)),
        ("rope.freq_base_swa", 2e4, "rope_local", models.Rope(2e4)),
        ("rope.local.freq_base", 2e4, "rope_local", models.Rope(2e4)),
        ("rope.scaling.factor", 2.0, "rope_global", models.Rope(1e6, 2.0)),
        ("rope.scaling.factor", 0.0, "rope_global", models.Rope(1e6)),
        ("rope.scale_linear", 2.0, "rope_global", models.Rope(1e6, 2.0)),
        ("rope.scaling.type", "none", "rope_global", models.Rope(1e6)),
        ("attention.sliding_window", 99, "sliding_window", 99),
        ("attention.key_length", 128, "d_head", 128),
        ("attention.scale", 0.125, "query_pre_attn_scalar", 64.0),
        ("attention.sliding_window_pattern", 1, "layer_types", ("full_attention",) * 34),
        ("attention.layer_norm_rms_epsilon", 1e-5, "norm_eps", 1e-5),
        ("final_logit_softcapping", 30.0, "final_softcap", 30.0),
    ],
)
def test_what_the_file_says_counts(key, value, field, expected):
    config = models.PRESETS["gemma-3-4b"]
    numbers = sizes(config) | {"attention.value_length": None, key: value}
    assert getattr(read(config, numbers), field) == expected


@pytest.mark.parametrize(
    "keys",
    [
        ("rope.freq_base",),
        ("rope.freq_base_swa",),
        ("rope.scaling.factor", "rope.scaling.type"),
        ("attention.sliding_window",),
        ("attention.sliding_window_pattern",),
        ("attention.scale",),
        ("attention.key_length",),
    ],
)
def test_what_neither_the_file_nor_a_published_model_says_is_refused(keys):
    with pytest.raises(
        ValueError, match=rf"^The GGUF header of mine has no gemma3\.{keys[0]}, and"
    ):
        read(CUSTOM, COMPLETE | dict.fromkeys(keys))


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_a_gemma_2_without_its_caps_is_refused_unless_it_is_published(key):
    config = models.PRESETS["gemma-2-2b"]
    other = tiny_models.change(config, layer_types=config.layer_types[:4])
    numbers = llama_cpp_complete(other) | {key: None}
    with pytest.raises(ValueError, match=rf"has no gemma2\.{key}"):
        read(other, sizes(other) | numbers)
    read(config, sizes(config) | numbers | {"attention.sliding_window_pattern": None})


@pytest.mark.parametrize("kind", ["yarn", "longrope", ""])
def test_other_scaling_of_the_angles_is_refused_by_name(kind):
    config = models.PRESETS["gemma-3-4b"]
    with pytest.raises(
        ValueError, match=f"^mine uses {kind!r} rotary scaling; only `linear` is im"
    ):
        read(config, sizes(config) | {"rope.scaling.type": kind}, "mine")


DAMAGED = [
    *((key, None) for key in sizes(CUSTOM) if not key.endswith("_length") or "." not in key),
    *((key, bad) for key in sizes(CUSTOM) for bad in (0, -1, "4", [4, 4], 2**32 - 1, 1e30)),
    *((key, bad) for key in llama_cpp_complete(CUSTOM) for bad in (-1.0, [1.0], {})),
    *(("rope.freq_base", bad) for bad in (0.0, np.nan, np.inf, "1e6")),
    ("attention.sliding_window_pattern", [True, False]),
    ("attention.sliding_window_pattern", 0),
    ("attention.head_count_kv", 3),  # does not divide 8 heads
    ("attention.key_length", 255),
    ("attention.value_length", 128),
    ("attention.scale", np.inf),
]


@pytest.mark.parametrize(("key", "bad"), DAMAGED)
def test_numbers_that_cannot_be_are_refused(key, bad):
    with pytest.raises(ValueError, match="mine") as error:
        read(CUSTOM, COMPLETE | {key: bad})
    assert "\n" not in str(error.value)


def test_other_architectures_are_refused():
    with pytest.raises(
        ValueError, match="x holds a 'mamba' model; probejax runs gemma, gemma2, gemma3, llama"
    ):
        from_gguf({"general.architecture": "mamba"}, "x", table(10))
    with pytest.raises(
        ValueError, match=r"keys gemma3\.\*: Object missing required field `block_count"
    ):
        from_gguf({"general.architecture": "gemma3"}, "x", table(10))

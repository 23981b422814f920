"""Models that people have: how files spell them, and which are refused in one sentence."""

import json
import os
import shutil

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from probejax import models
from probejax.models.gguf import Gguf
from tests import gguf_files, tiny_models

CONFIG = tiny_models.GEMMA3
RESIDUALS = jax.jit(models.residuals, static_argnames="layers")
IDS = jnp.asarray(np.random.default_rng(0).integers(3, 60, (2, tiny_models.LENGTH)))
MASK = jnp.ones(IDS.shape, bool)


@pytest.fixture(scope="module")
def arrays():
    return tiny_models.arrays(CONFIG).arrays


def load(path):
    return models.find(str(path)).transformer(None, jnp.float32)


def residual(transformer):
    return np.asarray(RESIDUALS(transformer, IDS, MASK, (2,))[2])


@pytest.fixture(scope="module")
def expected(arrays):
    """The residual stream of the model in memory."""
    return residual(models.weights.load(CONFIG, tiny_models.Arrays(arrays)))


def same(found, expected, tolerance=1e-5):
    return np.abs(residual(found) - expected).max() < tolerance * np.abs(expected).max()


def write(folder, arrays, **fields):
    """A folder of safetensors; fields change its config.json."""
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_models.hf_config(CONFIG) | fields))
    return folder


def test_a_gguf_file(tmp_path, arrays, expected):
    path = gguf_files.model(tmp_path / "x.gguf", CONFIG, arrays)
    found = models.find(str(path)).config
    assert found.query_pre_attn_scalar == pytest.approx(CONFIG.query_pre_attn_scalar, rel=1e-6)
    scalar = CONFIG.query_pre_attn_scalar
    same_numbers = tiny_models.change(found, name=CONFIG.name, query_pre_attn_scalar=scalar)
    assert same_numbers == CONFIG
    assert same(load(path), expected)


EMBEDDING = "model.embed_tokens.weight"
FLAT = np.ones(8, np.float32)  # rotary factors that change nothing


@pytest.mark.parametrize(
    "extra",
    [
        {"output.weight": None},
        {"rope_freqs.weight": FLAT},
        {"v.blk.0.attn_q.weight": np.ones((4, 4), np.float32), "mm.input_projection.weight": FLAT},
        {"v.position": np.ones(4, np.int32)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_gguf_file_with_more_than_the_text_model(tmp_path, arrays, expected, extra):
    extra = {name: arrays[EMBEDDING] if x is None else x for name, x in extra.items()}
    path = gguf_files.model(tmp_path / "x.gguf", CONFIG, arrays, extra=extra)
    transformer = load(path)
    assert same(transformer, expected)
    assert models.logits(transformer, IDS, MASK).shape == (*IDS.shape, CONFIG.d_vocab)


def test_the_embedding_says_how_many_tokens_there_are(tmp_path, arrays):
    path = gguf_files.model(tmp_path / "x.gguf", CONFIG, arrays)
    assert models.find(str(path)).config.d_vocab == CONFIG.d_vocab  # there is no list of tokens
    less = {name: x for name, x in arrays.items() if name != EMBEDDING}
    path = gguf_files.model(tmp_path / "y.gguf", CONFIG, less)
    with pytest.raises(ValueError, match=r"^y has no tensor token_embd\.weight"):
        _ = models.find(str(path)).config


def test_a_head_of_its_own_is_used(tmp_path, arrays, expected):
    """As in transformers, also where the config says that there is none."""
    other = arrays[EMBEDDING] * 1.01
    tied = models.logits(models.weights.load(CONFIG, tiny_models.Arrays(arrays)), IDS, MASK)
    bent = lambda logits: np.arctanh(np.asarray(logits, np.float64) / CONFIG.final_softcap)
    gguf_file = gguf_files.model(
        tmp_path / "x.gguf", CONFIG, arrays, extra={"output.weight": other}
    )
    folder = write(tmp_path / "folder", arrays | {"lm_head.weight": other})
    untied = write(tmp_path / "u", arrays | {"lm_head.weight": other}, tie_word_embeddings=False)
    for path in (gguf_file, folder, untied):
        transformer = load(path)
        assert same(transformer, expected)
        found = models.logits(transformer, IDS, MASK)
        np.testing.assert_allclose(bent(found), 1.01 * bent(tied), rtol=1e-3, atol=1e-4)


def test_a_head_that_is_missing_gives_residuals_and_no_logits(tmp_path, arrays, expected):
    """AutoModel saves none."""
    transformer = load(write(tmp_path / "x", arrays, tie_word_embeddings=False))
    assert same(transformer, expected)
    with pytest.raises(ValueError, match="no output head, and its embedding is none"):
        models.logits(transformer, IDS, MASK)


def test_rotary_factors_that_change_the_angles_are_refused(tmp_path, arrays):
    extra = {"rope_freqs.weight": FLAT * 2}
    path = gguf_files.model(tmp_path / "x.gguf", CONFIG, arrays, extra=extra)
    with pytest.raises(ValueError, match=r"a factor of its own \(rope_freqs\.weight\)"):
        load(path)


def split(folder, arrays, n=3):
    folder.mkdir()
    for i in range(n):
        path = folder / f"tiny-{i + 1:05d}-of-{n:05d}.gguf"
        gguf_files.model(path, CONFIG, dict(list(arrays.items())[i::n]), split=(i, n))
    return sorted(folder.iterdir())


def test_a_gguf_file_in_parts(tmp_path, arrays, expected):
    parts = split(tmp_path / "parts", arrays)
    for part in parts:  # each stands for all
        assert same(load(part), expected)
    prints = {models.find(str(part)).fingerprint for part in parts}
    assert len(prints) == 1
    other = split(tmp_path / "other", arrays | {EMBEDDING: arrays[EMBEDDING] * 2})
    changed = [a for a, b in zip(parts, other, strict=True) if a.read_bytes() != b.read_bytes()]
    assert len(changed) == 1
    for part in other:
        assert models.find(str(part)).fingerprint not in prints
    parts[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"one of 3 parts, and tiny-00002-of-00003\.gguf is not beside it"
    ):
        models.find(str(parts[0]))


@pytest.mark.parametrize(
    "name, follows",
    [
        ("config.json", True),
        ("model.safetensors", True),
        ("tokenizer.json", True),
        ("tokenizer.model", True),
        ("tokenizer_config.json", True),
        ("special_tokens_map.json", True),
        ("added_tokens.json", True),
        ("generation_config.json", False),
        ("README.md", False),
    ],
)
def test_the_fingerprint_of_a_folder_follows_all_that_decides_its_numbers(
    tmp_path, arrays, monkeypatch, name, follows
):
    folder = write(tmp_path / "x", arrays)
    monkeypatch.setitem(models.checkpoint.PINNED, "pinned", lambda cache_dir: folder)
    find = lambda: tuple(models.find(spec).fingerprint for spec in (str(folder), "pinned"))
    seen = [find()]
    for end in (b" ", b"\n"):
        with (folder / name).open("ab") as file:
            file.write(end)
        seen.append(find())
    mine, pinned = map(set, zip(*seen, strict=True))
    assert len(mine) == (3 if follows else 1)
    assert len(pinned) == (3 if name in ("config.json", "model.safetensors") else 1)
    assert not mine & pinned  # of an archive with a known hash the tokenizer is no part of it


def test_the_fingerprint_of_a_gguf_file_follows_every_token(tmp_path):
    words = [f"token {number}" for number in range(400_000)]
    path = gguf_files.header(tmp_path / "x.gguf", "llama", lambda w: w.add_token_list(words))
    before, data = models.find(str(path)).fingerprint, bytearray(path.read_bytes())
    at = (len(data) - (1 << 16)) // 63 - 9  # where no block is looked at for the weights
    assert at > 1 << 16
    data[at] ^= 1
    path.write_bytes(data)
    assert models.find(str(path)).fingerprint != before


def test_parts_that_do_not_belong_together(tmp_path, arrays):
    parts = split(tmp_path / "parts", arrays)
    shutil.copy(parts[0], parts[1])
    with pytest.raises(
        ValueError, match=r"00002-of-00003\.gguf says split\.no=0 and split\.count=3"
    ):
        load(parts[0])
    alone = shutil.copy(parts[0], tmp_path / "alone.gguf")
    with pytest.raises(ValueError, match=r"alone\.gguf says split\.no=0 and split\.count=3 where"):
        load(alone)


PREFIXES = ("", "language_model.", "model.language_model.", "language_model.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_folder_under_other_names(tmp_path, arrays, expected, prefix):
    """AutoModel saves a model without its head, and without `model.` before its names."""
    renamed = {prefix + name.removeprefix("model."): x for name, x in arrays.items()}
    assert same(load(write(tmp_path / "x", renamed)), expected)


def test_two_tensors_for_one_place_are_refused(tmp_path, arrays):
    twice = arrays | {"norm.weight": arrays["model.norm.weight"]}
    with pytest.raises(
        ValueError, match=r"holds model\.norm\.weight and norm\.weight, which are b"
    ):
        load(write(tmp_path / "x", twice))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types_load(tmp_path, arrays, expected, dtype):
    halves = {name: x.astype(dtype) for name, x in arrays.items()}
    assert same(load(write(tmp_path / "x", halves)), expected, 0.06)
    if dtype == np.float16:
        path = gguf_files.model(tmp_path / "x.gguf", CONFIG, halves)
        assert same(load(path), expected, 0.06)


LINEAR = "model.layers.1.mlp.up_proj"
U8 = np.ones((4, 4), np.uint8)


def quantised(arrays, kind):
    """The tensors and the fields of config.json of a model that was quantised in one way."""
    name = f"{LINEAR}.weight"
    without = {key: x for key, x in arrays.items() if key != name}
    int8 = arrays[name].astype(np.int8)
    config = lambda method, **more: {"quantization_config": {"quant_method": method, **more}}
    return {
        "bitsandbytes, 4 bits": (
            arrays | {name: U8, f"{name}.absmax": FLAT, f"{name}.quant_map": FLAT},
            config("bitsandbytes", load_in_4bit=True),
        ),
        "bitsandbytes, 8 bits": (
            arrays | {name: int8, f"{LINEAR}.SCB": FLAT},
            config("bitsandbytes", load_in_8bit=True),
        ),
        "gptq, 4 bits": (
            without | {f"{LINEAR}.qweight": np.ones((4, 4), np.int32), f"{LINEAR}.scales": FLAT},
            config("gptq", bits=4),
        ),
        "awq, 4 bits": (without | {f"{LINEAR}.qzeros": U8}, config("awq", bits=4)),
        "compressed-tensors": (
            without | {f"{LINEAR}.weight_packed": U8},
            config("compressed-tensors"),
        ),
        "mxfp4": (without | {f"{LINEAR}_blocks": U8, f"{LINEAR}_scales": U8}, config("mxfp4")),
        "I8": (arrays | {name: int8}, {"quantization_config": {}}),
        "U32": (arrays | {name: arrays[name].astype(np.uint32)}, {"quantization": {"bits": 4}}),
    }[kind]


KINDS = {  # what is said by the config, and by the tensors alone
    "bitsandbytes, 4 bits": "bitsandbytes",
    "bitsandbytes, 8 bits": "bitsandbytes",
    "gptq, 4 bits": "GPTQ or AWQ",
    "awq, 4 bits": "GPTQ or AWQ",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
    "I8": f"{LINEAR}.weight is I8",
    "U32": f"{LINEAR}.weight is U32",
}


def refused(path, how):
    with pytest.raises(ValueError) as error:
        load(path)
    said = str(error.value)
    assert f"holds quantised weights ({how}" in said and "use the repository" in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_refused_by_name(tmp_path, arrays, kind):
    tensors, fields = quantised(arrays, kind)
    refused(write(tmp_path / "alone", tensors), KINDS[kind])
    if "quantization" in fields:
        refused(write(tmp_path / "config", tensors, **fields), "unknown method, 4 bits")
    elif fields["quantization_config"]:
        refused(write(tmp_path / "config", tensors, **fields), kind)
        refused(write(tmp_path / "text", arrays, text_config=fields), kind)


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_weights_are_refused_by_name(tmp_path, arrays, configured, scales, dtype):
    fields = {"quantization_config": {"quant_method": "fp8"}} if configured else {}
    folder = write(tmp_path / "x", arrays, **fields)
    tensors = {name: torch.tensor(x) for name, x in arrays.items()}
    name = f"{LINEAR}.weight"
    tensors[name] = tensors[name].to(dtype)
    if scales:
        tensors[f"{name}_scale_inv"] = torch.ones(1)
    save_torch(tensors, folder / "model.safetensors")
    refused(folder, "fp8" if configured else f"FP8: {name} is F8_E")


def test_integers_in_a_gguf_file_are_refused(tmp_path, arrays):
    name = f"{LINEAR}.weight"
    for dtype in (np.int8, np.int32, np.int64):
        changed = arrays | {name: arrays[name].astype(dtype)}
        path = gguf_files.model(tmp_path / "x.gguf", CONFIG, changed)
        with pytest.raises(
            ValueError, match=r"stores blk\.1\.ffn_up\.weight as I\d+, which probeja"
        ):
            load(path)


@pytest.mark.parametrize("number", [4, 33, 99, 2**32 - 1])
def test_a_gguf_type_that_the_library_does_not_know_is_named_by_its_number(tmp_path, number):
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_files.raw(tensors=[("a", (32,), number, 0)], data=bytes(4096)))
    with pytest.raises(ValueError, match=f"stores a as GGUF type {number}, which") as error:
        Gguf(path)
    assert "again" not in str(error.value)


def test_more_layers_than_the_weights_have_are_refused_by_the_numbers(tmp_path, arrays):
    fields = {"num_hidden_layers": 1000, "layer_types": None}
    with pytest.raises(ValueError, match=r"its 41 tensors cannot be 1000 blocks"):
        load(write(tmp_path / "x", arrays, **fields))


def test_an_id_without_a_row_is_not_taken_for_another(arrays):
    transformer = models.weights.load(CONFIG, tiny_models.Arrays(arrays))
    ids = IDS.at[0, 3].set(CONFIG.d_vocab)
    found = np.asarray(RESIDUALS(transformer, ids, MASK, ("embed",))["embed"])
    assert np.argwhere(np.isnan(found).any(axis=-1)).tolist() == [[0, 3]]


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"weight_map": {"a": "../x.safetensors"}}', "'../x.safetensors', which is no file of it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "'/etc/passwd', which is no file of its folder"),
        ('{"weight_map": {"a": ".."}}', "'..', which is no file"),
        ('{"weight_map": {"a": ""}}', "'', which is no file"),
        ('{"weight_map": {"a": "x\\\\y"}}', "which is no file"),
        ('{"weight_map": {"a": "x\\u0000y"}}', "which is no file"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": 3}}', "Expected `str`, got `int`"),
        ('{"weight_map": ["a"]}', "Expected `object`, got `array`"),
        ("{}", "missing required field `weight_map`"),
        ("[" * 10_000, "is damaged"),
        ("", "is damaged"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, said):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError) as error:
        models.find(str(tmp_path))
    assert said in str(error.value) and INDEX in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 10_000, '{"model_type": ', ""])
def test_a_config_that_is_none(tmp_path, arrays, text):
    folder = write(tmp_path / "x", arrays)
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged \(.*\); download it again\.$"):
        _ = models.find(str(folder)).config


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(tmp_path, arrays, name):
    folder = write(tmp_path / "x", arrays)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises((ValueError, FileNotFoundError)):
        checkpoint = models.find(str(folder))
        checkpoint.transformer(None, jnp.float32)
        checkpoint.tokenizer()
    pipe = tmp_path / "x.gguf"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="is no regular file"):
        Gguf(pipe)


def test_a_tensor_in_two_files_is_refused(tmp_path, arrays):
    folder = write(tmp_path / "x", arrays)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    (folder / INDEX).write_text('{"weight_map": {"p": "a.safetensors", "q": "b.safetensors"}}')
    assert load_file(folder / "a.safetensors").keys() == arrays.keys()
    with pytest.raises(
        ValueError, match=r"b\.safetensors holds model\..*another file of the folder"
    ):
        load(folder)


def test_everything_prints_as_one_line(tmp_path):
    folder = tiny_models.write(tmp_path / "x")
    model, checkpoint = models.load(folder), models.find(folder)
    transformer = model.transformer
    assert str(transformer) == "Transformer(3 blocks of width 32, 61 tokens, float32)"
    assert str(model) == f"LoadedModel(x, {transformer})"
    modules = [transformer.layers[0], transformer.layers[0].self_attn, transformer.norm]
    for each in (model, transformer, checkpoint, checkpoint.config, *modules):
        for text in (str(each), repr(each)):
            assert "\n" not in text and len(text) < 1000
    abstract = jax.eval_shape(lambda: transformer)
    assert str(abstract) == str(transformer)


def test_kinds_that_gguf_quantises_all_load(tmp_path, arrays, expected):
    config = tiny_models.change(CONFIG, d_mlp=256)
    wide = tiny_models.arrays(config).arrays
    name = "model.layers.1.mlp.down_proj.weight"
    for kind in ("Q8_0", "Q4_0", "Q5_1", "BF16"):
        kinds = {name: gguf.GGMLQuantizationType[kind]}
        found = Gguf(gguf_files.model(tmp_path / f"{kind}.gguf", config, wide, kinds=kinds))
        values = found.read(gguf_files.names(3)[name], (slice(None), slice(None)))
        assert np.abs(values - wide[name]).max() < 0.2 * np.abs(wide[name]).max()

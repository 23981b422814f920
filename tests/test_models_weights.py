import json
import os
import shutil

import gguf
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from probejax import artifacts, models
from probejax.models import families, layouts, safetensors, weights
from probejax.models import gguf as gguf_module
from probejax.models.gguf_header import read_header
from tests import gguf_files, tiny_models

# Four key/value heads, so that every cut axis divides by the four devices.
CONFIG = tiny_models.change(tiny_models.GEMMA3, n_kv_heads=4, d_vocab=64)
SPECS = {
    "embed_tokens": P("model"),
    "q_proj": P("model"),
    "k_proj": P(),
    "v_proj": P(),
    "o_proj": P(None, "model"),
    "gate_proj": P("model"),
    "up_proj": P("model"),
    "down_proj": P(None, "model"),
}


def leaves(transformer):
    return {
        ".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(transformer))
    }


def run(transformer, layers=("embed", "0", "2")):
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 60, (3, tiny_models.LENGTH)))
    forward = jax.jit(models.residuals, static_argnames="layers")
    found = forward(transformer, ids, jnp.ones(ids.shape, bool), layers=layers)
    return {layer: np.asarray(x) for layer, x in found.items()}


@pytest.fixture(scope="module")
def arrays():
    return tiny_models.arrays(CONFIG)


def test_every_weight_arrives_where_it_belongs(arrays):
    for name, leaf in leaves(weights.load(CONFIG, arrays)).items():
        full = arrays.arrays[weights.tensor_name(tuple(name.split(".")))]
        assert np.array_equal(leaf[...].reshape(full.shape), full), name


def test_a_mesh_shards_the_weights_and_changes_no_residual(arrays):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    assert mesh.size == 4
    sharded = weights.load(CONFIG, arrays, mesh=mesh)
    specs = {name: leaf[...].sharding.spec for name, leaf in leaves(sharded).items()}
    assert specs == {name: SPECS.get(name.split(".")[-2], P()) for name in specs}
    embedding = sharded.embed_tokens.weight[...]
    assert [shard.data.shape for shard in embedding.addressable_shards] == [(16, 32)] * 4
    alone, together = run(weights.load(CONFIG, arrays)), run(sharded)
    for layer in alone:
        np.testing.assert_allclose(together[layer], alone[layer], rtol=1e-5, atol=1e-5)


def all_numbers(model):
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 60, (3, tiny_models.LENGTH)))
    mask = jnp.ones(ids.shape, bool)
    places = ("embed", "attn_z.0", "attn_out.0", "mlp_out.0", "0", "1")
    forward = jax.jit(
        lambda m: (models.residuals(m, ids, mask, places), models.logits(m, ids, mask))
    )
    return jax.tree.map(np.asarray, forward(model))


@pytest.mark.parametrize("config", [tiny_models.LLAMA, tiny_models.PYTHIA], ids=lambda c: c.name)
def test_one_two_and_four_devices_give_the_same_numbers(config):
    tensors = tiny_models.arrays(config)
    alone = all_numbers(weights.load(config, tensors))
    for n in (1, 2, 4):
        mesh = Mesh(np.array(jax.devices()[:n]), ("model",))
        cut = weights.load(config, tensors, mesh=mesh)
        spec = P() if config.d_vocab % n else P("model")  # a vocabulary may be of any size
        assert cut.embed_tokens.weight[...].sharding.spec == spec
        attention, mlp = cut.layers[1].self_attn, cut.layers[1].mlp
        assert {s.data.shape[0] for s in attention.q_proj.weight[...].addressable_shards} == {
            config.n_heads // n
        }
        if config.qkv_bias:
            assert attention.q_proj.bias[...].sharding.spec == P("model")
            assert mlp.up_proj.bias[...].sharding.spec == P("model")
            assert attention.o_proj.bias[...].sharding.is_fully_replicated
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
            all_numbers(cut),
            alone,
        )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_heads": 6, "n_kv_heads": 2}, "has 6 query heads, which cannot be cut evenly over 4"),
        ({"d_mlp": 50}, "has 50 columns of its MLP, which cannot be cut evenly over 4 devices"),
    ],
)
def test_a_model_that_cannot_be_cut(fields, said):
    config = tiny_models.change(tiny_models.LLAMA, **fields)
    with pytest.raises(ValueError, match=said):
        weights.load(
            config, tiny_models.arrays(config), mesh=Mesh(np.array(jax.devices()), ("model",))
        )


def test_a_shard_is_read_and_nothing_else(arrays):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    counted = tiny_models.Arrays(arrays.arrays)
    weights.load(CONFIG, counted, n_layers=1, mesh=mesh)
    rows = lambda name: sorted(cuts[0].indices(64)[:2] for n, cuts in counted.reads if n == name)
    quarters = [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert rows("model.embed_tokens.weight") == quarters
    assert rows("model.layers.0.self_attn.q_proj.weight") == quarters  # one head of 16 each


def test_a_mesh_without_an_axis_called_model_holds_copies(arrays):
    copies = weights.load(CONFIG, arrays, mesh=Mesh(np.array(jax.devices()), ("data",)))
    assert {leaf[...].sharding.spec for leaf in leaves(copies).values()} == {P()}


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_only_the_layers_needed_are_read(arrays, n_layers):
    counted = tiny_models.Arrays(arrays.arrays)
    transformer = weights.load(CONFIG, counted, n_layers=n_layers)
    read = [name for name, _ in counted.reads]
    wanted = [f"model.layers.{i}." for i in range(n_layers)]
    assert len(read) == len(set(read)) == 1 + 13 * n_layers  # no final norm either
    assert all(name.startswith((*wanted, "model.embed_tokens.")) for name in read)
    layer = str(n_layers - 1) if n_layers else "embed"
    assert np.array_equal(
        run(transformer, (layer,))[layer],
        run(weights.load(CONFIG, arrays), (layer,))[layer],
    )


def test_asking_for_a_layer_that_was_not_loaded(arrays):
    transformer = weights.load(CONFIG, arrays, n_layers=2)
    with pytest.raises(ValueError, match=r"resid_post\.2 was asked for, and blocks 0 to 1 are"):
        run(transformer, (2,))
    with pytest.raises(ValueError, match=r"Logits need the whole model; load it with layers=None"):
        models.logits(transformer, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_of_every_weight_and_of_the_residual(arrays, dtype):
    transformer = weights.load(CONFIG, arrays, dtype=dtype)
    assert {leaf[...].dtype for leaf in leaves(transformer).values()} == {jnp.dtype(dtype)}
    assert {x.dtype for x in run(transformer).values()} == {jnp.dtype(dtype)}


def test_bfloat16_files_load_as_float32_and_back(arrays, tmp_path):
    halves = {name: np.asarray(jnp.asarray(x, jnp.bfloat16)) for name, x in arrays.arrays.items()}
    save_file(halves, tmp_path / "model.safetensors")
    source = text_model(tmp_path)
    for dtype in (jnp.float32, jnp.bfloat16):
        found = weights.load(CONFIG, source, dtype=dtype).layers[1].mlp.up_proj.weight[...]
        assert found.dtype == dtype
        assert np.array_equal(found, halves["model.layers.1.mlp.up_proj.weight"].astype(dtype))


def refused(arrays, *messages, **options):
    with pytest.raises(ValueError) as caught:
        weights.load(CONFIG, tiny_models.Arrays(arrays), **options)
    for message in ("The checkpoint does not fit tiny-gemma-3: ", *messages):
        assert message in str(caught.value)


def test_missing_and_unused_tensors_are_listed(arrays):
    changed = dict(arrays.arrays)
    del changed["model.layers.1.mlp.up_proj.weight"], changed["model.norm.weight"]
    changed |= {"model.layers.9.extra.weight": np.ones(3), "bias": np.ones(3)}
    refused(
        changed,
        "missing model.layers.1.mlp.up_proj.weight, model.norm.weight; "
        "unused bias, model.layers.9.extra.weight.",
    )
    many = {f"extra.{i:02}": np.ones(1) for i in range(20)}
    refused(arrays.arrays | many, "missing none; unused extra.00, ", "extra.07 and 12 more.")
    # What lies beyond the layers asked for is neither missing nor unused.
    weights.load(CONFIG, tiny_models.Arrays(without(arrays.arrays, "model.norm")), n_layers=2)


def without(arrays, prefix):
    return {name: x for name, x in arrays.items() if not name.startswith(prefix)}


def test_wrong_shapes_are_listed(arrays):
    wrong = {"model.layers.0.mlp.up_proj.weight": np.ones((48, 31), np.float32)}
    refused(
        arrays.arrays | wrong,
        "model.layers.0.mlp.up_proj.weight is (48, 31), expected (48, 32).",
    )
    wrong = {"model.layers.2.self_attn.q_proj.weight": np.ones((32, 64), np.float32)}  # transposed
    refused(arrays.arrays | wrong, "q_proj.weight is (32, 64), expected (4, 16, 32).")


def text_model(folder):
    return safetensors.text_model(safetensors.Safetensors(folder), families.GEMMA3.files, CONFIG)


@pytest.fixture
def folder(arrays, tmp_path):
    """A model folder in two files."""
    names = sorted(arrays.arrays)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": []}
    parts["model-00002-of-00002.safetensors"] = names[20:]
    for file, held in parts.items():
        save_file({name: arrays.arrays[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    return tmp_path


def test_sharded_files_hold_one_model(arrays, folder):
    found = weights.load(CONFIG, text_model(folder))
    assert np.array_equal(run(found)["2"], run(weights.load(CONFIG, arrays))["2"])


def test_missing_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks model-00002-of-00002\.safetensors, which its index names"
    ):
        models.find(str(folder))


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_truncated_file(folder, size):
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model-00001.* is damaged \(.*\); download it again\.$"):
        safetensors.Safetensors(folder)


def test_folders_that_hold_no_model(tmp_path, arrays):
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor model\.saf"):
        models.find(str(tmp_path))
    save_file(arrays.arrays, tmp_path / "model.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"has no config\.json; --model wants a model folder"
    ):
        models.find(str(tmp_path))


@pytest.mark.parametrize(
    "spec, kind, said",
    [
        ("nonsense", ValueError, r"is no file, no folder and no Hugging Face id .* smollm2-135m\."),
        ("gemma-2-2b", ValueError, "did you mean google/gemma-2-2b or"),
        ("gemma-270m", ValueError, r"; did you mean gemma-3-270m or"),
        ("a/b/c", ValueError, "is no file, no folder and no Hugging Face id"),
        ("./nothing", FileNotFoundError, r"--model=\./nothing: there is no nothing\.$"),
        ("{here}/modle", FileNotFoundError, r"there is no .*/modle; did you mean .*/model\?$"),
        ("{here}/model/x", FileNotFoundError, r"/model is a file and holds no x\.$"),
        ("~nobody-at-all/x", FileNotFoundError, r"there is no ~nobody-at-all\.$"),
        ("{here}/pipe", ValueError, "pipe is no regular file"),
    ],
)
def test_what_is_no_model_is_said_without_a_request(spec, kind, said, tmp_path):
    (tmp_path / "model").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(kind, match=said):
        models.find(spec.format(here=tmp_path))


@hypothesis.given(st.text(max_size=300) | st.text(alphabet=",@:/.~ \n\0a1", max_size=30))
def test_any_text_is_a_model_or_one_sentence(spec):
    try:
        models.find(spec)
    except (FileNotFoundError, ValueError, artifacts.ArtifactError) as error:
        assert "\n" not in str(error).replace(spec, "")


def test_fingerprint_follows_the_weights_and_not_the_place(folder, tmp_path_factory):
    before = models.find(str(folder)).fingerprint
    copy = tmp_path_factory.mktemp("copy") / "other"
    shutil.copytree(folder, copy)
    assert models.find(str(copy)).fingerprint == before
    name = "model-00002-of-00002.safetensors"
    tensors = load_file(folder / name)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, folder / name)
    assert models.find(str(folder)).fingerprint != before


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "gguf of no ending"])
def test_the_fingerprint_follows_each_of_many_matrices(tmp_path, kind):
    """Of which evenly spaced blocks would miss most."""
    tensors = {f"m{i:03d}": np.zeros((16, 1024), np.float32) for i in range(300)}
    if kind == "safetensors":
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{}")
        path, spec = tmp_path / "model.safetensors", str(tmp_path)
        begin = {
            name: start
            for name, (start, _) in zip(sorted(tensors), safetensors.places(path), strict=True)
        }
    else:
        path = tmp_path / ("x.gguf" if kind == "gguf" else "sha256-0123")
        writer = gguf.GGUFWriter(path, "llama")
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        spec = str(path)
        begin = {name: info.offset for name, info in read_header(path).tensors.items()}
    size, seen = tensors["m000"].nbytes, {models.find(spec).fingerprint}
    whole = bytearray(path.read_bytes())
    for start in list(begin.values())[::17]:
        changed = whole.copy()
        changed[start : start + size] = b"\1" * size
        path.write_bytes(changed)
        seen.add(models.find(spec).fingerprint)
    assert len(seen) == 1 + len(list(begin)[::17])


def small_gguf(path, arrays):
    """A GGUF file of the tiny model, some tensors quantised."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    return gguf_files.model(
        path, CONFIG, arrays, kinds={name: q8 for name in arrays if "mlp.up_proj" in name}
    )


def test_gguf_tensors_equal_the_arrays(arrays, tmp_path):
    raw = gguf_module.Gguf(small_gguf(tmp_path / "x.gguf", arrays.arrays))
    source = layouts.Named(raw, families.GEMMA3.gguf, CONFIG)
    assert set(source.names()) == set(arrays.arrays)
    transformer = weights.load(CONFIG, source)
    for name, leaf in leaves(transformer).items():
        full = arrays.arrays[weights.tensor_name(tuple(name.split(".")))]
        tolerance = np.abs(full).max() / 127 if "up_proj" in name else 1e-6
        np.testing.assert_allclose(leaf[...].reshape(full.shape), full, rtol=0, atol=tolerance)
    mesh = Mesh(np.array(jax.devices()), ("model",))
    for name, leaf in leaves(weights.load(CONFIG, source, mesh=mesh)).items():
        assert np.array_equal(leaf[...], leaves(transformer)[name][...]), name


def test_truncated_gguf(arrays, tmp_path):
    path = small_gguf(tmp_path / "x.gguf", arrays.arrays)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"x\.gguf is damaged \(its tensors need"):
        gguf_module.Gguf(path)

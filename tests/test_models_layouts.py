"""The files of every family: how they are spelled, split and typed. Nothing is computed."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from probejax import models
from probejax.models import families, layouts
from tests import family_cases, tiny_models

CASES = ("llama", "mistral", "qwen2", "qwen3", "pythia", "gpt2")


def leaves(folder, dtype=jnp.float32, mesh=None):
    model = models.find(str(folder)).transformer(None, dtype, mesh)
    found = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in found}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert np.array_equal(found[name], x), name


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """transformers' model, the folder it was saved to, and the weights that we read from it."""
    theirs = family_cases.build(request.param)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    theirs.save_pretrained(folder)
    return theirs, folder, leaves(folder)


def with_tensors(folder, to, tensors):
    """A copy of a folder with other tensors."""
    shutil.copytree(folder, to)
    save_file(tensors, to / "model.safetensors")
    return to


def test_a_mesh_reads_the_same_weights_by_cuts(saved):
    _, folder, expected = saved
    same(leaves(folder, mesh=Mesh(np.array(jax.devices()), ("model",))), expected)


def test_several_files(saved, tmp_path):
    theirs, _, expected = saved
    theirs.save_pretrained(tmp_path / "x", max_shard_size="20KB")
    assert len(list((tmp_path / "x").glob("*.safetensors"))) > 1
    same(leaves(tmp_path / "x"), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(saved, tmp_path, dtype):
    theirs, _, expected = saved
    state = {name: x.to(dtype).float() for name, x in theirs.state_dict().items()}
    other = type(theirs)(theirs.config)
    other.load_state_dict(state)
    other.to(dtype).save_pretrained(tmp_path / "x")
    name = "bfloat16" if dtype == torch.bfloat16 else "float16"
    same(leaves(tmp_path / "x"), {n: x.astype(name).astype("f4") for n, x in expected.items()})


def test_the_model_without_its_head(saved, tmp_path):
    """As AutoModel saves it: names have no prefix, and an untied head is lost."""
    theirs, _, expected = saved
    theirs.base_model.save_pretrained(tmp_path / "x")
    assert not any(
        name.startswith(("model.", "gpt_neox.", "transformer."))
        for name in load_file(tmp_path / "x" / "model.safetensors")
    )
    found = leaves(tmp_path / "x")
    same(found, {name: x for name, x in expected.items() if not name.startswith("lm_head")})


def test_the_head_of_a_classifier_or_a_reward_model_is_no_part_of_it(saved, tmp_path):
    _, folder, expected = saved
    heads = {name: np.ones((1, 8), "f4") for name in ("score.weight", "v_head.summary.weight")}
    tensors = load_file(folder / "model.safetensors") | heads
    same(leaves(with_tensors(folder, tmp_path / "x", tensors)), expected)


def test_a_tensor_that_is_missing_is_called_as_the_file_calls_it(saved, tmp_path):
    _, folder, _ = saved
    tensors = load_file(folder / "model.safetensors")
    kinds = ("embed", "wte", "wpe", "layers.1.", "h.1.", "norm", "ln_f")
    names = [name for name in tensors if any(x in name for x in kinds) and "_out" not in name]
    for number, name in enumerate(names):
        less = {n: x for n, x in tensors.items() if n != name} | {"extra.weight": np.ones(3, "f4")}
        with pytest.raises(ValueError) as error:
            leaves(with_tensors(folder, tmp_path / str(number), less))
        said = str(error.value)
        assert f"missing {name}" in said and "unused extra.weight" in said, (name, said)


def test_a_tensor_of_another_shape_is_called_as_the_file_calls_it(saved, tmp_path):
    _, folder, _ = saved
    tensors = load_file(folder / "model.safetensors")
    for number, (name, x) in enumerate(tensors.items()):
        if name in ("lm_head.weight", "embed_out.weight"):
            continue
        wrong = np.concatenate([x, x[:1]])
        with pytest.raises(ValueError, match=f"{name} is .*expected|no tensor|cannot be"):
            leaves(with_tensors(folder, tmp_path / str(number), tensors | {name: wrong}))


def test_what_old_files_have_besides(tmp_path):
    """Masks and frequencies that were saved with the weights; another name of Pythia's head."""
    for case, rename, buffers in (
        ("gpt2", {}, ("transformer.h.0.attn.bias", "h.1.attn.masked_bias")),
        (
            "pythia",
            {"embed_out.weight": "lm_head.weight"},
            (
                *(f"gpt_neox.layers.0.attention.{x}" for x in ("bias", "masked_bias")),
                "gpt_neox.layers.1.attention.rotary_emb.inv_freq",
            ),
        ),
        ("llama", {}, ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    ):
        folder = tmp_path / case
        family_cases.build(case).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        tensors = {rename.get(name, name): x for name, x in tensors.items()}
        assert set(rename.values()) <= tensors.keys()
        masks = {name: np.ones((1, 1, 4, 4), np.uint8) for name in buffers}
        same(
            leaves(with_tensors(folder, tmp_path / f"{case} old", tensors | masks)), leaves(folder)
        )


def test_a_place_that_is_filled_twice(tmp_path):
    folder = tmp_path / "x"
    family_cases.build("gpt2").save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    twice = tensors | {"h.0.attn.c_attn.bias": tensors["transformer.h.0.attn.c_attn.bias"]}
    with pytest.raises(ValueError, match=r"holds .*c_attn\.bias and .*c_attn\.bias, which are bo"):
        leaves(with_tensors(folder, tmp_path / "y", twice))


LAYOUTS = [(f, kind) for f in families.FAMILIES for kind in ("files", "gguf")]


@pytest.mark.parametrize(("family", "kind"), LAYOUTS, ids=lambda x: getattr(x, "name", x))
def test_every_name_of_ours_is_found_under_the_name_that_messages_call_it(family, kind):
    """Or a missing tensor would be named in a way that its file does not know."""
    config = tiny_models.PYTHIA
    layout = getattr(family, kind)
    ours = [
        *(f"model.{x}.weight" for x in ("embed_tokens", "norm")),
        "lm_head.weight",
        *(
            f"model.layers.{n}.{x}.{suffix}"
            for n, x, suffix in itertools.product(
                (0, 11),
                ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"),
                ("weight", "bias"),
            )
        ),
    ]
    empty = layouts.Named(tiny_models.Arrays({}), layout, config)
    theirs = {empty.called(name): np.zeros((1, 1), np.float32) for name in ours}
    assert len(theirs) == len(ours)
    full = layouts.Named(tiny_models.Arrays(theirs), layout, config)
    assert set(ours) <= set(full.names())
    assert all(full.called(name) == empty.called(name) for name in ours)


def test_a_config_of_another_family_does_not_fit(tmp_path):
    folder = tmp_path / "x"
    family_cases.build("qwen3").save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text()) | {"model_type": "llama"}
    for extra in ("layer_types", "use_sliding_window", "max_window_layers", "sliding_window"):
        fields.pop(extra, None)
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"missing none; unused model\.layers\.0\.self_attn\.k_no"):
        leaves(folder)

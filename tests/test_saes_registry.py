"""SAEs by name, and the one that ships."""

import json
import os
import re
import shutil
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from probejax import artifacts, saes
from probejax.foreign import DamagedFile
from probejax.saes import gemma_scope, registry

GOLDEN = Path(__file__).parent / "golden" / "saes"
SHIPPED_FOR = {"gemma-3-270m": (9, 640), "smollm2-135m": (14, 576)}  # layer, width


def write(folder, record=None, d_model=4, d_sae=6):
    """Puts a small SAE, and perhaps its training record, into a folder."""
    folder.mkdir(parents=True)
    arrays = {
        "W_enc": np.full((d_model, d_sae), 0.5, np.float16),
        "b_enc": np.zeros(d_sae, np.float32),
        "W_dec": np.ones((d_sae, d_model), np.float16),
        "b_dec": np.zeros(d_model, np.float32),
        "threshold": np.ones(d_sae, np.float32),
    }
    (folder / "params.npz").write_bytes(gemma_scope.to_bytes(arrays))
    if record is not None:
        (folder / "training.json").write_text(json.dumps(record))
    return folder / "params.npz"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package with two SAEs of one model and one of another."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr(registry, "_SHIPPED", folder)
    write(folder / "small" / "layer_1", {"model": "m", "layer": 1, "quality": {"l0": 7.5}})
    write(folder / "small" / "layer_2", {"model": "m", "layer": 2})
    write(folder / "large", {"model": "n", "layer": 3})
    return folder


def test_shipped_saes_are_found_by_model(shelf):
    found = saes.shipped("m")
    assert [sae.sae_id for sae in found] == ["small/layer_1", "small/layer_2"]
    assert [sae.layer for sae in found] == [1, 2]
    assert saes.shipped("other") == ()


def test_a_shipped_sae_is_found_by_its_id(shelf):
    path = shelf / "small" / "layer_1" / "params.npz"
    found = saes.find("small/layer_1")
    assert found == saes.SaeFile(
        "small/layer_1",
        path,
        "m",
        1,
        "resid_post",
        d_model=4,
        d_sae=6,
        l0=7.5,
        architecture="jumprelu",
    )
    assert found.description()["quality"] == {"l0": 7.5}
    sae = saes.load("small/layer_1")
    assert (sae.d_model, sae.d_sae) == (4, 6) and sae.W_enc.dtype == np.float32


def test_a_file_and_its_folder_are_the_same_sae(shelf, tmp_path):
    path = write(tmp_path / "layer_9" / "width_16k" / "average_l0_80")
    by_file, by_folder = saes.find(str(path)), saes.find(str(path.parent))
    assert by_file == by_folder
    name = "layer_9/width_16k/average_l0_80"
    assert by_file == saes.SaeFile(
        name, path, None, 9, d_model=4, d_sae=6, l0=80.0, architecture="jumprelu"
    )
    assert by_file.description() == {}
    np.testing.assert_array_equal(saes.load(str(path)).threshold, np.ones(6))


def test_a_record_beside_the_file_names_model_and_layer(shelf, tmp_path):
    path = write(tmp_path / "mine", {"model": "m", "layer": 5})
    found = saes.find(str(path.parent))
    assert (found.model, found.layer) == ("m", 5)


@pytest.mark.parametrize("text", ["{", "[1]", '"text"'])
def test_a_damaged_record_is_named(shelf, tmp_path, text):
    path = write(tmp_path / "mine")
    path.with_name("training.json").write_text(text)
    with pytest.raises(ValueError, match=r"mine/training\.json is damaged .*; delete it"):
        saes.find(str(path))


@pytest.mark.parametrize(
    "spec, near",
    [
        ("small", r"\."),
        ("small/layer_7", r"; did you mean small/layer_2 or small/layer_1\?"),
        ("gpt2-small-res-jc/blocks.8.hook_resid_pre", r"; did you mean gpt2-small-res-jb or .*\?"),
    ],
)
def test_what_does_not_exist_is_an_error_that_lists_what_does(spec, near, shelf):
    with pytest.raises(FileNotFoundError) as caught:
        saes.find(spec)
    message = str(caught.value)
    assert message.startswith(f"--sae={spec} is neither a file or folder with an SAE, nor a")
    assert re.search(f"with probejax: large, small/layer_1, small/layer_2{near}$", message)


def test_the_hub_is_not_asked_for_what_is_named_as_ours(monkeypatch):
    monkeypatch.setattr(saes.releases, "fetch", lambda *_: pytest.fail("asks the Hub"))
    near = r"did you mean gemma-3-270m/layer_9/width_4k/average_l0_78\?"
    with pytest.raises(FileNotFoundError, match=near):
        saes.find("gemma-3-270m/layer_9/width_4k")


def test_several_are_not_named_at_once(shelf):
    with pytest.raises(FileNotFoundError, match=r"once for each: --sae=large --sae=other$"):
        saes.find("large,other")


@pytest.mark.parametrize(
    "spec, said",
    [
        ("{here}/none.npz", "there is no {here}/none.npz."),
        (
            "{here}/mine/layer_10",
            "there is no {here}/mine/layer_10; did you mean {here}/mine/layer_1?",
        ),
        ("{here}/minee/layer_1/params.npz", "there is no {here}/minee; did you mean {here}/mine?"),
        ("{here}/mine/file/x", "{here}/mine/file is a file and holds no x."),
        ("mine/layer_10/params.npz", "there is no mine/layer_10; did you mean mine/layer_1?"),
        ("mine/nothing/at/all", "there is no mine/nothing."),
        ("./nothing", "there is no nothing."),
        ("~/nothing", "there is no {here}/nothing."),
        ("C:\\saes\\x", "there is no C:\\saes\\x."),
    ],
)
def test_a_path_that_does_not_exist_says_where_it_ends(spec, said, shelf, tmp_path, monkeypatch):
    write(tmp_path / "mine" / "layer_1")
    (tmp_path / "mine" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spec, said = spec.format(here=tmp_path), said.format(here=tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        saes.find(spec)
    assert str(caught.value).startswith(f"--sae={spec}: {said}")


@pytest.mark.parametrize("end", ["", "/", "/params.npz", "/params.npz/"])
def test_an_id_may_end_in_a_slash_or_in_the_sae_s_own_file(end, shelf):
    assert saes.find(f"small/layer_1{end}") == saes.find("small/layer_1")


@hypothesis.given(st.text(max_size=300) | st.text(alphabet=",@:/.~ \n\0a1", max_size=30))
@hypothesis.settings(max_examples=300)
def test_any_text_is_an_sae_or_one_sentence(spec):
    try:
        saes.find(spec)
    except (FileNotFoundError, ValueError, artifacts.ArtifactError) as error:
        assert "\n" not in str(error).replace(spec, "")


def said(place):
    """The sentence with which a place is refused."""
    with pytest.raises((FileNotFoundError, DamagedFile)) as caught:
        saes.find(str(place))
    message = str(caught.value)
    assert str(place) in message and message.endswith(".") and "\n" not in message
    return message


def test_a_folder_without_an_sae_is_an_error_that_lists_the_formats(shelf, tmp_path):
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty").endswith(
        "empty is empty; give the folder or the file of an SAE."
    )
    (tmp_path / "empty" / "README.md").write_text("x")
    for place in ("empty", "empty/README.md"):
        assert "holds no SAE in a known format: gemma_scope, gemma" in said(tmp_path / place)


@pytest.mark.parametrize(
    "name, config, missing",
    [
        ("sae_lens_topk", "cfg.json", ["config.json (openmoss)", "cfg.json (sae_lens)"]),
        ("openmoss_topk", "config.json", ["config.json (openmoss)", "cfg.json (sae_lens)"]),
        ("saebench_april_update", "config.json", ["config.json (dictionary_learning)"]),
        ("saebench_topk", "config.json", ["config.json (dictionary_learning)"]),
        ("llama_scope", "hyperparams.json", ["hyperparams.json (llama_scope)"]),
        ("sparsify_topk", "layers.10/cfg.json", ["layers.10/cfg.json (sparsify)"]),
    ],
)
def test_settings_that_are_missing_are_named(shelf, tmp_path, name, config, missing):
    shutil.copytree(GOLDEN / name, tmp_path / "copy")
    (tmp_path / "copy" / config).unlink()
    folder = (tmp_path / "copy" / config).parent
    (weights,) = [path for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")]
    for place in (folder, weights):
        message = said(place)
        assert f"{weights} cannot be read without its settings" in message
        assert all(each in message for each in missing)


@pytest.mark.parametrize("name", ["sae_lens_topk", "sparsify_topk/layers.10", "gemma_scope_2"])
@pytest.mark.parametrize("content", ["{}", '{"library_name": "saelens"}', '{"model_type": "gpt2"}'])
def test_settings_of_something_else_beside_an_sae_change_nothing(tmp_path, name, content):
    plain = saes.find(str(GOLDEN / name))
    shutil.copytree(GOLDEN / name, tmp_path / "copy")
    for stray in ("config.json", "hyperparams.json", "README.md"):
        if not (tmp_path / "copy" / stray).exists():
            (tmp_path / "copy" / stray).write_text(content)
    found = saes.find(str(tmp_path / "copy"))
    assert (found.format, found.l0) == (plain.format, plain.l0)
    np.testing.assert_array_equal(found.load().W_enc, plain.load().W_enc)


def test_a_repository_of_many_saes_lists_some(shelf, tmp_path):
    for layer in range(12):
        write(tmp_path / "repository" / f"layer_{layer:02}" / "width_16k" / "average_l0_80")
    message = said(tmp_path / "repository")
    assert "is no SAE itself but holds some; give one, such as" in message
    inside = "repository/layer_{:02}/width_16k/average_l0_80"
    assert all(str(tmp_path / inside.format(layer)) in message for layer in (0, 1, 2))
    assert "layer_03" not in message


def test_a_folder_of_several_files_lists_some(shelf, tmp_path):
    (source,) = GOLDEN.glob("goodfire/*.pth")
    for layer in (3, 1, 2):
        shutil.copy(source, tmp_path / f"x-SAE-l{layer}.pth")
    assert all(f"x-SAE-l{layer}.pth" in said(tmp_path) for layer in (1, 2, 3))


@pytest.mark.parametrize("name", ["params.npz", "training.json"])
def test_pipes_are_not_waited_for(shelf, tmp_path, name):
    path = write(tmp_path / "mine")
    found = saes.find(str(path))
    path.with_name(name).unlink(missing_ok=True)
    os.mkfifo(path.with_name(name))
    for place in (path.parent, path.parent / "params.npz"):
        with pytest.raises(DamagedFile, match=rf"{name} is no regular file"):
            saes.find(str(place))
    if name == "params.npz":
        for use in (found.fingerprint, found.open):
            with pytest.raises(DamagedFile, match=r"params\.npz is no regular file"):
                use()


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_pipes_and_loops_beside_weights_are_named(shelf, tmp_path, name):
    for number, put in enumerate((os.mkfifo, lambda path: os.symlink(path, path))):
        folder = tmp_path / f"copy{number}"
        shutil.copytree(GOLDEN / "sae_lens_topk", folder)
        (folder / name).unlink()
        (folder / "expected.npz").unlink()
        put(folder / name)
        assert name in said(folder) or name != "cfg.json"


@pytest.mark.parametrize(
    "spec", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "", "/" * 300 + "x"]
)
def test_impossible_paths_are_no_sae(shelf, spec):
    with pytest.raises((FileNotFoundError, ValueError)):
        saes.find(spec)


def test_an_sae_prints_on_one_line(shelf, tmp_path):
    for name in ("sae_lens_topk", "sae_lens_layer_norm", "sparsify_groupmax/layers.10"):
        found = saes.find(str(GOLDEN / name))
        for each in (found, found.open(), found.load()):
            assert "\n" not in repr(each) and len(repr(each)) < 250
            assert "d_model=12" in repr(each) and "d_sae=40" in repr(each)
    assert repr(saes.load(str(GOLDEN / "sae_lens_topk"))) == "SAE(d_model=12, d_sae=40, keep=top 5)"


def test_an_empty_shelf_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_SHIPPED", tmp_path / "none")
    assert saes.shipped("m") == ()
    with pytest.raises(FileNotFoundError, match=r"come with probejax: none\.$"):
        saes.find("x")


def test_the_fingerprint_follows_the_content(shelf):
    found = saes.find("large")
    before = found.fingerprint()
    content = bytearray(found.path.read_bytes())
    content[200] ^= 1
    found.path.write_bytes(content)
    assert len(before) == 16 and found.fingerprint() != before


@pytest.mark.parametrize("model", SHIPPED_FOR)
def test_the_sae_that_ships_is_as_good_as_promised(model):
    found = saes.shipped(model)
    assert found, f"no SAE ships for {model}"
    layer, width = SHIPPED_FOR[model]
    for file in found:
        assert file.layer == layer
        assert sum(path.stat().st_size for path in file.path.parent.iterdir()) <= 12e6
        sae = file.load()
        d_model, d_sae = sae.W_enc.shape
        assert d_model == width and d_sae >= 4096
        for array in jax.tree.leaves(sae):
            assert np.isfinite(array).all()
        norms = np.linalg.norm(np.asarray(sae.W_dec, np.float64), axis=1)
        np.testing.assert_allclose(norms, 1, atol=2e-3)
        record = file.description()
        quality = record["quality"]
        assert quality["l0"] <= 80 and quality["dead"] < 0.10
        assert quality["explained"] >= 0.85 and quality["explained_median"] >= 0.5
        assert quality["tokens"] >= 10_000
        assert record["options"]["d_sae"] == d_sae and "experiments.train_sae" in record["command"]

"""SAEs by name, and the one that ships."""

import json

import jax
import numpy as np
import pytest

from probejax import saes
from probejax.saes import gemma_scope, registry

SHIPPED_FOR = "gemma-3-270m"


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
        "small/layer_1", path, "m", 1, d_model=4, d_sae=6, l0=7.5, architecture="jumprelu"
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


def test_what_does_not_exist_is_an_error_that_lists_what_does(shelf, tmp_path):
    for spec in ("small/layer_7", str(tmp_path / "none.npz")):
        with pytest.raises(FileNotFoundError) as caught:
            saes.find(spec)
        message = str(caught.value)
        assert message.startswith(f"--sae={spec} is neither a file or folder with an SAE, nor a")
        assert message.endswith("come with probejax: large, small/layer_1, small/layer_2.")


def test_a_folder_without_an_sae_is_an_error_that_lists_the_formats(shelf, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no SAE in a known format: gemma_sc"):
        saes.find(str(tmp_path / "empty"))


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


def test_the_sae_that_ships_is_as_good_as_promised():
    found = saes.shipped(SHIPPED_FOR)
    assert found, f"no SAE ships for {SHIPPED_FOR}"
    folder = registry._SHIPPED
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12e6
    for file in found:
        assert file.layer == 9
        sae = file.load()
        d_model, d_sae = sae.W_enc.shape
        assert d_model == 640 and d_sae >= 4096
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

"""The file of a unit's test scores: what goes in comes out, and what is no such file is said."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from probejax import storage, stored_scores
from probejax.foreign import DamagedFile
from probejax.stored_scores import Latents, ScoredRows, StoredScores


def draw(seed=42, m=9, latents=True):
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(5 * m + 1, m, replace=False))
    logits = rng.normal(size=m).astype(np.float32)
    logits[: m // 4] = np.nan
    firing = (np.array([[4, -1], [0, 3]]), np.array([[2.5, 0], [1.5, 1]], np.float32))
    own = Latents(np.array([7, 3]), np.array([-1.5, 0.25], np.float32), *firing)
    return ScoredRows(seed, rows, rng.integers(0, 2, m), logits, own if latents else None)


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=3))
def test_what_goes_in_comes_out_and_is_small(sizes):
    draws = tuple(draw(seed, m, latents) for seed, (m, latents) in enumerate(sizes))
    scores = StoredScores(("no", "yes"), draws)
    data = stored_scores.encode(scores)
    found = stored_scores.decode(data)
    assert found.classes == scores.classes and stored_scores.encode(found) == data
    for mine, theirs in zip(draws, found.draws, strict=True):
        for name in ("seed", "rows", "labels", "logits"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert (mine.latents is None) == (theirs.latents is None)
        for a, b in zip(mine.latents or (), theirs.latents or (), strict=True):
            np.testing.assert_array_equal(a, b)
    rows = sum(len(each.rows) for each in draws)
    bits = sum(each.rows.max(initial=0) + len(each.rows) for each in draws) / 8
    assert len(data) <= 4 * rows + bits + 300 + 700 * len(draws)


def test_names_of_classes_are_kept_on_one_line():
    scores = StoredScores(("a\nb\ud800", "c" * 1000), (draw(),))
    assert stored_scores.decode(stored_scores.encode(scores)).classes == ("a b ", "c" * 200)


def about(**changes):
    known = {"format": "probejax scores 1", "classes": ["no", "yes"], "seeds": [42]}
    return {"probejax": msgspec.json.encode(known | changes).decode()}


DAMAGED = {
    "another format": ({}, about(format="probejax scores 9")),
    "no metadata": ({}, {}),
    "a seed without arrays": ({}, about(seeds=[42, 43])),
    "three classes": ({}, about(classes=["a", "b", "c"])),
    "a name of two lines": ({}, about(classes=["a\nb", "c"])),
    "float64 logits": ({"logits": np.zeros(9)}, about()),
    "logits in two axes": ({"logits": np.zeros((9, 1), np.float32)}, about()),
    "a logit too many": ({"logits": np.zeros(10, np.float32)}, about()),
    "a row too many": ({"tested": np.full(2, 255, np.uint8)}, about()),
    "no labels": ({"labels": None}, about()),
    "too few labels": ({"labels": np.zeros(1, np.uint8)}, about()),
    "too many labels": ({"labels": np.zeros(3, np.uint8)}, about()),
    "a weight too many": ({"weights": np.zeros(3, np.float32)}, about()),
    "no weights": ({"weights": None}, about()),
    "other rows than values": ({"firing": np.zeros((2, 3), np.float32)}, about()),
    "a row below none": ({"firing_rows": np.full((2, 2), -2, np.int32)}, about()),
}


@pytest.mark.parametrize(("changes", "metadata"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_such_file_is_said(changes, metadata, tmp_path):
    tensors = load(stored_scores.encode(StoredScores(("no", "yes"), (draw(),))))
    tensors |= {f"42.{name}": array for name, array in changes.items()}
    data = save({name: a for name, a in tensors.items() if a is not None}, metadata)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "u1.safetensors").write_bytes(data)
    with pytest.raises(DamagedFile, match=r"u1\.safetensors is damaged \(.*; delete it and the un"):
        storage.Store(tmp_path).read_scores("u1")


def test_a_file_cut_short_is_said_and_none_is_none(tmp_path):
    store = storage.Store(tmp_path)
    assert store.read_scores("u1") is None
    data = stored_scores.encode(StoredScores(("no", "yes"), (draw(),)))
    (tmp_path / "scores").mkdir()
    for length in (0, 7, 8, 60, len(data) - 1):
        (tmp_path / "scores" / "u1.safetensors").write_bytes(data[:length])
        with pytest.raises(DamagedFile):
            store.read_scores("u1")

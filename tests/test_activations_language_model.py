"""From text to array: the numbers of a harvest, without a cache."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from probejax import activations
from probejax.models import checkpoint
from probejax.sites import parse
from tests import tiny_models

PROMPTS = [*tiny_models.prompts(60, 30, seed=3), "", "w1 w2"]
PROMPTS += [PROMPTS[5], PROMPTS[0]]  # some stand twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder):
    return activations.load_model(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("site", ["embed", "resid_post.1", "attn_z.2", "mlp_out.0"])
def test_the_numbers_are_those_of_a_harvest(folder, tmp_path, site, positions, dtype):
    lm = activations.load_model(folder, dtype=dtype)
    found = lm.activations(PROMPTS, site, positions=positions, batch_tokens=256)
    recipe = activations.Recipe("tiny", "0", dtype=dtype, positions=positions)
    (kept,) = activations.harvest(
        PROMPTS, [parse(site)], recipe, lambda: checkpoint.load(folder, dtype=dtype),
        cache_dir=tmp_path, batch_tokens=256,
    ).values()  # fmt: skip
    assert found.x.dtype == kept.x.dtype == np.dtype(dtype)
    assert found.counts.tolist() == kept.counts.tolist()
    for i in range(len(PROMPTS)):
        ours, theirs = (
            np.asarray(each.x[each.starts[i] : each.starts[i] + each.counts[i]], np.float32)
            for each in (found, kept)
        )
        assert np.array_equal(ours, theirs), i
    assert np.array_equal(found.last(), kept.last())


def test_an_array_of_it_has_a_row_for_each_text(lm):
    found = lm.activations(PROMPTS, 1)
    assert np.asarray(found).shape == found.x.shape == (len(PROMPTS), 32)
    assert np.asarray(found).dtype == np.float32 and np.array_equal(np.asarray(found), found.last())
    assert (
        repr(found)
        == f"Activations({len(PROMPTS)} texts, {len(PROMPTS)} rows of width 32, float32)"
    )
    with pytest.raises(
        ValueError, match=r"all tokens of each text; \.last\(\) is one row per text"
    ):
        np.asarray(lm.activations(PROMPTS, 1, positions="all"))


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Series], ids=lambda kind: kind.__name__)
def test_texts_come_in_any_list(lm, kind):
    expected = lm.activations(["w1 w2", "w3"], 0).x
    assert np.array_equal(lm.activations(kind(["w1 w2", "w3"]), 0).x, expected)


def test_weights_are_read_when_they_are_needed_and_no_further(lm, monkeypatch):
    asked = []
    original = checkpoint.Checkpoint.transformer
    monkeypatch.setattr(
        checkpoint.Checkpoint, "transformer",
        lambda self, n, *rest: asked.append(n) or original(self, n, *rest),
    )  # fmt: skip
    assert repr(lm) == "LanguageModel(tiny: 3 layers of width 32, float32; 0 in memory)"
    for site in ("embed", "mlp_out.1", 0, "attn_out.1", 2, "embed"):
        lm.activations(["w1"], site)
    assert asked == [0, 2, 3]
    assert repr(lm) == "LanguageModel(tiny: 3 layers of width 32, float32; 3 in memory)"


def test_what_is_cut_is_said_once_and_the_end_is_read(lm):
    texts = ["w1 w2 w3 w4 w5", "w4 w5", "w9 w8 w4 w5", "w9 w8 w4 w5"]
    with pytest.warns(UserWarning, match=r"^2 of 3 different texts are longer than max_length=3 "):
        found = lm.activations(texts, 2, max_length=3)
    assert np.abs(found.x - found.x[1]).max() < 1e-5
    with pytest.warns(UserWarning, match="1 of 1"):
        assert lm.activations(texts[:1], 2, max_length=1, positions="all").counts.tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.activations(texts[:1], 2, max_length=6)


MISTAKES = {
    "one string": (("w1", 0), {}, "texts is one string; give a list of strings, such as [text]."),
    "none": (([], 0), {}, "texts is empty; give at least one string."),
    "a number": (
        (np.array(["w1", "w2", 5], object), 0),
        {},
        "texts[2] is 5 (int); expected a string.",
    ),
    "a missing one": (
        (np.array(["w1", None], object), 0),
        {},
        "texts[1] is None (NoneType); expected a string.",
    ),
    "no site": ((["w1"], "resid_mid.0"), {}, "--site=resid_mid.0 is no site"),
    "a site past the model": ((["w1"], 3), {}, "--site=resid_post.3 was asked for, but tiny has l"),
    "positions": ((["w1"], 0), {"positions": "first"}, "'first' is no position: give last, mean"),
    "half a character": ((["w1", "a\ud800"], 0), {}, "texts[1] holds half a character (a lone sur"),
    "no length": ((["w1"], 0), {"max_length": 0}, "max_length is 0; expected at least 1"),
    "a negative length": ((["w1"], 0), {"max_length": -1}, "max_length is -1; expected at least"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_no_weights(lm, monkeypatch, mistake):
    arguments, options, said = MISTAKES[mistake]
    monkeypatch.setattr(checkpoint.Checkpoint, "transformer", lambda *_: pytest.fail("read them"))
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        lm.activations(*arguments, **options)


def test_a_dtype_that_there_is_not(folder):
    with pytest.raises(ValueError, match="dtype is 'float16'; choose from float32, bfloat16"):
        activations.load_model(folder, dtype="float16")

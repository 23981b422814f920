"""One model under the names that its makers, TransformerLens and SAE releases give it."""

import dataclasses
from pathlib import Path

import pytest

from probejax import saes
from probejax.saes import model_names, releases, sae_lens_list
from probejax.sites import Site

# Each row is one model; the first name is the usual one.
SAME = (
    ("gpt2", "openai-community/gpt2", "gpt2-small", "openai-community/gpt2/"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
    ("Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
    ("Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
    ("Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
    ("Llama-2-7b", "meta-llama/Llama-2-7b-hf", "Llama-2-7b"),
    ("Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", "mistral-7b"),
    ("gemma-2b", "google/gemma-2b"),
    ("gemma-2b-it", "google/gemma-2b-it"),
    ("gemma-2-2b", "google/gemma-2-2b", "gemma-2-2b"),
    ("gemma-3-1b-it", "google/gemma-3-1b-it", "google/gemma-v3-1b-it"),
    ("gemma-3-4b-pt", "google/gemma-3-4b-pt", "gemma-v3-4b-pt"),
    ("gemma-3-270m", "google/gemma-3-270m", "google/gemma-3-270m-pt", "gemma-v3-270m-pt"),
    ("gemma-3-270m-it", "google/gemma-3-270m-it/"),
    ("pythia-70m", "EleutherAI/pythia-70m"),
    ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
    ("pythia-160m", "EleutherAI/pythia-160m"),
    ("pythia-160m-deduped", "EleutherAI/pythia-160m-deduped"),
    ("Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B-Base", "qwen3-1.7b-base"),
)  # fmt: skip
PAIRS = [(name, usual) for usual, *names in SAME for name in (usual, *names)]
SITE = Site("resid_post", 3)
SAE = saes.SaeFile("a/b", Path(__file__), None, 3, d_model=9, kind="resid_post")


@pytest.mark.parametrize(("name", "usual"), PAIRS)
def test_names_of_one_model_are_alike_and_those_of_two_are_not(name, usual):
    assert model_names.comparable(name) == model_names.comparable(usual)
    found = [first for first, *_ in SAME if model_names.comparable(first) == usual.lower()]
    assert found == [usual]


@pytest.mark.parametrize("text", ["", None])
def test_no_name_is_none(text):
    assert model_names.usual(text) is None and model_names.comparable(text) == ""


@pytest.mark.parametrize(("trained_on", "usual"), PAIRS)
def test_an_sae_fits_its_model_under_every_name_on_either_side(trained_on, usual):
    file = dataclasses.replace(SAE, model=trained_on)
    for name, same in PAIRS:
        if same == usual:
            run = name.rstrip("/").rpartition("/")[2]  # as a checkpoint is called
            assert file.check(run, SITE, 9) is None


@pytest.mark.parametrize(
    ("trained_on", "model"),
    [
        ("pythia-70m-deduped", "pythia-70m"),
        ("pythia-160m", "pythia-160m-deduped"),
        ("gpt2-small", "gpt2-medium"),
        ("gpt2-small", "distilgpt2"),
        ("meta-llama/Meta-Llama-3-8B", "Llama-3.1-8B"),
        ("gemma-2b", "gemma-2-2b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B"),
    ],
)
def test_a_model_that_may_be_taken_for_another_is_refused(trained_on, model):
    with pytest.raises(ValueError, match=f"was trained on {trained_on}, the run is on {model}"):
        dataclasses.replace(SAE, model=trained_on).check(model, SITE, 9)


def test_what_instructions_made_is_noted_under_every_name():
    for base in ("meta-llama/Meta-Llama-3.1-8B", "Llama-3.1-8B"):
        for tuned in ("Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"):
            note = dataclasses.replace(SAE, model=base).check(tuned, SITE, 9)
            assert "on the base model" in note


def test_listed_releases_are_known_under_their_makers_names():
    names = {release.model for release in sae_lens_list.releases().values()}
    assert "gpt2-small" in names and "mistral-7b" in names
    usual = {model_names.usual(name) for name in names}
    assert {"gpt2", "Mistral-7B-v0.1"} < usual and "gpt2-small" not in usual
    assert {model_names.comparable(family.model) for family in releases.FAMILIES} >= {"gpt2"}

"""An SAE trained from texts to a file that loads, and what that is said to take before."""

import json

import pytest

from probejax import runs, saes
from probejax.saes.train import TrainOptions
from probejax.tasks import Own
from tests import tiny_models
from tests.test_sweep import write_task

OPTIONS = TrainOptions(
    architecture="jumprelu", d_sae=48, target_l0=4.0, steps=40, batch=64, learning_rate=1e-3, seed=0
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("sae")
    tiny_models.write(root / "tiny")
    write_task(root / "mine.csv", 300, 0)
    return root


@pytest.fixture(scope="module")
def tokens(place):
    data = Own(str(place / "mine.csv"), None, None, None)
    return runs.Tokens(
        model=str(place / "tiny"), site="mlp_out.1", names=("own",), data=data, count=900,
        bos="never", max_length=16,
    )  # fmt: skip


def test_texts_become_an_sae_that_loads(place, tokens):
    out = place / "trained"
    measured = runs.train_sae(out, OPTIONS, tokens, cache_dir=place / "cache", command="mine")
    found = saes.find(str(out))
    assert (found.d_sae, found.d_model, str(found.site)) == (48, 32, "mlp_out.1")
    said = json.loads((out / "training.json").read_text())
    assert (said["bos"], said["chat"], said["command"]) == ("none", "", "mine")
    assert said["quality"]["l0"] == pytest.approx(measured.l0) and measured.tokens > 20
    again = runs.train_sae(out, OPTIONS, tokens, cache_dir=place / "cache", command="mine")
    assert again == measured
    # What is to run is what was read, of the prompts that are drawn; no BOS before them.
    plan = runs.plan_training(OPTIONS, tokens, cache_dir=place / "elsewhere")
    assert f"1 list of prompts; {said['training_tokens'] + measured.tokens:,} tokens to run" in plan


def test_a_plan_says_how_many_weights_and_steps(place, tokens):
    said = runs.plan_training(OPTIONS, tokens, target="h100", cache_dir=place / "cache")
    assert "These are drawn for about 900 tokens" in said and "at the least under 1 s" in said
    assert "Training: 40 steps of 64 tokens" in said and "on a device of h100" in said
    large = runs.plan_training(
        TrainOptions(**(vars(OPTIONS) | {"d_sae": 1_000_000})), tokens, target="h100",
        cache_dir=place / "cache",
    )  # fmt: skip
    assert "take 1.02 GB" in large  # 2 x 32 x a million weights, four times, of four bytes

"""Models whose positions are learned (GPT-2) have only so many, prompt by prompt."""

import numpy as np
import pytest

from probejax import activations
from probejax.sites import parse
from tests import tiny_models

CONFIG = tiny_models.change(tiny_models.PYTHIA, name="tiny", rope_global=None, n_positions=8)
RECIPE = activations.Recipe("tiny", "0")


@pytest.fixture(scope="module")
def model():
    return tiny_models.language_model(CONFIG)


def harvest(model, folder, prompts, **options):
    (found,) = activations.harvest(
        prompts, [parse("1")], RECIPE, lambda: model, cache_dir=folder, **options
    ).values()
    return found.last()


def test_each_prompt_of_a_packed_row_has_all_positions(model, tmp_path):
    prompts = [" ".join(f"w{(7 * i + j) % 50}" for j in range(7)) for i in range(6)]
    together = harvest(model, tmp_path / "x", prompts)  # 48 tokens, of which a row holds several
    for i, prompt in enumerate(prompts):
        alone = harvest(model, tmp_path / str(i), [prompt])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5, atol=1e-5)


def test_a_longer_prompt_is_refused(model, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"A prompt has 9 tokens, and tiny has learned positions for 8; give --max_length=8",
    ):
        harvest(model, tmp_path, ["w1", "w1 " * 8])

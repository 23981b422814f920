"""The benchmark of SAEs at a small size: both sides do the same work."""

import numpy as np
import pytest

from experiments.benchmarks import saes as benchmark_saes
from probejax import saes
from probejax.rules import ARCHITECTURES


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "layer_1_width_16k_l0_small" / "params.safetensors"
    benchmark_saes.write(path, 64, 512)
    return path


def test_both_sides_choose_the_same_latents(path):
    ours, theirs = (benchmark_saes.measure(side, path) for side in ("ours", "theirs"))
    assert np.shape(ours["chosen"]) == np.shape(theirs["chosen"]) == (53, 128)
    assert np.mean(np.array(ours["chosen"]) == np.array(theirs["chosen"])) > 0.99
    assert ours["seconds"] > 0 and ours["total_gib"] > 0


def test_the_random_file_is_an_sae_whose_latents_are_sparse(path):
    found = saes.find(str(path.parent))
    assert (found.d_model, found.d_sae) == (64, 512)
    latents = np.asarray(saes.encode(found.load(), benchmark_saes.problem(64)[0]))
    assert 0.1 < (latents > 0).mean() < 0.2


def test_encoding_is_measured_against_pytorch(path):
    (figure,) = benchmark_saes._encoding(path, lambda function: function() is None or 2.0)
    assert figure["ours"] == figure["theirs"] == 512 and figure["ratio"] == 1.0


def test_training_counts_tokens_and_products():
    took = iter([0.5, *[6.0] * 6])
    figures = list(
        benchmark_saes.training(
            lambda step: (step(), next(took))[1], d_model=8, d_sae=128, batch=12
        )
    )
    assert [figure["name"].split()[2] for figure in figures] == list(ARCHITECTURES)
    assert {figure["ours"] for figure in figures} == {2} and figures[0]["unit"] == "tokens/s"
    share = {f["name"].split()[2]: f["share_of_matmul"] for f in figures}
    assert share.pop("gated") == 0.67 and set(share.values()) == {0.5}

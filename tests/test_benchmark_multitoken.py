"""The benchmark of probes on all tokens at a small size: both sides do the same work."""

import numpy as np
import pytest

from experiments.benchmarks import multitoken as benchmark_multitoken
from tests.reference import study_attention

assert study_attention  # imported here, as PyTorch sets an environment variable, see there


def test_both_sides_pool_the_same_latents():
    ours, theirs = (
        benchmark_multitoken.measure(side, prompts=12, d_sae=300) for side in ("ours", "theirs")
    )
    assert ours["sum"] == pytest.approx(theirs["sum"], rel=1e-5) and ours["sum"] > 1000
    assert ours["tokens"] == theirs["tokens"] >= 12 * 16
    assert ours["seconds"] > 0 and theirs["gib"] >= 0


def test_both_sides_train_the_same_probes(monkeypatch):
    monkeypatch.setattr(benchmark_multitoken, "_D_MODEL", 16)
    rng = np.random.default_rng(0)
    counts = [rng.integers(1, longest, 40) for longest in (8, 20, 9)]
    (figure,) = benchmark_multitoken._attention(counts, seeds=2, steps=5, their_steps=3)
    assert (
        figure["name"].startswith("train attention, 3 tasks x 2 seeds") and figure["unit"] == "ms"
    )
    assert figure["ratio"] > 0 and figure["target"] == 5.0
    wrong = benchmark_multitoken.fits
    other = lambda *options: wrong(*options)._replace(b=np.ones(2))
    monkeypatch.setattr(benchmark_multitoken, "fits", other)
    with pytest.raises(AssertionError, match="the losses differ by"):
        list(benchmark_multitoken._attention(counts[:1], seeds=2, steps=5, their_steps=3))

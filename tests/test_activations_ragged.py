import jax.numpy as jnp
import numpy as np
import pytest

from probejax.activations import ragged
from probejax.activations.ragged import Activations
from probejax.probes import tiles as layout
from tests import token_cases

COUNTS = np.r_[1, 2, np.arange(1, 100), 256, 257, 900, np.full(200, 7)]
TOKENS = token_cases.tokens(COUNTS, np.arange(len(COUNTS)) % 2)


def test_without_bos():
    found = ragged.without_bos(TOKENS)
    assert found.counts[:4].tolist() == [1, 1, 1, 1]  # a prompt of BOS alone keeps it
    assert np.array_equal(found.starts[COUNTS > 1], TOKENS.starts[COUNTS > 1] + 1)
    assert np.array_equal(found.starts + found.counts, TOKENS.starts + TOKENS.counts)
    assert np.array_equal(found.last(), TOKENS.last())


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_join_reads_like_one_array(dtype):
    parts = [token_cases.tokens([3, 1], [0, 1], seed, dtype=dtype) for seed in range(3)]
    joined = ragged.join(parts)
    whole = np.concatenate([part.x for part in parts])
    assert joined.x.shape == whole.shape == (12, 12) and joined.x.dtype == dtype
    rows = np.array([[11, 0, 5], [4, 4, 7]])
    assert np.array_equal(joined.x[rows], whole[rows])
    assert joined.starts.tolist() == [0, 3, 4, 7, 8, 11] and joined.counts.tolist() == [3, 1] * 3
    assert ragged.join(parts[:1]) is parts[0]
    narrow = Activations(np.zeros((2, 5), dtype), np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="different widths or dtypes cannot be joined"):
        ragged.join([parts[0], narrow])


@pytest.mark.parametrize("size", [1024, 4096])
@pytest.mark.parametrize("count", [0, 1, 5, len(COUNTS)])
def test_every_token_lies_in_one_tile(size, count):
    prompts = np.random.default_rng(0).permutation(len(COUNTS))[:count]
    plan = layout.tile(TOKENS, prompts, size)
    assert plan.form.size == size
    x = layout.read(TOKENS, plan)
    seen = []
    for tile in range(len(plan.kind)):
        length = plan.form.lengths[plan.kind[tile]]
        real = plan.real[tile].reshape(-1, length)
        for row, prompt in enumerate(plan.prompts[tile]):
            if prompt < 0:
                assert row >= len(real) or not real[row].any()
                continue
            start, n = TOKENS.starts[prompts[prompt]], TOKENS.counts[prompts[prompt]]
            assert real[row].sum() == n and real[row][:n].all()
            assert np.array_equal(x[tile].reshape(-1, length, 12)[row][:n], TOKENS.x[start:][:n])
            seen.append(prompt)
        assert (x[tile][~plan.real[tile]] == 0).all()
    assert sorted(seen) == list(range(count))


def test_a_tile_grows_with_the_longest_prompt():
    long = Activations(np.zeros((3000, 2), np.float32), np.array([0]), np.array([3000]))
    assert layout.tile(long, np.array([0]), 1024).form.size == 4096


def test_little_is_padding():
    counts = np.random.default_rng(0).integers(1, 200, 3000)
    starts = np.cumsum(counts) - counts
    plan = layout.tile(
        Activations(np.zeros((counts.sum(), 1)), starts, counts), np.arange(3000), 1024
    )
    assert plan.rows.size < 1.5 * counts.sum()
    assert {len(set(plan.kind.tolist()))} <= {5, 6, 7}

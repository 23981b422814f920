import numpy as np
import pytest

from probejax.activations.packing import ROW_LENGTHS, pack


def token_ids(lengths):
    """Prompts whose every token is told apart from all others."""
    ends = np.cumsum(lengths)
    return [
        np.arange(end - n, end, dtype=np.int32) + 1 for n, end in zip(lengths, ends, strict=True)
    ]


def real_lengths(n=2000, seed=0):
    """Lengths like the study's: mostly short, some at the limit of 1,024 tokens."""
    return np.clip(np.random.default_rng(seed).lognormal(3.5, 1.0, n).astype(int), 1, 1024)


@pytest.mark.parametrize(
    "lengths",
    [[1], [128], [129], [1024], [1025, 3000], [5] * 300, [1, 1024, 128, 129, 256, 600, 2, 128]],
    ids=str,
)
@pytest.mark.parametrize("batch_tokens", [1, 256, 2048])
def test_every_prompt_lies_whole_in_one_batch(lengths, batch_tokens):
    prompts = token_ids(lengths)
    seen = []
    for batch in pack(prompts, batch_tokens):
        assert batch.tokens.shape == batch.segments.shape
        assert batch.tokens.dtype == batch.segments.dtype == np.int32
        assert batch.tokens.size <= batch_tokens or batch.tokens.shape[0] == 1
        flat, segments = batch.tokens.ravel(), batch.segments.ravel()
        for prompt, start, n in zip(batch.prompts, batch.starts, batch.lengths, strict=True):
            assert np.array_equal(flat[start : start + n], prompts[prompt])
            assert start // batch.tokens.shape[1] == (start + n - 1) // batch.tokens.shape[1]
            number = segments[start]
            row = batch.segments[start // batch.tokens.shape[1]]
            assert number > 0 and (row == number).sum() == n
            assert (segments[start : start + n] == number).all()
        assert (segments > 0).sum() == batch.lengths.sum()
        assert (flat[segments == 0] == 0).all()
        for row in batch.segments:  # prompts are numbered 1, 2, ... from the left, then padding
            used = row[row > 0]
            assert (np.diff(used) >= 0).all() and (row[len(used) :] == 0).all()
            assert set(used) == set(range(1, len(set(used)) + 1))
        seen += batch.prompts.tolist()
    assert sorted(seen) == list(range(len(prompts)))


def test_the_same_prompts_give_the_same_batches():
    prompts = token_ids(real_lengths(300))
    for a, b in zip(pack(prompts, 2048), pack([p.copy() for p in prompts], 2048), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_few_shapes():
    shapes = {batch.tokens.shape for batch in pack(token_ids(real_lengths()), 2048)}
    assert shapes == {(2048 // length, length) for length in ROW_LENGTHS}


def test_little_padding_on_real_lengths():
    lengths = real_lengths()
    places = sum(batch.tokens.size for batch in pack(token_ids(lengths), 2048))
    assert lengths.sum() > 90_000
    assert places < 1.25 * lengths.sum()

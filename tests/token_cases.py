"""Prompts of many lengths whose label shows in one of their tokens, for the tests of probes."""

import numpy as np

from probejax.activations.ragged import Activations

D = 12


def tokens(counts, y, seed=0, strength=4.0, bos=3.0, dtype=np.float32) -> Activations:
    """The same large BOS everywhere, noise behind it, and the label in one random token."""
    counts = np.asarray(counts)
    rng = np.random.default_rng(seed)
    starts = np.cumsum(counts) - counts
    x = rng.normal(size=(counts.sum(), D)).astype(np.float32)
    for start, count, label in zip(starts, counts, y, strict=True):
        x[start + (rng.integers(1, count) if count > 1 else 0), 0] += strength * (2 * label - 1)
        x[start] = bos * np.cos(np.arange(D))
    return Activations(x.astype(dtype), starts, counts)


def shuffled(found: Activations, seed=0) -> Activations:
    """The same prompts, their rows stored in another order and with strangers between them."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found.counts))
    gap = 3
    x = np.full((len(found.x) + gap * len(order), found.d_model), np.nan, found.x.dtype)
    starts, at = np.zeros_like(found.starts), 0
    for i in order:
        start, count = found.starts[i], found.counts[i]
        x[at : at + count] = found.x[start : start + count]
        starts[i], at = at, at + count + gap
    return Activations(x, starts, found.counts)

"""Fits that have most of their prompts in common, so that these are read once for all of them."""

import numpy as np
from jaxtyping import Bool, Int

from probejax.activations.ragged import Activations

_WIDEST = 64  # fits that go together
_WASTE = 1.5  # products may be so many times those that the fits need alone


def chunks(
    tokens: Activations, rows: Int[np.ndarray, "Q n"], used: Bool[np.ndarray, "Q n"], most: int
) -> list[np.ndarray]:
    """Cuts fits, in their order, into chunks that have most of their prompts in common.

    Args:
      tokens: of all prompts.
      rows: prompts of each fit.
      used: which of them count.
      most: tokens of a chunk, unless a single fit has more.
    """
    found: list[list[int]] = []
    union, total = np.zeros(len(tokens.counts), bool), 0
    for fit in range(len(rows)):
        own = np.zeros(len(tokens.counts), bool)
        own[rows[fit][used[fit]]] = True
        its, both = (int(tokens.counts[which].sum()) for which in (own, own | union))
        members = len(found[-1]) if found else _WIDEST
        if members < _WIDEST and both <= most and both * (members + 1) <= _WASTE * (total + its):
            found[-1].append(fit)
            union, total = union | own, total + its
        else:
            found.append([fit])
            union, total = own, its
    return [np.array(chunk) for chunk in found]

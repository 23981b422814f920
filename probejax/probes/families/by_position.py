"""A linear probe with weights of its own for every position of a prompt."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from probejax.activations.ragged import at
from probejax.probes.families.probe import Probe


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ByPosition(Probe):
    """The logit of a prompt is b plus the sum of (x_t - mean_t).w_t over the positions it has.

    Attributes:
      w: [*lanes, positions, d] weights, the first position the BOS if there is one.
      b: [*lanes] intercepts.
      mean: [*lanes, positions, d], taken off first.
    """

    w: Float[np.ndarray, "*lanes positions d"]
    b: Float[np.ndarray, "*lanes"]
    mean: Float[np.ndarray, "*lanes positions d"]

    @property
    def lanes(self) -> int | None:
        return len(self.b) if self.b.ndim else None

    @property
    def reads_tokens(self) -> bool:
        return True

    @property
    def width(self) -> int:
        return self.w.shape[-1]

    def source(self, x: Any):
        return self.tokens(x)

    def of_rows(self, source, rows, mask):
        found = np.zeros(rows.shape)
        for lane, (w, b, mean) in enumerate(zip(self.w, self.b, self.mean, strict=True)):
            prompts = rows[lane][mask[lane]]
            logits = np.full(len(prompts), b, float)
            for position in np.flatnonzero(w.any(axis=1)):
                x, there = at(source, prompts, position)
                logits += np.where(there, (x - mean[position]) @ w[position], 0)
            found[lane][mask[lane]] = logits
        return found

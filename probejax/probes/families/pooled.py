"""A probe that scores every token of a prompt and makes one logit of the scores."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from probejax.activations.ragged import Activations, without_bos
from probejax.probes import aggregators, token_scores
from probejax.probes.families.probe import Probe, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pooled(Probe):
    """The logit of a prompt is what an aggregator makes of its tokens' scores x.w, plus b.

    Attributes:
      w: [*lanes, c, d] score vectors.
      b: [*lanes] intercepts.
      setting: [*lanes], of the aggregator, such as a window's width.
      aggregate: its name in `probes.aggregators`.
      bos: whether the first token counts.
    """

    w: Float[np.ndarray, "*lanes c d"]
    b: Float[np.ndarray, "*lanes"]
    setting: Float[np.ndarray, "*lanes"]
    aggregate: str = static("attention")
    bos: bool = static(True)

    @property
    def lanes(self) -> int | None:
        return len(self.b) if self.b.ndim else None

    @property
    def reads_tokens(self) -> bool:
        return True

    @property
    def width(self) -> int:
        return self.w.shape[-1]

    def source(self, x: Any) -> Activations:
        tokens = self.tokens(x)
        return tokens if self.bos else without_bos(tokens)

    def of_rows(self, source, rows, mask):
        aggregate = aggregators.NAMED[self.aggregate]
        return token_scores.own_logits(source, rows, mask, self.w, self.b, self.setting, aggregate)

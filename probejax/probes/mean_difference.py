"""The difference of the class means: the simplest probe, and not one of the study's."""

import numpy as np
from jaxtyping import Array, Float

from probejax.probes import closed_form, scores
from probejax.probes.rows import Rows


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: the logit is (x - (m1 + m0) / 2).(m1 - m0).

    The features are taken raw, so the logit is in their squared units: its sign and order mean
    something, its size is no probability.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; they differ for at most three rows only.
    """
    return closed_form.fit(features, rows, protocol, _solve)


def _solve(x, rows, mask, y):
    def mean(mask):  # [Q, d]; fit by fit, so that none depends on the others
        own = (x[line[real]] for line, real in zip(rows, mask, strict=True))
        sums = [each.sum(axis=0, dtype=np.float64) / max(len(each), 1) for each in own]
        return np.array(sums, np.float32).reshape(len(rows), x.shape[1])

    positive, negative = mean(mask & (y == 1)), mean(mask & (y == 0))
    w = positive - negative
    return w, -0.5 * ((positive + negative) * w).sum(axis=1), np.zeros(len(w))  # by definition

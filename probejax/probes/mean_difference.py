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
    lanes = np.arange(len(rows))[:, None]

    def mean(mask):  # [Q, d]; a product with all rows moves less than a gather of each fit's own
        weights = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        share = np.zeros((len(rows), len(x)), np.float32)
        np.add.at(share, (lanes, rows), weights.astype(np.float32))
        return share @ x

    positive, negative = mean(mask & (y == 1)), mean(mask & (y == 0))
    w = positive - negative
    return w, -0.5 * ((positive + negative) * w).sum(axis=1)

"""Areas under the ROC curve with bootstrap draws of the prompts that were tested."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax.analysis.intervals import Interval, task_draws
from probejax.metrics import host_aucs

RESAMPLES = 1000


class Resampled(NamedTuple):
    """AUCs of m scores.

    Attributes:
      aucs: [m] on all rows.
      draws: [B, m] on each draw of prompts; NaN where a draw has one class.
    """

    aucs: Float[np.ndarray, " m"]
    draws: Float[np.ndarray, "B m"]

    def interval(self, weights: Float[np.ndarray, " m"]) -> Interval:
        """Returns a weighted sum of the AUCs with its 95 % percentile interval."""
        low, high = np.nanquantile(self.draws @ weights, [0.025, 0.975])
        return Interval(float(self.aucs @ weights), float(low), float(high))


def resampled(
    scores: Float[np.ndarray, "m t"],
    y: Int[np.ndarray, " t"],
    same: Int[np.ndarray, " t"],
    seed: int = 0,
) -> Resampled:
    """Draws prompts with replacement and returns the AUC of every score on each draw.

    Args:
      scores: m scores of t rows; equal ones count half.
      y: labels, 0 or 1.
      same: a number for each prompt, the same for equal ones, which are drawn together.
      seed: of the draws.
    """
    _, prompt = np.unique(same, return_inverse=True)
    times = task_draws(int(prompt.max()) + 1, RESAMPLES, seed)[:, prompt]
    draws = np.stack([_weighted_auc(score, y, times) for score in scores], axis=1)
    return Resampled(host_aucs(scores.T, y[:, None])[:, 0], draws)


def _weighted_auc(
    score: Float[np.ndarray, " t"], y: Int[np.ndarray, " t"], weights: Float[np.ndarray, "B t"]
) -> Float[np.ndarray, " B"]:
    """Returns the AUC under each line of weights: the weight of pairs in the right order."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # of rows that tie
    by_class = (weights[:, order] * (y[order] == label) for label in (0, 1))
    zeros, ones = (np.add.reduceat(part, starts, axis=1) for part in by_class)
    won = (ones * (np.cumsum(zeros, axis=1) - zeros / 2)).sum(axis=1)
    pairs = zeros.sum(axis=1) * ones.sum(axis=1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan)

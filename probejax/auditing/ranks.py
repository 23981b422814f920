"""AUCs on the host, of one score or of many columns at once, of any number of rows."""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata


def auc(scores: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"]) -> float:
    """Returns the area under the ROC curve, equal scores counting half; NaN of one class."""
    return float(aucs(scores[:, None], y[:, None])[0, 0])


def aucs(
    values: Shaped[np.ndarray, "n m"], labels: Int[np.ndarray, "n p"]
) -> Float[np.ndarray, "m p"]:
    """Returns the AUC of every column for every labelling; NaN of one class.

    Args:
      values: m scores of n rows.
      labels: p labellings of the same rows, 0 or 1.
    """
    ranks = rankdata(values, axis=0)
    positive = labels.sum(axis=0).astype(float)
    pairs = positive * (len(labels) - positive)
    won = ranks.T @ labels.astype(float) - (positive * (positive + 1) / 2)[None, :]
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1)[None, :], np.nan)

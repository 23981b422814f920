"""L2 logistic regression on the raw features (`find_best_reg` of the study's code)."""

import numpy as np
from jaxtyping import Array, Bool, Float

from probejax.probes import given, scores
from probejax.probes.families import Linear
from probejax.probes.families.linear import products
from probejax.probes.rows import Rows
from probejax.solvers import l2

# logspace(5, -5, 10), weakest regularisation first: of equal validation AUCs the first wins.
STRENGTHS = np.logspace(5, -5, 10)
DEFAULT_C = 1.0  # scikit-learn's, where there are too few rows for a search


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: search over C on the folds, then a fit on all training rows.

    Minimises 0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))), the intercept free. The features
    are centred for the sake of float32; that moves the intercept and nothing else.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; they differ for at most three rows only.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    x, mean, _ = centred(features)
    train, mask, y = rows.train, rows.train_mask, rows.y_train
    shared = l2.share(x, train, mask)

    def path(folds):
        found = l2.solve_path(shared, train[folds.lane], folds.train, y[folds.lane], STRENGTHS)
        return predict_path(x, train[folds.lane], found.w, found.b)

    def refit(C):
        found = l2.solve(shared, train, mask, y, C)
        return linear(found.w, found.b, mean), found.gap, found.code

    return scores.search_and_refit(features, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def centred(
    features: Float[Array | np.ndarray, "N d"],
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " d"], Bool[np.ndarray, " N"]]:
    """Returns the features, float32, without their mean; the mean; and which rows are finite.

    The mean is that of the finite rows, if any; the others become zero.
    """
    x = np.asarray(features, np.float32)
    usable = given.finite(x)
    x = np.where(usable[:, None], x, 0)
    mean = (x.sum(axis=0, dtype=np.float64) / max(usable.sum(), 1)).astype(np.float32)
    return np.where(usable[:, None], x - mean[None, :], 0), mean, usable


def linear(w, b, mean) -> Linear:
    """Returns probes whose weights act on features without their mean."""
    return Linear(np.asarray(w), np.asarray(b), np.asarray(mean))


def predict_path(x, rows, w, b) -> Float[np.ndarray, "L P n"]:
    """Returns the logits of each lane's rows at every strength."""
    every = products(np.asarray(w).reshape(-1, x.shape[1]), x).reshape(*np.shape(b), -1)
    return np.take_along_axis(every, rows[:, None, :], axis=2) + np.asarray(b)[:, :, None]

"""L2 logistic regression on the raw features (`find_best_reg` of the study's code)."""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import given, scale, scores
from probejax.probes.families import Linear
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
    x, middle, _ = centred(features)
    train, mask, y = rows.train, rows.train_mask, rows.y_train
    shared = l2.share(x, train, mask)

    def path(folds):
        found = l2.solve_path(shared, train[folds.lane], folds.train, y[folds.lane], STRENGTHS)
        return rank_path(x, train[folds.lane], folds.val, found.w)

    def refit(C):
        found = l2.solve(shared, train, mask, y, C)
        return linear(found.w, found.b, middle), found.gap, found.code

    return scores.search_and_refit(features, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def centred(
    features: Float[Array | np.ndarray, "N d"],
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " d"], Bool[np.ndarray, " N"]]:
    """Returns the features, float32, without their middle; the middle; and which rows are finite.

    Rows that are not finite become zero.
    """
    x = np.asarray(features, np.float32)
    usable = given.finite(x)
    middle = scale.middle(x[usable])
    return np.where(usable[:, None], x - middle[None, :], 0), middle, usable


def linear(w, b, middle) -> Linear:
    """Returns probes whose weights act on features without their middle."""
    return Linear(np.asarray(w), np.asarray(b), np.asarray(middle))


def rank_path(
    x: Float[np.ndarray, "N d"],
    rows: Int[np.ndarray, "Q n"],
    val: Bool[np.ndarray, "Q n"],
    w: Float[Array | np.ndarray, "Q P d"],
) -> Float[np.ndarray, "Q P n"]:
    """Returns x.w at every strength on the rows that validate; zeros on the others.

    Without the intercept, which changes no rank but by rounding.
    """
    w = np.asarray(w)
    found = np.zeros((*w.shape[:2], rows.shape[1]), np.float32)
    for fit, (line, own) in enumerate(zip(rows, val, strict=True)):
        found[fit][:, own] = w[fit] @ x[line[own]].T
    return found

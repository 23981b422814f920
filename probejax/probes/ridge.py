"""Ridge classification on the raw features: least squares on labels +-1, a closed form."""

import numpy as np
from jaxtyping import Array, Float

from probejax.probes import given, scores
from probejax.probes.logreg import DEFAULT_C, STRENGTHS, centred, linear, rank_path
from probejax.probes.rows import Rows
from probejax.solvers import ridge


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: search over C on the folds, then a fit on all training rows.

    Minimises 0.5 |w|^2 + 0.5 C sum_i (t_i - x_i.w - b)^2 over t_i = +-1, the intercept free: as
    scikit-learn's RidgeClassifier with alpha = 1 / C. The logit's sign and order mean something,
    its size is no probability. Not one of the study's methods.

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

    def path(folds):
        found = ridge.solve_path(x, train[folds.lane], folds.train, y[folds.lane], STRENGTHS)
        return rank_path(x, train[folds.lane], folds.val, found.w)

    def refit(C):
        found = ridge.solve(x, train, mask, y, C)
        return linear(found.w, found.b, middle), found.gap, found.code

    return scores.search_and_refit(features, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)

"""L1 logistic regression on the raw features; search and refit as in `logreg`."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.probes import given, scores
from probejax.probes.logreg import (
    DEFAULT_C,
    STRENGTHS,
    centred,
    linear,
    rank_path,
)
from probejax.probes.rows import Rows
from probejax.solvers import l1
from probejax.solvers.engine import each

_CHUNK_BYTES = 2**28  # of gathered features; the solver needs about three times as much


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: search over C on the folds, then a fit on all training rows.

    Minimises |w|_1 + C sum_i log(1 + exp(-t_i (x_i.w + b))), the intercept free. The features are
    centred for the sake of float32; that moves the intercept and nothing else.

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
    size = train.shape[1] * x.shape[1]

    def path(folds):
        def solve(part):
            own = (folds.train[part], y[folds.lane[part]])
            return l1.solve_path(x[train[folds.lane[part]]], *map(jnp.asarray, (*own, STRENGTHS)))

        found = _chunked(solve, len(folds.lane), size)
        return rank_path(x, train[folds.lane], folds.val, found.w)

    def refit(C):
        def solve(part):
            return l1.solve(x[train[part]], *map(jnp.asarray, (mask[part], y[part], C[part])))

        found = _chunked(solve, len(train), size)
        return linear(found.w, found.b, middle), found.gap, found.code

    return scores.search_and_refit(features, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def _chunked(solve, fits: int, size: int):
    """Solves as many fits at a time as memory allows, each with so many numbers."""
    parts = -(-fits // max(1, _CHUNK_BYTES // (4 * size)))
    return each(solve, np.arange(fits), -(-fits // parts))

"""L1 logistic regression on the raw features; search and refit as in `logreg`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.probes import given, scores
from probejax.probes.logreg import (
    DEFAULT_C,
    STRENGTHS,
    centred,
    linear,
    predict,
    predict_path,
)
from probejax.probes.rows import Rows
from probejax.solvers import l1

_CHUNK_BYTES = 2**28  # of gathered features; the solver needs about three times as much


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fitted:
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
    x, mean = centred(features)
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    folds = scores.folds(rows, protocol)
    path = _chunked(
        lambda part: l1.solve_path(
            x[train[folds.lane[part]]],
            jnp.asarray(folds.train[part]),
            jnp.asarray(y[folds.lane[part]]),
            jnp.asarray(STRENGTHS),
        ),
        len(folds.lane),
        train.shape[1] * x.shape[1],
    )
    on_train = predict_path(x, train[folds.lane], path.w, path.b)
    val_auc, best = scores.choose(on_train, folds, rows)
    C = np.where(scores.searched(rows), STRENGTHS[best], DEFAULT_C)
    final = _chunked(
        lambda part: l1.solve(
            x[train[part]], jnp.asarray(mask[part]), jnp.asarray(y[part]), jnp.asarray(C[part])
        ),
        len(train),
        train.shape[1] * x.shape[1],
    )
    found = scores.finish(
        rows,
        protocol,
        val_auc=val_auc,
        train_logits=predict(x, train, final.w, final.b),
        test_logits=predict(x, np.asarray(rows.test), final.w, final.b),
        hyperparameter=C,
        gap=final.gap,
        code=final.code,
    )
    return scores.Fitted(found, linear(final.w, final.b, mean))


def _chunked(solve, fits: int, size: int):
    """Solves as many fits at a time as memory allows, each with so many numbers."""
    room = max(1, _CHUNK_BYTES // (4 * size))
    parts = [solve(np.arange(i, min(i + room, fits))) for i in range(0, fits, room)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(a) for a in leaves]), *parts)

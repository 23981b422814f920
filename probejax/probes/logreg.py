"""L2 logistic regression on the raw features (docs: `find_best_reg` of the study's code)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.probes import scores
from probejax.probes.rows import Rows
from probejax.solvers import l2

# logspace(5, -5, 10), weakest regularisation first: of equal validation AUCs the first wins.
STRENGTHS = np.logspace(5, -5, 10)
DEFAULT_C = 1.0  # scikit-learn's, where there are too few rows for a search


def fit(features: Float[Array, "N d"], rows: Rows) -> scores.Scores:
    """Fits one probe per lane: search over C on the folds, then a fit on all training rows.

    Minimises 0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))), the intercept free. The features
    are centred for the sake of float32; that moves the intercept and nothing else.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
    """
    x = jnp.asarray(features)
    x = x - jnp.mean(x, axis=0, keepdims=True)
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    folds = scores.folds(rows)
    path = l2.solve_path(x, train[folds.lane], folds.train, y[folds.lane], STRENGTHS)
    on_train = _predict_path(x, train[folds.lane], path.w, path.b)
    val_auc, best = scores.choose(on_train, folds, rows, default=0)
    searched = np.asarray(rows.fold_mask).any(axis=1)
    C = np.where(searched, STRENGTHS[best], DEFAULT_C)
    final = l2.solve(x, train, mask, y, C)
    test_scores = _predict(x, np.asarray(rows.test), final.w, final.b)
    test = scores.evaluate(test_scores, rows.y_test, rows.test_mask)
    alone = scores.evaluate(_predict(x, train, final.w, final.b), y, mask)
    val_auc = np.where(searched, val_auc, alone[0])
    test_auc, test_acc, test_f1 = (np.asarray(metric) for metric in test)
    gap, code = np.asarray(final.gap), np.asarray(final.code)
    return scores.Scores(val_auc, test_auc, test_acc, test_f1, C, gap, code)


@jax.jit
def _predict(x, rows, w, b):
    """Returns the logits [L, m] of each lane's rows."""
    every = jnp.einsum("nd,ld->ln", x, w, precision="highest") + b[:, None]
    return jnp.take_along_axis(every, rows, axis=1)


@jax.jit
def _predict_path(x, rows, w, b):
    """Returns the logits [L, P, n] of each lane's rows at every strength."""
    every = jnp.einsum("nd,lpd->lpn", x, w, precision="highest") + b[:, :, None]
    return jnp.take_along_axis(every, rows[:, None, :], axis=2)

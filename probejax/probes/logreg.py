"""L2 logistic regression on the raw features (`find_best_reg` of the study's code)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.probes import given, scores
from probejax.probes.rows import Rows
from probejax.solvers import l2

# logspace(5, -5, 10), weakest regularisation first: of equal validation AUCs the first wins.
STRENGTHS = np.logspace(5, -5, 10)
DEFAULT_C = 1.0  # scikit-learn's, where there are too few rows for a search


def fit(
    features: Float[Array, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fitted:
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
    x, mean = centred(features)
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    folds = scores.folds(rows, protocol)
    shared = l2.share(x, train, mask)
    path = l2.solve_path(shared, train[folds.lane], folds.train, y[folds.lane], STRENGTHS)
    on_train = predict_path(x, train[folds.lane], path.w, path.b)
    val_auc, best = scores.choose(on_train, folds, rows)
    C = np.where(scores.searched(rows), STRENGTHS[best], DEFAULT_C)
    final = l2.solve(shared, train, mask, y, C)
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


@jax.jit
def centred(
    features: Float[Array | np.ndarray, "N d"],
) -> tuple[Float[Array, "N d"], Float[Array, " d"]]:
    """Returns the features, float32, without their mean, and the mean; of finite rows, if any."""
    x = jnp.asarray(features, jnp.float32)
    usable = jnp.isfinite(x).all(axis=1)
    mean = jnp.where(usable[:, None], x, 0).sum(axis=0) / jnp.maximum(usable.sum(), 1)
    return x - mean[None, :], mean


def linear(w, b, mean) -> dict[str, np.ndarray]:
    """Returns the arrays of linear probes: the logit of x is (x - mean).w + b."""
    w = np.asarray(w)
    return {"w": w, "b": np.asarray(b), "mean": np.broadcast_to(np.asarray(mean), w.shape)}


@jax.jit
def predict(x, rows, w, b):
    """Returns the logits [L, m] of each lane's rows."""
    every = jnp.einsum("nd,ld->ln", x, w, precision="highest") + b[:, None]
    return jnp.take_along_axis(every, rows, axis=1)


@jax.jit
def predict_path(x, rows, w, b):
    """Returns the logits [L, P, n] of each lane's rows at every strength."""
    every = jnp.einsum("nd,lpd->lpn", x, w, precision="highest") + b[:, :, None]
    return jnp.take_along_axis(every, rows[:, None, :], axis=2)

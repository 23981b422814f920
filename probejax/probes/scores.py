"""What every probe returns, and how its predictions become that."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import metrics
from probejax.probes.rows import Rows


class Scores(NamedTuple):
    """Results per lane.

    Attributes:
      val_auc: mean validation AUC over folds of the chosen hyperparameter.
      test_auc: area under the ROC curve on the test rows; NaN if they hold one class.
      test_acc: accuracy on the test rows.
      test_f1: F1 weighted by class support, as the study reports it.
      hyperparameter: what was chosen (C, number of components, ...).
      gap: certificate of the final fit: bound on its relative suboptimality.
      code: result code of the final fit, one of `probejax.solvers.codes`.
    """

    val_auc: Float[np.ndarray, " L"]
    test_auc: Float[np.ndarray, " L"]
    test_acc: Float[np.ndarray, " L"]
    test_f1: Float[np.ndarray, " L"]
    hyperparameter: Float[np.ndarray, " L"]
    gap: Float[np.ndarray, " L"]
    code: Int[np.ndarray, " L"]


class Folds(NamedTuple):
    """The folds of all lanes as one flat list of Q fits.

    Attributes:
      lane: which lane each fold belongs to.
      train: its training rows.
      val: its validation rows.
    """

    lane: Int[np.ndarray, " Q"]
    train: Bool[np.ndarray, "Q n"]
    val: Bool[np.ndarray, "Q n"]


def folds(rows: Rows) -> Folds:
    """Lists the real folds; a lane too small to have any is its own fold, validated on itself.

    The latter is the study's rule for at most three training rows: no search, and the validation
    AUC is the AUC on the training rows.
    """
    fold_mask, mask = np.asarray(rows.fold_mask), np.asarray(rows.train_mask)
    lane, fold = np.nonzero(fold_mask)
    val = np.asarray(rows.val)[lane, fold]
    alone = np.flatnonzero(~fold_mask.any(axis=1))
    return Folds(
        lane=np.concatenate([lane, alone]),
        train=np.concatenate([mask[lane] & ~val, mask[alone]]),
        val=np.concatenate([val, mask[alone]]),
    )


def choose(
    scores: Float[Array, "Q P n"],
    which: Folds,
    rows: Rows,
    default: int,
) -> tuple[Float[np.ndarray, " L"], Int[np.ndarray, " L"]]:
    """Picks the candidate with the best mean validation AUC; of equal ones the first.

    Args:
      scores: predictions of each fold's fit for each of P candidates, on the lane's training rows.
      which: the folds.
      rows: the lanes.
      default: the candidate of lanes that are too small for a search.

    Returns:
      Per lane, the mean validation AUC of the chosen candidate and its index.
    """
    y = np.asarray(rows.y_train)[which.lane]
    auc = np.asarray(_fold_auc(scores, y, which.val), np.float64)  # [Q, P]
    lanes = len(rows.train)
    count = np.bincount(which.lane, minlength=lanes)
    mean = np.zeros((lanes, auc.shape[1]))
    np.add.at(mean, which.lane, auc)
    mean /= count[:, None]
    best = mean.argmax(axis=1)
    best[~np.asarray(rows.fold_mask).any(axis=1)] = default
    return mean[np.arange(lanes), best], best


_fold_auc = jax.jit(jax.vmap(jax.vmap(metrics.auc, in_axes=(0, None, None)), in_axes=(0, 0, 0)))


@jax.jit
@jax.vmap
def evaluate(
    scores: Float[Array, " m"], labels: Int[Array, " m"], mask: Bool[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Returns AUC, accuracy and weighted F1 of logits on the test rows, for every lane."""
    predicted = scores > 0
    return (
        metrics.auc(scores, labels, mask),
        metrics.accuracy(predicted, labels, mask),
        metrics.weighted_f1(predicted, labels, mask),
    )

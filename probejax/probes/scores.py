"""What every probe returns, and how its predictions become that.

A method searches on folds, fits what it chose on all training rows, and scores the test rows:

    which = scores.folds(rows, protocol)        # one flat list of fold fits
    ...                                         # fit every candidate on `which.train`
    val_auc, best = scores.choose(predictions, which, rows)
    ...                                         # fit the best candidate on all training rows
    scores.finish(rows, protocol, ...)          # -> Scores
"""

from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import metrics
from probejax.probes.rows import Rows
from probejax.rules import PROTOCOLS as PROTOCOLS
from probejax.solvers import codes

Protocol = Literal["paper", "strict"]


class Scores(NamedTuple):
    """Results per lane.

    Attributes:
      val_auc: mean validation AUC over folds of the chosen hyperparameter.
      test_auc: area under the ROC curve on the test rows; NaN if they hold one class.
      test_acc: accuracy on the test rows.
      test_f1: F1 weighted by class support, as the study reports it.
      test_tpr: true-positive rate on the test rows at a false-positive rate of at most 1 %.
      test_ece: expected calibration error on the test rows, ten bins.
      hyperparameter: what was chosen (C, number of components, ...); NaN where there is nothing to
        choose.
      gap: certificate of the final fit: bound on its relative suboptimality. NaN where there is
        none: the method has no certificate, or nothing was fitted.
      code: result code of the final fit, one of `probejax.solvers.codes`.
    """

    val_auc: Float[np.ndarray, " L"]
    test_auc: Float[np.ndarray, " L"]
    test_acc: Float[np.ndarray, " L"]
    test_f1: Float[np.ndarray, " L"]
    test_tpr: Float[np.ndarray, " L"]
    test_ece: Float[np.ndarray, " L"]
    hyperparameter: Float[np.ndarray, " L"]
    gap: Float[np.ndarray, " L"]
    code: Int[np.ndarray, " L"]


class Fitted(NamedTuple):
    """The fits of all lanes.

    Attributes:
      scores: their results.
      probe: their final probes as named arrays, the first axis the lanes; what each name means is
        the method's own affair (see `probes.saved`).
    """

    scores: Scores
    probe: dict[str, np.ndarray]


class Folds(NamedTuple):
    """The folds of all lanes as one flat list of Q fits.

    Attributes:
      lane: which lane each fold belongs to.
      train: its training rows.
      val: its validation rows.
      seen: the rows from which scalers, components and rankings may be taken: all training rows of
        the lane under `paper`, as the study does it, those of the fold under `strict`.
    """

    lane: Int[np.ndarray, " Q"]
    train: Bool[np.ndarray, "Q n"]
    val: Bool[np.ndarray, "Q n"]
    seen: Bool[np.ndarray, "Q n"]


def folds(rows: Rows, protocol: Protocol = "paper") -> Folds:
    """Lists the real folds; a lane too small to have any is its own fold, validated on itself.

    The latter is the study's rule for at most three training rows: no search, and the validation
    AUC is the AUC on the training rows.
    """
    fold_mask, mask = np.asarray(rows.fold_mask), np.asarray(rows.train_mask)
    lane, fold = np.nonzero(fold_mask)
    val = np.asarray(rows.val)[lane, fold]
    alone = np.flatnonzero(~fold_mask.any(axis=1))
    train = np.concatenate([mask[lane] & ~val, mask[alone]])
    lane, val = np.concatenate([lane, alone]), np.concatenate([val, mask[alone]])
    return Folds(lane, train, val, train if protocol == "strict" else mask[lane])


def searched(rows: Rows) -> Bool[np.ndarray, " L"]:
    """Tells the lanes that have folds from those that are too small for a search."""
    return np.asarray(np.asarray(rows.fold_mask).any(axis=1))


def choose(
    predictions: Float[Array | np.ndarray, "Q P n"], which: Folds, rows: Rows, default: int = 0
) -> tuple[Float[np.ndarray, " L"], Int[np.ndarray, " L"]]:
    """Picks the candidate with the best mean validation AUC; of equal ones the first.

    Args:
      predictions: of each fold's fit for each of P candidates, on the lane's training rows; any
        score that grows with the probability of label 1. -inf throughout marks a candidate that
        the lane cannot have.
      which: the folds.
      rows: the lanes.
      default: the candidate of lanes that are too small for a search.

    Returns:
      Per lane, the mean validation AUC of the chosen candidate and its index.
    """
    y = np.asarray(rows.y_train)[which.lane]
    auc = np.asarray(_fold_auc(predictions, y, which.val), np.float64)  # [Q, P]
    lanes = len(rows.train)
    count = np.bincount(which.lane, minlength=lanes)
    mean = np.zeros((lanes, auc.shape[1]))
    np.add.at(mean, which.lane, auc)
    mean /= count[:, None]
    best = mean.argmax(axis=1)
    best[~searched(rows)] = default
    return mean[np.arange(lanes), best], best


def finish(
    rows: Rows,
    protocol: Protocol,
    *,
    val_auc: Float[np.ndarray, " L"],
    train_logits: Float[Array | np.ndarray, "L n"],
    test_logits: Float[Array | np.ndarray, "L m"],
    hyperparameter: Float[np.ndarray, " L"],
    gap: Float[Array | np.ndarray, " L"],
    code: Int[Array | np.ndarray, " L"],
) -> Scores:
    """Scores the final fits.

    A lane that was too small for a search has, as validation AUC, the AUC on its training rows
    under `paper` and 0.5 under `strict`, where no row may validate that was trained on. A lane that
    was not fitted, or has a logit that is not finite, has no certificate.

    Args:
      rows: the lanes.
      protocol: whose rules.
      val_auc: of the chosen candidates, from `choose`.
      train_logits: of the final fits on the training rows; positive predicts label 1.
      test_logits: on the test rows.
      hyperparameter: what was chosen; lanes without a search must hold the default.
      gap: certificates of the final fits.
      code: their result codes.
    """
    sound = _finite(train_logits, rows.train_mask) & _finite(test_logits, rows.test_mask)
    fitted = np.asarray(code) <= codes.MAX_TRIPS
    code = np.where(fitted & ~sound, codes.NON_FINITE, code)
    alone, *_ = _evaluate(train_logits, rows.y_train, rows.train_mask)
    if protocol == "strict":
        alone = np.where(np.isnan(alone), np.nan, 0.5)
    test = _evaluate(test_logits, rows.y_test, rows.test_mask)
    return Scores(
        np.where(searched(rows), val_auc, alone),
        *(np.asarray(metric) for metric in test),
        hyperparameter=np.asarray(hyperparameter, float),
        gap=np.where(fitted & sound, gap, np.nan),
        code=code,
    )


def _finite(logits, mask) -> Bool[np.ndarray, " L"]:
    return np.asarray((np.isfinite(np.asarray(logits)) | ~np.asarray(mask)).all(axis=1))


_fold_auc = jax.jit(jax.vmap(jax.vmap(metrics.auc, in_axes=(0, None, None)), in_axes=(0, 0, 0)))


@jax.jit
@jax.vmap
def _evaluate(logits: Float[Array, " m"], labels: Int[Array, " m"], mask: Bool[Array, " m"]):
    """Returns the metrics of `Scores` from test_auc to test_ece."""
    predicted = logits > 0
    return (
        metrics.auc(logits, labels, mask),
        metrics.accuracy(predicted, labels, mask),
        metrics.weighted_f1(predicted, labels, mask),
        metrics.tpr_at_fpr(logits, labels, mask),
        metrics.calibration_error(jax.nn.sigmoid(logits), labels, mask),
    )

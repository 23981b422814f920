"""What every method returns, and the skeleton of most: folds, path, choice, refit, scores."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num
from scipy.stats import rankdata

from probejax import metrics, sizes
from probejax.probes import methods
from probejax.probes.families import Probe
from probejax.probes.rows import Rows
from probejax.rules import PROTOCOLS as PROTOCOLS
from probejax.solvers import codes
from probejax.solvers.engine import each
from probejax.solvers.spread import over_lanes

Protocol = Literal["paper", "strict"]
_PREDICTIONS, _TESTS = 64, 16  # of one fit or probe each, that are judged together


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


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """Fitted probes and how good they are.

    Attributes:
      probe: the final probe of every lane, as one stack; or of the single problem that was fitted.
      scores: their results, a number per lane, or a single one.
      method: the name of the method, where it is known.
      rows: rows that were trained on, of the lanes together.
      classes: what the labels 0 and 1 stand for.
      test_logits: of the lanes' test rows, those that were scored; padding may be anything. None
        where several batches were joined.
    """

    probe: Probe
    scores: Scores
    method: str = ""
    rows: int = 0
    classes: tuple[Any, Any] = (0, 1)
    test_logits: Float[np.ndarray, "L m"] | None = None

    @property
    def val_auc(self):
        """Mean validation AUC over folds of the chosen hyperparameter."""
        return self.scores.val_auc

    @property
    def hyperparameter(self):
        """What was chosen: C, number of components, ...; NaN where there is nothing to choose."""
        return self.scores.hyperparameter

    @property
    def gap(self):
        """Certificate: bound on the relative suboptimality; NaN where there is none."""
        return self.scores.gap

    @property
    def code(self):
        """Result code, one of `probejax.solvers.codes`."""
        return self.scores.code

    def __getitem__(self, lane: int | np.ndarray) -> "Fit":
        """Returns the fit of one lane, or those of several."""
        single = Scores(*(leaf[lane] for leaf in self.scores))
        logits = None if self.test_logits is None else self.test_logits[lane]
        own = {"probe": self.probe[lane], "scores": single, "test_logits": logits}
        return dataclasses.replace(self, rows=0, **own)

    def __repr__(self) -> str:
        auc, chosen, gap, code = map(
            np.atleast_1d, (self.val_auc, self.hyperparameter, self.gap, self.code)
        )
        single, count = np.ndim(self.val_auc) == 0, len(auc)
        name = methods.CHOSEN.get(self.method, "C")
        parts = [self.method or type(self.probe).__name__]
        parts += [] if single else [f"{count:,} probes"]
        parts += [f"{self.rows:,} training rows"] if self.rows else []
        parts += [f"validation AUC {_range(auc, '.4f')}"]
        parts += [f"{name} {_range(chosen, 'g')}"] if np.isfinite(chosen).any() else []
        parts += [f"gap at most {np.nanmax(gap):.1e}"] if np.isfinite(gap).any() else ["no gap"]
        bad = int((code != codes.CONVERGED).sum())
        parts += [codes.NAMES[int(code[0])] if single else f"{count - bad:,} converged"]
        parts += [f"positive: {self.classes[1]!r}"] if self.classes != (0, 1) else []
        return f"Fit({', '.join(parts)})"


def _range(values: np.ndarray, form: str) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "nan"
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


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
        score that grows with the probability of label 1, to the precision of float32.
      which: the folds.
      rows: the lanes.
      default: the candidate of lanes that are too small for a search.

    Returns:
      Per lane, the mean validation AUC of the chosen candidate and its index.
    """
    y = np.asarray(rows.y_train)[which.lane]
    auc = fold_auc(np.asarray(predictions), y, which.val)
    lanes = len(rows.train)
    count = np.bincount(which.lane, minlength=lanes)
    mean = np.zeros((lanes, auc.shape[1]))
    np.add.at(mean, which.lane, auc)
    mean /= count[:, None]
    # A candidate without an AUC never wins; where none has one, the first stands for all.
    best = np.where(np.isnan(mean), -np.inf, mean).argmax(axis=1)
    best[~searched(rows)] = default
    return mean[np.arange(lanes), best], best


def search_and_refit(
    source: Any,
    rows: Rows,
    protocol: Protocol,
    grid: Num[np.ndarray, "*lanes P"],
    path: Callable[[Folds], Float[Array | np.ndarray, "Q P n"]],
    refit: Callable[[Num[np.ndarray, " L"]], tuple[Probe, Any, Any]],
    default: Num[np.ndarray, " L"] | float = np.nan,
) -> Fit:
    """Searches on the folds, fits what was chosen on all training rows, and scores the test rows.

    Args:
      source: of the rows of the lanes, as the probe reads it, see `Probe.source`.
      rows: the lanes.
      protocol: whose rules.
      grid: the P candidates, for all lanes or for each.
      path: fits every candidate on every fold, and returns the predictions on the lane's training
        rows, see `choose`.
      refit: given the chosen candidate of each lane, returns the probes, gaps and codes.
      default: the candidate of lanes that are too small for a search.
    """
    which, found = folds(rows, protocol), searched(rows)
    val_auc, best = choose(path(which), which, rows)
    grid = np.broadcast_to(grid, (len(best), np.shape(grid)[-1]))
    chosen = np.where(found, grid[np.arange(len(best)), best], default)
    probe, gap, code = refit(chosen)
    return finish(
        source, rows, protocol, probe, val_auc=val_auc, hyperparameter=chosen, gap=gap, code=code
    )


def finish(
    source: Any,
    rows: Rows,
    protocol: Protocol,
    probe: Probe,
    *,
    val_auc: Float[np.ndarray, " L"],
    hyperparameter: Num[np.ndarray, " L"],
    gap: Float[Array | np.ndarray, " L"],
    code: Int[Array | np.ndarray, " L"],
) -> Fit:
    """Scores the final probes.

    A lane that was too small for a search has, as validation AUC, the AUC on its training rows
    under `paper` and 0.5 under `strict`, where no row may validate that was trained on. A lane that
    was not fitted, or has a logit that is not finite, has no certificate.

    Args:
      source: of the rows of the lanes, as the probe reads it.
      rows: the lanes.
      protocol: whose rules.
      probe: the final probes, a stack.
      val_auc: of the chosen candidates, from `choose`.
      hyperparameter: what was chosen; lanes without a search must hold the default.
      gap: certificates of the final fits.
      code: their result codes.
    """
    alone = ~searched(rows)
    mask = np.asarray(rows.train_mask) & alone[:, None]
    if alone.any():
        ranks = _ranked(probe.of_rows(source, np.asarray(rows.train), mask), mask)
        own = fold_auc(ranks[:, None], np.asarray(rows.y_train), mask)[:, 0]
        own = np.where(np.isnan(own), np.nan, 0.5) if protocol == "strict" else own
        val_auc = np.where(alone, own, val_auc)
    test_rows, test_mask, y_test = map(np.asarray, (rows.test, rows.test_mask, rows.y_test))
    lanes, count = test_rows.shape
    if count:
        test_logits = np.asarray(probe.of_rows(source, test_rows, test_mask))
        low, ranks = test_logits.astype(np.float32), _ranked(test_logits, test_mask)
        test = each(_evaluate, (low, ranks, y_test, test_mask), _TESTS)
    else:
        test_logits, test = np.zeros((lanes, 0)), (np.full(lanes, np.nan),) * 5
    sound = (np.isfinite(test_logits) | ~test_mask).all(axis=1)
    fitted = np.asarray(code) <= codes.MAX_TRIPS
    found = Scores(
        np.asarray(val_auc),
        *test,
        hyperparameter=np.asarray(hyperparameter, float),
        gap=np.where(fitted & sound, gap, np.nan),
        code=np.where(fitted & ~sound, codes.NON_FINITE, code),
    )
    trained = int(np.asarray(rows.train_mask).sum())
    return Fit(probe, found, rows=trained, test_logits=test_logits)


def _ranked(logits, mask: Bool[np.ndarray, "L m"]) -> Float[np.ndarray, "L m"]:
    """Returns the ranks of each lane's logits, equal for equals, as float32 tells them apart.

    A row that the mask does not count has any; all are NaN where one that it counts has no logit.
    """
    logits = np.where(mask, np.asarray(logits), 0)
    broken = np.isnan(logits)
    ranks = rankdata(np.where(broken, 0, logits), method="dense", axis=1)
    return np.where(broken, np.nan, ranks).astype(np.float32)


def fold_auc(
    predictions: Float[np.ndarray, "Q P n"],
    y: Int[np.ndarray, "Q n"],
    mask: Bool[np.ndarray, "Q n"],
) -> Float[np.ndarray, "Q P"]:
    """Returns the AUC of every prediction of every fit on the rows that its mask counts."""
    fits, candidates, _ = predictions.shape
    size = sizes.up(int(mask.sum(axis=1).max(initial=0)), sizes.TRAIN)
    first = np.argsort(~mask, axis=1, kind="stable")[:, :size]  # those that count
    first = np.pad(first, ((0, 0), (0, size - first.shape[1])))
    counts = np.arange(size)[None, :] < mask.sum(axis=1)[:, None]

    def load(which):
        fit, own = which // candidates, first[which // candidates]
        flat = predictions[fit, which % candidates]
        return np.take_along_axis(flat, own, axis=1), y[fit[:, None], own], counts[fit]

    found = each(_auc, np.arange(fits * candidates), _PREDICTIONS, load=load)
    return found.reshape(fits, candidates).astype(np.float64)


_auc = over_lanes(jax.vmap(metrics.auc))


@over_lanes
@jax.vmap
def _evaluate(
    logits: Float[Array, " m"],
    ranks: Float[Array, " m"],
    labels: Int[Array, " m"],
    mask: Bool[Array, " m"],
):
    """Returns the metrics of `Scores` from test_auc to test_ece."""
    predicted = logits > 0
    return (
        metrics.auc(ranks, labels, mask),
        metrics.accuracy(predicted, labels, mask),
        metrics.weighted_f1(predicted, labels, mask),
        metrics.tpr_at_fpr(ranks, labels, mask),
        metrics.calibration_error(jax.nn.sigmoid(logits), labels, mask),
    )

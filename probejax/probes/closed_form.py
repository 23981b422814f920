"""Linear probes with a formula for the answer and nothing to choose."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import given, scores
from probejax.probes.logreg import centred, linear, rank_path
from probejax.probes.rows import Rows
from probejax.solvers import codes

Solve = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
_TOLERANCE = 1e-6


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol, solve: Solve
) -> scores.Fit:
    """Fits one probe per lane on all its training rows; the folds only say how good it may be.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; they differ for at most three rows only.
      solve: maps centred features, row numbers [Q, n], their mask and labels to weights [Q, d],
        intercepts [Q] and relative gaps [Q] of Q fits. Rows that are not finite reach it as zeros,
        and where a fit has one, or a single class, or an answer that overflows, zeros replace its
        answer.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    known, middle, usable = centred(features)
    train, mask, y = rows.train, rows.train_mask, rows.y_train

    def solved(train, mask, y):
        code = codes_of(usable, train, mask, y)
        with np.errstate(all="ignore"):  # what overflows is told by the code, not by a warning
            w, b, gap = solve(known, train, mask, y)
        finite = np.isfinite(w).all(axis=1) & np.isfinite(b)
        code = np.where((code == codes.CONVERGED) & ~finite, codes.NON_FINITE, code)
        good = code == codes.CONVERGED
        code = np.where(good & ~(gap <= _TOLERANCE), codes.MAX_TRIPS, code)
        w, b = np.where(good[:, None], w, 0), np.where(good, b, 0)
        return linear(w, b, middle), np.where(good, gap, np.nan), code

    def path(folds):
        probe, *_ = solved(train[folds.lane], folds.train, y[folds.lane])
        return rank_path(known, train[folds.lane], folds.val, np.asarray(probe.w)[:, None])

    def refit(_):
        return solved(train, mask, y)

    return scores.search_and_refit(features, rows, protocol, np.array([np.nan]), path, refit)


def codes_of(
    usable: Bool[np.ndarray, " N"],
    rows: Int[np.ndarray, "Q n"],
    mask: Bool[np.ndarray, "Q n"],
    y: Int[np.ndarray, "Q n"],
) -> Int[np.ndarray, " Q"]:
    """Returns the code of each exact fit: its rows may be unusable, or of one class.

    Args:
      usable: whether each row of the features is finite.
      rows: of each fit.
      mask: which of them count.
      y: their labels.
    """
    finite = (usable[rows] | ~mask).all(axis=1)
    positives, count = (mask & (y == 1)).sum(axis=1), mask.sum(axis=1)
    two = (positives > 0) & (positives < count)
    return np.where(finite, np.where(two, codes.CONVERGED, codes.DEGENERATE), codes.NON_FINITE)

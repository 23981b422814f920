"""Other people's solvers of one logistic regression, and which of them is fastest at what accuracy.

All minimise the same thing, the intercept free: C sum_i log-loss + 0.5 |w|^2, or + |w|_1.
"""

import importlib.util
import time
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

TOLERANCES = np.logspace(-1, -12, 23)
_MOST_ITERATIONS = 20_000
_MOST_OUTER = 100  # iterations of those that make many inner ones in each
_PATIENCE = 10.0  # seconds of one fit after which a solver is not among the fastest


class Choice(NamedTuple):
    """What to run for one problem.

    seconds: what it took; gap: by how much its objective is above the best, relative to that.
    """

    solver: str
    tolerance: float
    max_iter: int
    seconds: float
    gap: float


def objective(x, y, C, w, b, penalty):
    """In float64."""
    margins = (2.0 * y - 1) * (x.astype(np.float64) @ np.asarray(w, np.float64) + float(b))
    w = np.asarray(w, np.float64)
    size = 0.5 * w @ w if penalty == "l2" else np.abs(w).sum()
    return size + C * np.logaddexp(0, -margins).sum()


def _l2(solver, dtype):
    def fit(x, y, C, tol, max_iter):
        mean = x.mean(axis=0, dtype=np.float64)  # of no consequence for the minimum
        centred = (x - mean).astype(dtype)
        model = LogisticRegression(C=C, solver=solver, tol=tol, max_iter=max_iter).fit(centred, y)
        w = model.coef_[0].astype(np.float64)
        return w, model.intercept_[0] - w @ mean

    return fit


def _saga(x, y, C, tol, max_iter):
    model = LogisticRegression(
        l1_ratio=1.0, C=C, solver="saga", tol=tol, max_iter=max_iter, random_state=1
    ).fit(x, y)
    return model.coef_[0], model.intercept_[0]


def _liblinear(scaling):
    def fit(x, y, C, tol, max_iter):
        # The library penalises the intercept; a large scaling makes that cheap.
        model = LogisticRegression(
            l1_ratio=1.0,
            C=C,
            solver="liblinear",
            tol=tol,
            max_iter=max_iter,
            intercept_scaling=scaling,
            random_state=1,
        ).fit(x.astype(np.float64), y)
        return model.coef_[0], model.intercept_[0]

    return fit


def _skglm(x, y, C, tol, max_iter):
    from skglm import SparseLogisticRegression

    most = min(max_iter, _MOST_OUTER)
    model = SparseLogisticRegression(alpha=1 / (C * len(y)), tol=tol, max_iter=most)
    model.fit(np.asfortranarray(x, np.float64), y)
    return model.coef_[0], np.ravel(model.intercept_)[0]


def _celer(x, y, C, tol, max_iter):
    import celer

    scale = 1e3 * np.abs(x).max()  # it has no intercept: a column whose weight costs little
    wide = np.asfortranarray(np.c_[x, np.full(len(x), scale)], np.float64)
    most = min(max_iter, _MOST_OUTER)
    model = celer.LogisticRegression(C=C, tol=tol, max_iter=most).fit(wide, y)
    return model.coef_[0][:-1], model.coef_[0][-1] * scale


# Those that are usually fast come first: the others stop when they have taken longer.
SOLVERS = {
    "l2": {
        f"{solver} {dtype.__name__}": _l2(solver, dtype)
        for solver in ("newton-cholesky", "lbfgs", "newton-cg")
        for dtype in (np.float32, np.float64)
    },
    "l1": {
        "skglm": _skglm,
        "celer": _celer,
        "liblinear 1e4": _liblinear(1e4),
        "liblinear 1e3": _liblinear(1e3),
        "saga": _saga,
    },
}


def installed(penalty):
    """Names of the solvers that can run here."""
    optional = {"skglm", "celer"}
    return [s for s in SOLVERS[penalty] if s not in optional or importlib.util.find_spec(s)]


def fastest(x, y, C, penalty, best, gap=1e-6):
    """Finds the solver and the loosest tolerance of each that reach a relative gap; the fastest.

    Args:
      x: features.
      y: labels.
      C: inverse strength.
      penalty: `l1` or `l2`.
      best: the smallest known objective.
      gap: relative excess over it that is allowed.

    Returns:
      A Choice, or None if no solver gets there.
    """
    found = None
    for name in installed(penalty):
        fit, values = SOLVERS[penalty][name], []
        most = _MOST_ITERATIONS
        if found:
            few = 2 if "newton" in name else 10
            for _ in range(2):  # the first compiles, where there is something to compile
                took, _ = _timed(fit, x, y, C, 1e-300, few)
            most = min(most, max(few, int(1.2 * few * found.seconds / took)))
        for tolerance in TOLERANCES.tolist():
            took, solution = _timed(fit, x, y, C, tolerance, most)
            value = np.inf if solution is None else objective(x, y, C, *solution, penalty)
            excess = value / best - 1
            if excess <= gap:
                if found is None or took < found.seconds:
                    found = Choice(name, tolerance, most, took, float(excess))
                break
            values.append(value)
            stalled = len(values) > 5 and len(set(values[-6:])) == 1
            if stalled or took > (found.seconds if found else _PATIENCE):
                break
    return found


def _timed(fit, *problem):
    """Returns seconds of the processor, of which there is one, and w and b."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            solution = fit(*problem)
        except (ValueError, AttributeError, TypeError, np.linalg.LinAlgError):
            solution = None  # it gave up, or does not fit this scikit-learn
    return time.process_time() - began, solution


def planned(choices, penalty):
    """Returns fit(x, y, C) that runs what was chosen for each C; without a choice, nothing."""

    def fit(x, y, C):
        if C not in choices:
            return np.zeros(x.shape[1]), 0.0
        choice = choices[C]
        run = SOLVERS[penalty][choice.solver]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(x, y, C, choice.tolerance, choice.max_iter)

    return fit

"""The study's logistic probes for one training set, from docs/paper.md parts 2 and 3, in float64.

Slow and plain. L2 problems go to scikit-learn; L1 problems to L-BFGS-B on w = p - q with p, q >= 0,
polished by Newton steps on the support, because saga stops far from the minimum.
"""

import itertools
import warnings

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

GRID = np.logspace(5, -5, 10)


def folds(y, seed=42):
    """(training positions, validation positions) of every fold."""
    n = len(y)
    if n <= 3:
        return []
    if n <= 12:
        validation = [np.array(pair) for pair in itertools.combinations(range(n), 2)]
    elif n < 128:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            splitter = StratifiedKFold(6, shuffle=True, random_state=seed)
            validation = [part for _, part in splitter.split(y, y)]
    else:
        validation = [np.arange(n - min(int(0.2 * n), 100), n)]
    if n < 128:
        validation = [part for part in validation if len(set(y[part])) == 2]
    return [(np.setdiff1d(np.arange(n), part), part) for part in validation]


def fit_l2(x, y, C):
    """Returns w and b of 0.5 |w|^2 + C sum log-loss."""
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-9, max_iter=1000).fit(x, y)
    return model.coef_[0], model.intercept_[0]


def fit_l1(x, y, C):
    """Returns w and b of |w|_1 + C sum log-loss, and by how much they miss optimality."""
    d, t = x.shape[1], 2.0 * y - 1

    def value(v):  # of the objective divided by C, which L-BFGS-B digests better
        margins = t * (x @ (v[:d] - v[d:-1]) + v[-1])
        slope = t * _sigmoid(-margins)
        to_w = -(x.T @ slope)
        total = v[:-1].sum() / C + np.logaddexp(0, -margins).sum()
        return total, np.r_[1 / C + to_w, 1 / C - to_w, -slope.sum()]

    bounds = [(0, None)] * (2 * d) + [(None, None)]
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-6 / C, "maxcor": 50}
    start = np.r_[np.zeros(2 * d), np.log(y.mean() / (1 - y.mean()))]
    v = minimize(value, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    w = v[:d] - v[d:-1]
    w[np.abs(w) < 1e-7 * np.abs(w).max(initial=1e-300)] = 0
    return _polish(x, t, C, w, v[-1])


def _sigmoid(m):
    return 0.5 * (1 + np.tanh(m / 2))


def _polish(x, t, C, w, b):
    """Damped Newton steps on the support; a weight that would cross zero stops there."""

    def objective(w, b):
        return np.abs(w).sum() + C * np.logaddexp(0, -t * (x @ w + b)).sum()

    for _ in range(300):
        on, signs = np.flatnonzero(w), np.sign(w)
        p = _sigmoid(-t * (x @ w + b))
        slope = C * x.T @ (t * p)
        inside = max(np.abs(slope[on] - signs[on]).max(initial=0), C * abs((t * p).sum()))
        miss = max(np.abs(slope).max() - 1, inside)
        if miss < 1e-7:
            break
        if inside < 1e-8:  # the support is too small: the worst of the other weights joins
            worst = np.abs(slope).argmax()
            w[worst] = 1e-9 * np.sign(slope[worst])
            continue
        design = np.c_[x[:, on], np.ones(len(x))]
        gradient = np.r_[signs[on], 0] - C * design.T @ (t * p)
        hessian = C * (design.T * (p * (1 - p))) @ design
        for damping in np.r_[0, np.logspace(-15, 3, 19)] * max(np.trace(hessian), 1e-300):
            damped = hessian + damping * np.eye(len(hessian))
            step = np.linalg.lstsq(damped, gradient, rcond=1e-15)[0]
            crossing = (w[on] - step[:-1]) * signs[on] <= 0
            share = np.min(w[on][crossing] / step[:-1][crossing], initial=1.0)
            new_w, new_b = w.copy(), b - share * step[-1]
            new_w[on] -= share * step[:-1]
            if share < 1:  # the first to reach zero
                new_w[on[crossing][np.argmin(w[on][crossing] / step[:-1][crossing])]] = 0
            if objective(new_w, new_b) <= objective(w, b):
                break
        w, b = new_w, new_b
    return w, b, miss


def search(x, y, fit):
    """Returns the mean validation AUC of every C of the grid."""
    means = []
    for C in GRID:
        aucs = []
        for train, part in folds(y):
            if len(set(y[train])) < 2:
                aucs.append(0.5)
                continue
            w, _, *miss = fit(x[train], y[train], C)
            assert max(miss, default=0) < 1e-4, f"the reference missed the minimum by {miss}"
            aucs.append(roc_auc_score(y[part], np.round(x[part] @ w, 9)))
        means.append(np.mean(aucs))
    return np.array(means)


def probe(x, y, x_test, y_test, fit):
    """Returns val_auc, C, the validation AUCs of the grid, test AUC, accuracy and weighted F1."""
    means = search(x, y, fit) if folds(y) else None
    C = 1.0 if means is None else GRID[means.argmax()]
    w, b = fit(x, y, C)[:2]
    val = roc_auc_score(y, x @ w) if means is None else means.max()
    logits = x_test @ w + b
    return {
        "C": C,
        "means": means,
        "val_auc": val,
        "test_auc": roc_auc_score(y_test, logits),
        "test_acc": accuracy_score(y_test, logits > 0),
        "test_f1": f1_score(y_test, logits > 0, average="weighted"),
    }


def rank(latents, y, k, normalised):
    """Returns the k latents with the largest class-mean difference, best first."""
    z = latents
    if normalised:
        z = z / (z.sum(axis=0) / ((z != 0).sum(axis=0) + 1e-6) + 1e-6)
    score = np.abs(z[y == 1].mean(axis=0) - z[y == 0].mean(axis=0))
    return np.argsort(-score, kind="stable")[:k]

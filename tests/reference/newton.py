"""L2 logistic regression on a few features of each lane, by plain Newton steps in float64."""

import numpy as np

from probejax.solvers.codes import CONVERGED, DEGENERATE, Solution


def fit(z, y, C):
    """Returns w and b of 0.5 |w|^2 + C sum log-loss."""
    design = np.c_[z, np.ones(len(z))]
    t, penalty = 2.0 * y - 1, np.r_[np.ones(z.shape[1]), 0]
    objective = lambda v: 0.5 * penalty @ v**2 + C * np.logaddexp(0, -t * (design @ v)).sum()
    v = np.zeros(z.shape[1] + 1)
    for _ in range(100):
        p = 0.5 * (1 - np.tanh(t * (design @ v) / 2))
        gradient = penalty * v - C * design.T @ (t * p)
        if np.abs(gradient).max() < 1e-9 * C:
            break
        hessian = (C * p * (1 - p) * design.T) @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        lengths = 0.5 ** np.arange(20)
        v = min((v - length * step for length in lengths), key=objective)
    return v[:-1], v[-1]


def solve_features(z, mask, y, C, *, tolerance=1e-6):
    """As `solvers.l2.solve_features`."""
    z, mask, y = np.asarray(z, float), np.asarray(mask), np.asarray(y)
    w, b = np.zeros((len(z), z.shape[2])), np.zeros(len(z))
    code = np.full(len(z), DEGENERATE)
    for lane in range(len(z)):
        rows = mask[lane]
        if len(set(y[lane][rows])) == 2:
            w[lane], b[lane] = fit(z[lane][rows], y[lane][rows], C[lane])
            code[lane] = CONVERGED
    none = np.zeros(len(z), np.float32)
    return Solution(w.astype(np.float32), b.astype(np.float32), none, none, code, none.astype(int))

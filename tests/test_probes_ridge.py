"""Ridge classification against scikit-learn, in both forms, and what it says of itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from probejax.probes import batches, ridge
from probejax.probes.logreg import STRENGTHS
from probejax.solvers import codes
from probejax.solvers import ridge as solver
from tests import probe_cases


def problem(d, seed=0):
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, d))
    x = rng.normal(size=(len(y), d)) * np.geomspace(0.1, 30, d)
    x[:, 0] += 0.2 * y
    return (5 + x).astype(np.float32), y


@pytest.mark.parametrize("d", [6, 90])
def test_every_strength_against_scikit_learn(d):
    x, y = problem(d)
    rows = np.stack([np.random.default_rng(i).permutation(len(y))[:64] for i in (0, 1, 1)])
    mask = np.arange(64)[None] < np.array([[64], [50], [50]])
    labels = np.stack([y[rows[0]], y[rows[1]], 1 - y[rows[2]]])  # the last two share a factor
    found = solver.solve_path(x - x.mean(axis=0), rows, mask, labels, STRENGTHS)
    assert (found.code == codes.CONVERGED).all() and (found.gap <= 1e-6).all()
    for lane in range(3):
        own, t = x[rows[lane][mask[lane]]] - x.mean(axis=0), labels[lane][mask[lane]]
        for number, C in enumerate(STRENGTHS):
            sk = RidgeClassifier(alpha=1 / C, solver="svd").fit(own.astype(float), t)
            np.testing.assert_allclose(
                found.w[lane, number], sk.coef_.ravel(), rtol=1e-3, atol=1e-5
            )
            logits = own @ found.w[lane, number] + found.b[lane, number]
            np.testing.assert_allclose(logits, sk.decision_function(own), atol=1e-3)


def test_the_bound_is_above_what_is_lost_and_small_only_near_the_answer():
    x, y = problem(20)
    rows, mask = np.arange(60)[None], np.ones((1, 60), bool)
    found = solver.solve(x, rows, mask, y[None, :60], np.array([0.3]))
    best = RidgeClassifier(alpha=1 / 0.3, solver="svd").fit(x[:60].astype(float), y[:60])
    t = 2 * y[:60] - 1

    def objective(w, b):
        return 0.5 * w @ w + 0.15 * ((t - x[:60] @ w - b) ** 2).sum()

    ours = objective(found.w[0].astype(float), float(found.b[0]))
    least = objective(best.coef_.ravel(), best.intercept_.ravel()[0])
    np.testing.assert_allclose(found.objective[0], ours, rtol=1e-6)
    assert (ours - least) / ours <= found.gap[0] + 1e-12


def test_a_single_class_and_the_search():
    x, y = problem(6)
    found = probe_cases.conditions(y, (3, 40, 140))
    for _, rows in batches(found, probe_cases.GROUPS):
        fitted = ridge.fit(jnp.asarray(x), rows)
        assert (fitted.code == codes.CONVERGED).all() and (fitted.gap <= 1e-6).all()
        alone = ridge.fit(jnp.asarray(x), type(rows)(*(leaf[:1] for leaf in rows)))
        np.testing.assert_array_equal(alone.probe.w[0], fitted.probe.w[0])
    one = (np.arange(9)[None], np.ones((1, 9), bool), np.ones((1, 9), int), np.ones(1))
    code = solver.solve(x, *one)
    assert code.code[0] == codes.DEGENERATE and not code.w.any() and np.isnan(code.gap[0])

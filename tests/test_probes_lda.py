"""The shrunk linear discriminant, against scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probejax.probes import lda
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_closed_form


def problem(d, signal=0.4, seed=0, n=probe_cases.N_TASK):
    """Correlated features on a mean far from zero, in columns of different scale."""
    y = np.random.default_rng(seed).permutation(np.arange(n) % 2)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.sqrt(d) + np.eye(d))
    x = x + signal * np.outer(2 * y - 1, rng.normal(size=d))
    return (300 + x * np.geomspace(0.1, 30, d)).astype(np.float32), y


@pytest.mark.parametrize("n, d", [(60, 12), (60, 300), (400, 12), (300, 280), (300, 320), (5, 40)])
def test_weights_equal_to_scikit_learn(n, d):
    x, y = problem(d, n=n + 8)
    x[:, 3] = 7000.25  # no variance in either class
    x[y == 1, 5] = -3.5  # none in one class
    mask = np.arange(n + 8) < n
    centre = x.mean(axis=0)
    fit = jax.jit(lda.discriminant)
    w, b, _ = fit(jnp.asarray(x - centre), jnp.asarray(mask), jnp.asarray(y))
    exact = (x - centre).astype(float)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(exact[:n], y[:n])
    scores = theirs.decision_function(exact)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=2e-4 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(exact @ np.asarray(w) + b, scores, atol=1e-4 * np.ptp(scores))


@pytest.mark.parametrize("d, noise", [(12, 0.2), (200, 0.0)])
def test_against_the_reference_with_its_folds(d, noise):
    x, y = problem(d)
    found = probe_cases.conditions(y, noise=noise)
    ours = probe_cases.run(lambda rows: lda.fit(jnp.asarray(x), rows), found)
    exact = x.astype(float)
    for lane, condition in enumerate(found):
        theirs = study_closed_form.probe(
            exact[condition.train],
            condition.y_train,
            exact[condition.test],
            condition.y_test,
            study_closed_form.lda,
        )
        for name in ("val_auc", "test_auc"):
            np.testing.assert_allclose(ours[lane][name], theirs[name], atol=1e-3, err_msg=name)
        for name in ("test_acc", "test_f1"):
            np.testing.assert_allclose(ours[lane][name], theirs[name], atol=0.01, err_msg=name)
        assert ours[lane]["code"] == codes.CONVERGED and 0 <= ours[lane]["gap"] <= 1e-6
        assert np.isnan(ours[lane]["hyperparameter"])


def test_two_rows_of_a_class_give_a_diagonal_covariance():
    x, y = problem(30)
    rows = np.r_[np.flatnonzero(y == 0)[:2], np.flatnonzero(y == 1)[:2]]
    fit = jax.jit(lda.discriminant)
    w, b, _ = fit(jnp.asarray(x[rows]), jnp.ones(4, bool), jnp.asarray(y[rows]))
    expected = study_closed_form.lda(x[rows].astype(float), y[rows])
    np.testing.assert_allclose(w, expected[0], rtol=1e-3)
    np.testing.assert_allclose(b, expected[1], rtol=1e-3)


@pytest.mark.parametrize("n, d", [(150, 20), (60, 90)])
def test_the_gap_is_above_what_the_weights_lose(n, d, monkeypatch):
    """By scikit-learn's covariance in float64; a solution that is spoilt shows it."""
    x, y = problem(d)
    x, y = x[:n] - x[:n].mean(axis=0), y[:n]
    exact = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage="auto", store_covariance=True, priors=[1 - y.mean(), y.mean()]
    ).fit(x.astype(float), y)
    v = x[y == 1].astype(float).mean(axis=0) - x[y == 0].astype(float).mean(axis=0)
    objective = lambda w: 0.5 * w @ exact.covariance_ @ w - v @ w
    least = objective(np.linalg.solve(exact.covariance_, v))
    for spoilt in (0, 1e-3, 0.1):
        true = lda._solver
        worse = lambda a, true=true, spoilt=spoilt: lambda v: (1 - spoilt) * true(a)(v)
        with monkeypatch.context() as patch:
            patch.setattr(lda, "_solver", worse)
            w, _, gap = lda.discriminant(*map(jnp.asarray, (x, np.ones(n, bool), y)))
        excess = (objective(np.asarray(w, float)) - least) / abs(least)
        assert excess <= gap + 1e-6, spoilt
        assert (gap > 1e-6) == (spoilt == 0.1)  # one step of refinement mends the second

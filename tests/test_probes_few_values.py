"""Rows that people have and that leave little to learn: equal ones, features of one or two values.

Whatever they are, a probe of finite rows of two classes is fitted, and its certificate holds.
"""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import probejax as px
from probejax import probes
from probejax.solvers import codes

ROWS = 20  # of which 7 are of class 1


def _cases(d):
    """Yields a name, features [20, d] and labels."""
    rng = np.random.default_rng(d)
    y = np.arange(ROWS) < 7
    free = rng.normal(size=(ROWS, d)).astype(np.float32)
    pairs = free[2 * y + np.arange(ROWS) % 2]
    yield "all rows equal", np.broadcast_to(free[0], free.shape), y
    yield "nothing but zeros", 0 * free, y
    yield "nearly nothing", 1e-6 * free, y
    yield "one class's rows equal", np.where(y[:, None], free[0], free), y
    yield "both classes' rows equal", free[y.astype(int)], y
    yield "the same two rows in both classes", free[np.arange(ROWS) % 2], y
    yield "two rows in each class", pairs, y
    yield "features of two values", (free > 0).astype(np.float32), y
    yield "features of one value", np.where(np.arange(d) % 2, free, 3), y
    yield "one row stands apart", np.where(np.arange(ROWS)[:, None] == 9, 1e4 * free, free[:1]), y


SOON = [("lda", 30), ("lda", 1), ("logreg", 30), ("mean_difference", 30), ("knn", 30)]
REST = {(method, d) for method in probes.BASELINES for d in (1, 30) if method != "xgboost"}


@pytest.mark.parametrize(
    "method, d",
    [*SOON, *(pytest.param(*each, marks=pytest.mark.thorough) for each in sorted(REST - {*SOON}))],
)
def test_what_is_finite_is_fitted(method, d):
    names, features, labels = zip(*_cases(d), strict=True)
    x = np.concatenate(features)
    rows = np.arange(len(x)).reshape(-1, ROWS)
    found = px.fit_lanes(x, rows, np.stack(labels), method)
    wrong = found.scores.code != codes.CONVERGED
    if method == "ridge":  # weights rounded to float32 cost an interpolating fit a little more
        wrong = ~(found.scores.gap <= 1e-5)
    elif method != "mlp":  # which has no certificate
        wrong |= ~(found.scores.gap <= 1e-6)
    assert [name for name, bad in zip(names, wrong, strict=True) if bad] == []
    assert np.isfinite(found.probe(x)).all() and np.isfinite(found.scores.val_auc).all()


def test_lda_of_equal_rows_whose_features_are_of_very_different_spread():
    """Inner products of 1e17 beside the identity: met with two equal prompts of five."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 40))
    x[0] = x[1]
    y = np.array([1, 1, 1, 0, 0])
    x[y == 1] *= np.geomspace(1e-3, 1, 40)  # where a class has next to no spread the other has much
    x = np.concatenate([x, rng.normal(size=(50, 40))]).astype(np.float32)
    found = px.fit_lanes(x, np.arange(5)[None], y[None], "lda")
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[:5].astype(float), y)
    expected = theirs.decision_function(x.astype(float))
    assert found.scores.code[0] == codes.CONVERGED
    np.testing.assert_allclose(found.probe(x)[0], expected, atol=1e-4 * np.ptp(expected))

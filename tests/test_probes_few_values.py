"""Rows that people have and that leave little to learn: equal ones, features of one or two values.

Whatever they are, a probe of finite rows of two classes is fitted, and its certificate holds.
"""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import probejax as px
from probejax import probes
from probejax.solvers import codes
from tests import probe_cases

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
    if method in ("ridge", "pca"):  # rounding of weights costs interpolation, or a far mean, more
        wrong = ~(found.scores.gap <= 1e-5)
    elif method == "mlp":  # without certificate; rounding decides whether 1,000 epochs are enough
        wrong = ~np.isin(found.scores.code, (codes.CONVERGED, codes.MAX_TRIPS))
    else:
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


FAST = ("mean_difference", "ridge", "knn")
EVERY = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.thorough)
    for name in probes.BASELINES
    if name != "xgboost"
]


def _signal(scale=1.0):
    """Features [200, 12], the first of which tells the classes apart, and labels."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 12))
    y = x[:, 0] + 0.4 * rng.normal(size=200) > 0
    return (scale * x).astype(np.float32), y


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("scale", [1e-10, 1e4, 1e8])
def test_what_is_called_converged_is_a_probe_at_any_scale(method, scale):
    x, y = _signal(scale)
    with np.errstate(all="ignore"):
        found = px.fit(x, y, method)
    assert np.isfinite(found.probe(x)).all()
    if found.code == codes.CONVERGED:
        # Where features are tiny the penalty leaves the intercept alone.
        small = scale == 1e-10 and method in ("logreg", "logreg_l1", "ridge")
        assert found.val_auc > 0.8 or small
        assert found.gap <= 1e-6 or method == "mlp"


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("value", [1e10, 1e20, np.nan])
def test_a_row_that_no_lane_names_may_hold_anything(method, value):
    x, y = _signal()
    other = x.copy()
    other[150] = value
    rows = np.stack([np.arange(100), np.arange(40, 140)])
    fits = [px.fit_lanes(each, rows, y, method) for each in (x, other)]
    (theirs, ours), new = ([fit.val_auc for fit in fits], x[151:])
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    atol = 0.5 if method == "mlp" else 1e-2  # whose rounding grows over its epochs
    logits = [np.asarray(fit.probe(new)) for fit in fits]
    np.testing.assert_allclose(*logits, atol=atol * np.abs(logits[0]).max())


@pytest.mark.parametrize("size", [1e-20, 1e18])
def test_neighbours_are_the_same_whatever_unit_a_feature_has(size):
    x, y = _signal()
    other = x.copy()
    other[:, 5] *= np.float32(size)
    fits = [px.fit_lanes(each, np.arange(100)[None], y, "knn") for each in (x, other)]
    assert fits[0].val_auc == fits[1].val_auc
    np.testing.assert_array_equal(
        *(f.probe(z[100:]) for f, z in zip(fits, (x, other), strict=True))
    )


def test_a_candidate_that_broke_down_is_not_chosen():
    ((_, rows),) = probes.batches(probe_cases.conditions(probe_cases.labels(), (60,)))
    folds = probes.scores.folds(rows, "strict")
    good = np.where(rows.y_train == 1, 1.0, 0.0)[folds.lane]
    broken = np.where(np.arange(len(good))[:, None] == 0, np.nan, good)  # in one fold alone
    auc, best = probes.scores.choose(np.stack([broken, good], axis=1), folds, rows)
    assert auc[0] == 1 and best[0] == 1
    auc, best = probes.scores.choose(np.stack([broken, broken], axis=1), folds, rows)
    assert np.isnan(auc[0]) and best[0] == 0

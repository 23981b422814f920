"""L2 paths against scikit-learn in float64, and what a certificate must guarantee."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probejax import sizes
from probejax.solvers import codes, l2, l2_float64

STRENGTHS = np.logspace(5, -5, 10)
N, D = 60, 12


def objective(x, y, w, b, C):
    margin = (2 * y - 1) * (x @ w + b)
    return 0.5 * w @ w + C * np.logaddexp(0, -margin).sum()


def best_of_sklearn(x, y, C):
    found = []
    for solver in ("lbfgs", "newton-cholesky"):
        fit = LogisticRegression(C=C, solver=solver, tol=1e-12, max_iter=20_000).fit(x, y)
        found.append(objective(x, y, fit.coef_[0], fit.intercept_[0], C))
    return min(found)


@pytest.fixture(scope="module")
def lanes():
    """Separable, noisy, tiny, unbalanced, one-class and damaged problems over one matrix."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, D)).astype(np.float32)
    x[:, 3] = 700 + 80 * x[:, 3]  # a dimension that dwarfs the others, as Gemma's does
    x -= x.mean(axis=0)
    x[199, 0] = np.nan
    truth = (x[:, 0] + x[:, 1] + 0.02 * x[:, 3] > 0).astype(int)
    rows = np.stack([rng.permutation(190)[:N] for _ in range(6)]).astype(np.int32)
    y = np.nan_to_num(truth)[rows]
    mask = np.ones((6, N), bool)
    flips = rng.random(N) < 0.3
    y[1, flips] = 1 - y[1, flips]
    mask[2, 6:] = False
    y[2, :6] = (0, 1, 0, 1, 1, 0)
    mask[3, :20] = False  # what counts comes last
    y[3] = np.arange(N) % 7 == 0
    y[4] = 1
    rows[5, 0] = 199
    rows[3, :20] = 199  # padding may hold anything
    return x, rows, mask, y.astype(np.int32)


@pytest.fixture(scope="module")
def path(lanes):
    return l2.solve_path(*lanes, STRENGTHS, batch=8)


@pytest.mark.filterwarnings("ignore")  # scikit-learn says when its own tolerance is out of reach
@pytest.mark.parametrize("lane", [0, 1, 2, 3])
def test_objective_is_the_best_known_and_the_gap_bounds_the_rest(lanes, path, lane):
    x, rows, mask, y = lanes
    features = x[rows[lane][mask[lane]]].astype(np.float64)
    labels = y[lane][mask[lane]]
    assert (path.code[lane] == codes.CONVERGED).all()
    assert (path.gap[lane] <= 1e-6).all()
    for p, C in enumerate(STRENGTHS):
        best = best_of_sklearn(features, labels, C)
        ours = objective(features, labels, path.w[lane, p].astype(float), path.b[lane, p], C)
        assert ours <= best * (1 + 3e-6), (lane, C)  # 1e-6, and the rounding of w to float32
        assert path.objective[lane, p] * (1 - path.gap[lane, p]) <= best * (1 + 1e-6)


def test_codes(path):
    assert (path.code[4] == codes.DEGENERATE).all()
    assert (path.code[5] == codes.NON_FINITE).all()
    assert np.isnan(path.gap[4:]).all() and np.isfinite(path.gap[:4]).all()
    assert not path.w[4:].any() and not path.b[4:].any()


def test_a_lane_does_not_depend_on_its_neighbours(lanes, path):
    x, rows, mask, y = lanes
    for lane in (0, 1, 3):
        one = [array[lane : lane + 1] for array in (rows, mask, y)]
        for leaf, whole in zip(l2.solve_path(x, *one, STRENGTHS, batch=8), path, strict=True):
            np.testing.assert_array_equal(leaf[0], whole[lane])
        alone = l2.solve_path(x, *one, STRENGTHS)  # another program: other rounding
        np.testing.assert_allclose(alone.objective[0], path.objective[lane], rtol=1e-6)


def test_single_strengths_equal_the_path(lanes, path):
    x, rows, mask, y = lanes
    picks = np.array([3, 5, 0, 9, 1, 2])
    single = l2.solve(x, rows, mask, y, STRENGTHS[picks])
    chosen = path.objective[np.arange(6), picks]
    np.testing.assert_allclose(single.objective, chosen, rtol=2e-6)
    assert (single.code[:4] == codes.CONVERGED).all()


def test_too_few_trips_say_so(lanes):
    short = l2.solve_path(*(lanes[0], *(a[1:2] for a in lanes[1:])), STRENGTHS, max_trips=1)
    assert (short.code == codes.MAX_TRIPS).any()
    assert (short.gap[short.code == codes.MAX_TRIPS] > 1e-6).all()


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_both_forms_find_the_same_minimum(noise):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(64, 20)) * np.geomspace(0.01, 300, 20)).astype(np.float32)
    y = (x[:, 5] > 0) ^ (rng.random(64) < noise)
    rows = np.arange(64)[None]
    lanes = (rows, np.ones((1, 64), bool), y[None].astype(np.int32))
    wide = np.pad(x, ((0, 0), (0, 80)))  # no longer fewer columns than rows
    by_features, by_samples = (l2.solve_path(each, *lanes, STRENGTHS) for each in (x, wide))
    for found in (by_features, by_samples):
        assert (found.code == codes.CONVERGED).all()
    np.testing.assert_allclose(by_features.objective, by_samples.objective, rtol=2e-6)
    assert not by_samples.w[:, :, 20:].any()


def test_rows_of_low_rank_whose_labels_contradict_are_certified():
    """In sample space nothing determines a part of the solution, and rounding adds up there."""
    rng, count, n, rank = np.random.default_rng(0), 24, 64, 20
    x = (rng.normal(size=(count * n, rank)) * np.geomspace(0.1, 100, rank)).astype(np.float32)
    y = ((x[:, 5] > 0) ^ (rng.random(count * n) < 0.3)).astype(np.int32).reshape(count, n)
    lanes = (np.arange(count * n).reshape(count, n), np.ones((count, n), bool), y)
    wide = np.pad(x, ((0, 0), (0, n)))  # fewer rows than columns, but of rank 20
    found, expected = (l2.solve_path(each, *lanes, STRENGTHS) for each in (wide, x))
    assert (found.code == codes.CONVERGED).all() and (found.gap <= 1e-6).all()
    np.testing.assert_allclose(found.objective, expected.objective, rtol=2e-6)


@pytest.mark.parametrize("n", sizes.TRAIN)
def test_inner_products_of_one_lane_are_hardly_padded(n):
    x = np.ones((n, n + 1), np.float32)
    found = l2_float64.products(x, np.arange(n)[None], np.ones((1, n), bool))
    assert found.gram is not None
    rows = len(found.gram)
    assert rows <= max(n, sizes.SHARED[0])


@pytest.mark.parametrize("columns", [D, pytest.param(N + 20, marks=pytest.mark.thorough)])
def test_what_lanes_share_is_made_once(monkeypatch, lanes, columns):
    x, rows, mask, y = lanes
    wide = np.pad(x, ((0, 0), (0, columns - D)))
    shared = l2.share(wide, rows, mask)
    assert (shared.prepared.gram is None) == (columns < N)
    first, again = (
        l2.solve_path(each, rows, mask, y, STRENGTHS, batch=8) for each in (wide, shared)
    )
    np.testing.assert_array_equal(first.w, again.w)
    part = l2.solve_path(shared, rows[2:4], mask[2:4], y[2:4], STRENGTHS, batch=8)
    np.testing.assert_allclose(part.objective, again.objective[2:4], rtol=2e-6)
    monkeypatch.setattr(l2_float64, "MOST_SHARED", 2)
    assert l2.share(wide, rows, mask).prepared.gram is None
    apart = l2.solve_path(wide, rows, mask, y, STRENGTHS, batch=8)
    np.testing.assert_allclose(apart.objective, again.objective, rtol=2e-6)
    np.testing.assert_array_equal(apart.code, again.code)


def test_a_large_gram_matrix_is_whole():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 800)).astype(np.float32)
    rows = rng.permutation(900)[:700]
    shared = l2.share(x, rows[None], np.ones((1, 700), bool))
    used = x[rows].astype(np.float64)
    place = shared.prepared.place[rows]
    np.testing.assert_allclose(shared.prepared.gram[np.ix_(place, place)], used @ used.T, atol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_float64_takes_over_where_float32_factors_fail(monkeypatch, precision):
    """Noisy labels on badly scaled, strongly correlated features, at C up to 1e5."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    x = ((rng.normal(size=(400, 40)) * np.geomspace(1e-4, 1e3, 40)) @ basis).astype(np.float32)
    y = rng.integers(0, 2, (1, 400)).astype(np.int32)
    used = []
    walk = l2_float64._walk
    monkeypatch.setattr(l2_float64, "_walk", lambda *a: (used.append(a[6]), walk(*a))[1])
    if precision == "float32":
        x = x @ basis.T  # uncorrelated: the scaled system is close to the identity
    found = l2.solve_path(x, np.arange(400)[None], np.ones((1, 400), bool), y, STRENGTHS)
    assert (found.code == codes.CONVERGED).all() and found.gap.max() <= 1e-6
    assert set(used) == ({"float32"} if precision == "float32" else {"float32", "float64"})


def test_the_gap_is_that_of_the_rounded_weights(lanes, path):
    x, rows, _, y = lanes
    lane = 1
    features, labels = x[rows[lane]].astype(np.float64), y[lane]
    for p, C in enumerate(STRENGTHS):
        ours = objective(features, labels, path.w[lane, p].astype(float), float(path.b[lane, p]), C)
        np.testing.assert_allclose(path.objective[lane, p], ours, rtol=1e-6)


def test_no_gap_is_below_zero_where_float64_rounds_much():
    """In sample space, of large features: sums over a walk's steps had drifted by 3 %."""
    rng = np.random.default_rng(0)
    x = (1e3 * rng.normal(size=(12 * 200, 300))).astype(np.float32)
    rows, y = np.arange(len(x)).reshape(12, 200), (rng.random((12, 200)) < 0.5).astype(np.int32)
    found = l2.solve_path(x, rows, np.ones(rows.shape, bool), y, STRENGTHS)
    assert (found.gap >= 0).all() and (found.gap < 1e-6).mean() > 0.8

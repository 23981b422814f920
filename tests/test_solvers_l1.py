"""The L1 solver: optimal, certified, and blind to neighbours, padding and batch width."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from probejax.solvers import codes, l1

STRENGTHS = np.logspace(5, -5, 10).astype(np.float32)


def latents(n, k, seed, signal=1.0):
    """Sparse non-negative columns of very different size, some following the label.

    Column 3 repeats column 2, column 5 is nearly column 4, column 7 never fires.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    factors = rng.standard_normal((n, 8))
    factors[:, 0] += signal * (2 * y - 1)
    scores = factors @ rng.standard_normal((8, k)) / 3 + rng.standard_normal((n, k))
    thresholds = np.quantile(scores, 1 - rng.uniform(0.02, 0.6, k), axis=0).diagonal()
    z = np.where(scores > thresholds, scores - thresholds + 0.3, 0) * 10 ** rng.uniform(1, 3.3, k)
    z[:, 3], z[:, 5], z[:, 7] = z[:, 2], z[:, 4] * rng.uniform(0.99, 1.01, n), 0
    return z.astype(np.float32), y.astype(np.int32)


def lanes(sizes, k=16, n=128, signal=1.0):
    """One lane per size, padded to n rows with NaN."""
    z = np.full((len(sizes), n, k), np.nan, np.float32)
    y = np.zeros((len(sizes), n), np.int32)
    mask = np.arange(n)[None] < np.array(sizes)[:, None]
    for lane, size in enumerate(sizes):
        z[lane, :size], y[lane, :size] = latents(size, k, lane, signal)
    return z, mask, y


def objective(z, y, C, w, b):
    margins = (2.0 * y - 1) * (z.astype(np.float64) @ w.astype(np.float64) + float(b))
    return np.abs(w.astype(np.float64)).sum() + C * np.logaddexp(0, -margins).sum()


def solve_path(z, mask, y, C, **options):
    path = l1.solve_path(*map(jnp.asarray, (z, mask, y, C)), **options)
    return jax.tree.map(np.asarray, path)


def solve(z, mask, y, C, **options):
    found = l1.solve(*map(jnp.asarray, (z, mask, y, C)), **options)
    return jax.tree.map(np.asarray, found)


SIZES = (16, 40, 64, 100, 128, 120, 90)


@pytest.fixture(scope="module")
def problem():
    return lanes(SIZES)


@pytest.fixture(scope="module")
def path(problem):
    return solve_path(*problem, STRENGTHS)


def test_every_lane_is_certified_at_every_strength(path):
    assert path.w.shape == (7, 10, 16)
    np.testing.assert_array_equal(path.code, codes.CONVERGED)
    assert np.all(path.gap <= 1e-6)
    assert np.all(path.gap >= -1e-12)
    assert np.all(path.trips >= 1)


def test_objective_is_that_of_the_returned_weights(problem, path):
    z, _, y = problem
    for lane, size in enumerate(SIZES):
        for i, C in enumerate(STRENGTHS):
            w, b = path.w[lane, i], path.b[lane, i]
            truth = objective(z[lane, :size], y[lane, :size], C, w, b)
            assert truth == pytest.approx(float(path.objective[lane, i]), rel=1e-6)


@pytest.mark.parametrize("C", [0.0017, 0.28, 46.0])
def test_no_reference_goes_lower(C):
    z, y = latents(300, 12, 5)
    ours = solve(z[None], np.ones((1, 300), bool), y[None], np.float32([C]))
    w, b = ours.w[0], ours.b[0]
    mine = objective(z, y, C, w, b)
    saga = LogisticRegression(l1_ratio=1.0, C=C, solver="saga", tol=1e-9, max_iter=3000)
    liblinear = LogisticRegression(
        l1_ratio=1.0, C=C, solver="liblinear", tol=1e-9, max_iter=3000, intercept_scaling=1e4
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        saga.fit(z.astype(np.float64), y)
        liblinear.fit(z.astype(np.float64), y)
    best = min(objective(z, y, C, m.coef_[0], m.intercept_[0]) for m in (saga, liblinear))
    assert mine <= best * (1 + 1e-6)
    bound = float(ours.objective[0]) * (1 - float(ours.gap[0]))
    assert bound <= best * (1 + 1e-7)  # the lower bound is one


def test_the_bound_holds_where_the_search_stops_early(problem, path):
    early = solve_path(*problem, STRENGTHS, max_trips=3)
    bound = early.objective * (1 - early.gap.astype(np.float64))
    assert np.all(bound <= path.objective * (1 + 1e-6))
    assert np.any(early.code == codes.MAX_TRIPS)
    late = early.gap > 1e-6
    np.testing.assert_array_equal(early.code[late], codes.MAX_TRIPS)


def test_weights_are_exactly_zero_where_the_optimum_has_zeros(problem, path):
    w = path.w
    np.testing.assert_array_equal(w[:, :, 7], 0)  # never fires
    np.testing.assert_array_equal(w[:, -1], 0)  # strongest penalty
    kept = (w != 0).sum(-1)
    assert kept[4].tolist() == sorted(kept[4], reverse=True)
    z, _, y = problem
    lane, at = 4, 6
    margins = (2.0 * y[lane] - 1) * (z[lane].astype(np.float64) @ w[lane, at] + path.b[lane, at])
    pull = STRENGTHS[at] * ((2.0 * y[lane] - 1) / (1 + np.exp(margins))) @ z[lane]
    zero = w[lane, at] == 0
    assert 0 < zero.sum() < 16
    assert np.all(np.abs(pull[zero]) < 1.0 + 1e-3)
    np.testing.assert_allclose(pull[~zero], np.sign(w[lane, at][~zero]), atol=0.05)


def test_separable_lanes_converge_at_large_C():
    path = solve_path(*lanes((12, 16, 20, 30, 40, 60, 100), signal=8.0), STRENGTHS)
    assert path.objective[:, 0].max() < 30  # separable: the loss vanishes
    np.testing.assert_array_equal(path.code, codes.CONVERGED)
    assert path.trips.sum(1).max() < 120


def merged(w):
    """Weights with columns 2 and 3 added up: they are the same column, so any split is optimal."""
    return np.concatenate([w[..., :2], w[..., 2:3] + w[..., 3:4], w[..., 4:]], axis=-1)


def test_a_lane_does_not_see_its_neighbours(problem, path):
    alone = solve_path(*(a[4:5] for a in problem), STRENGTHS)
    np.testing.assert_allclose(alone.objective[0], path.objective[4], rtol=1e-6)
    np.testing.assert_allclose(merged(alone.w[0]), merged(path.w[4]), rtol=1e-3, atol=1e-5)


def test_lanes_that_wait_for_a_slot_agree(problem, path):
    twice = tuple(np.concatenate([a, a]) for a in problem)
    queued = solve_path(*twice, STRENGTHS, batch_bytes=80_000)  # 4 slots for 14 lanes
    for i in range(14):
        np.testing.assert_allclose(queued.objective[i], path.objective[i % 7], rtol=1e-6)
        # Another width is another program: where the minimum is flat, a gap leaves a weight room.
        np.testing.assert_allclose(merged(queued.w[i]), merged(path.w[i % 7]), rtol=3e-2, atol=1e-5)


def test_every_device_finds_the_same(problem, path):
    with jax.default_device(jax.devices()[3]):
        elsewhere = solve_path(*problem, STRENGTHS)
    for ours, theirs in zip(elsewhere, path, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_order_of_strengths_and_a_single_strength_agree(problem, path):
    back = solve_path(*problem, STRENGTHS[::-1])
    np.testing.assert_array_equal(back.w, path.w[:, ::-1])
    single = solve(*problem, np.full(7, STRENGTHS[4]))
    np.testing.assert_allclose(single.objective, path.objective[:, 4], rtol=2e-6)
    warm = solve(
        *problem, np.full(7, STRENGTHS[4]), warm=(jnp.asarray(single.w), jnp.asarray(single.b))
    )
    np.testing.assert_allclose(warm.objective, path.objective[:, 4], rtol=2e-6)
    assert np.all(warm.code == codes.CONVERGED)


def test_padding_is_harmless(problem, path):
    z, mask, y = problem
    other = np.where(mask[:, :, None], z, 1e30).astype(np.float32)
    again = solve_path(other, mask, np.where(mask, y, 1), STRENGTHS)
    for ours, theirs in zip(again, path, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_codes_of_lanes_that_cannot_be_fitted(problem):
    z, mask, y = (a.copy() for a in problem)
    y[0] = 1
    z[1, 5, 2] = np.nan
    z[2, 0, 0] = np.inf
    path = solve_path(z, mask, y, STRENGTHS)
    assert path.code[:4, 0].tolist() == [
        codes.DEGENERATE, codes.NON_FINITE, codes.NON_FINITE, codes.CONVERGED,
    ]  # fmt: skip
    assert np.isnan(path.gap[:3]).all() and np.isfinite(path.gap[3]).all()
    np.testing.assert_array_equal(path.w[:3], 0)
    np.testing.assert_array_equal(path.b[:3], 0)
    np.testing.assert_array_equal(path.trips[:3], 0)


def test_a_second_data_set_of_the_same_shape_compiles_nothing(problem, path, caplog):
    del path
    other = lanes(SIZES[::-1], signal=3.0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        solve_path(*other, STRENGTHS)
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]


def test_lanes_that_lose_patience_go_on_in_float64(problem, path, monkeypatch):
    precisions = []
    advance = l1._advance

    def spy(*args):
        precisions.append(args[-1])
        return advance(*args)

    monkeypatch.setattr(l1, "_advance", spy)
    monkeypatch.setattr(l1, "_PATIENCE", 4)  # float32 gives up early
    jax.clear_caches()
    found = solve_path(*problem, STRENGTHS)
    jax.clear_caches()
    assert set(precisions) == {"float32", "float64"}
    np.testing.assert_array_equal(found.code, codes.CONVERGED)
    np.testing.assert_allclose(found.objective, path.objective, rtol=1e-6)


def test_a_lane_that_has_lost_patience_waits_for_the_others_as_it_is(problem, monkeypatch):
    """Its start in float64 would depend on how long they take."""
    monkeypatch.setattr(l1, "_PATIENCE", 4)
    jax.clear_caches()
    whole = solve_path(*problem, STRENGTHS)
    some = solve_path(*(a[[4, 4, 4, 1, 1, 1, 1]] for a in problem), STRENGTHS)  # other company
    jax.clear_caches()
    for lane, place in ((4, 0), (1, 3)):
        for ours, theirs in zip(whole, some, strict=True):
            np.testing.assert_array_equal(ours[lane], theirs[place])

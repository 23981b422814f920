"""L2 logistic regression on few features, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probejax.solvers import codes
from probejax.solvers.small_logreg import approach, solve

SIGNALS = (0.0, 0.2, 1.0, 5.0)  # from noise to a wide gap between the classes


def problems(n=200, k=30, seed=0):
    """Lanes whose features fall in size as principal components do, and with padding."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (len(SIGNALS), n))
    z = rng.normal(size=(len(SIGNALS), n, k)) * np.geomspace(30, 0.5, k)
    z += np.array(SIGNALS)[:, None, None] * (2 * y - 1)[:, :, None] * rng.normal(size=k)
    z += 3 * rng.normal(size=k)
    mask = np.arange(n)[None] < np.array([n, n - 1, n // 2, n - 60])[:, None]
    z[~mask] = 77.0
    return z.astype(np.float32), mask, y


def objective(z, y, C, w, b):
    margins = (2 * y - 1) * (z @ w + b)
    return 0.5 * w @ w + C * np.logaddexp(0, -margins).sum()


@pytest.mark.parametrize("C", [1.0, 0.01, 30.0])
def test_never_above_scikit_learn(C):
    z, mask, y = problems()
    found = solve(z, mask, y, C)
    assert found.code.tolist() == [codes.CONVERGED] * 4 and np.all(found.gap <= 1e-6)
    for lane in range(4):
        rows, labels = z[lane][mask[lane]].astype(float), y[lane][mask[lane]]
        model = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(rows, labels)
        theirs = objective(rows, labels, C, model.coef_[0], model.intercept_[0])
        w, b = found.w[lane].astype(float), float(found.b[lane])
        ours = objective(rows, labels, C, w, b)
        np.testing.assert_allclose(found.objective[lane], ours, rtol=1e-6)
        assert ours <= theirs * (1 + 1e-6)
        assert theirs >= ours * (1 - float(found.gap[lane]) - 1e-9)  # what the certificate says
        scale = np.abs(rows).max(axis=0)
        np.testing.assert_allclose(w * scale, model.coef_[0] * scale, atol=2e-2)


def test_the_gap_of_a_solution_that_is_cut_short_is_true():
    z, mask, y = problems()
    cut, whole = (
        solve(z, mask, y, 1.0, max_trips=3),
        solve(z, mask, y, 1.0),
    )
    far = cut.objective > whole.objective * (1 + 1e-5)
    assert far.any() and np.all(cut.code[far] == codes.MAX_TRIPS) and np.all(cut.trips <= 3)
    assert np.all((cut.objective - whole.objective) / cut.objective <= cut.gap)


def test_a_near_start_takes_fewer_steps_to_the_same_place():
    z, mask, y = problems()
    whole = solve(z, mask, y, 1.0)
    zero = (np.zeros_like(whole.w), np.zeros_like(whole.b))
    start = (whole.w * np.float32(1.01), whole.b)
    for begin, trips in ((zero, 40), (start, 4)):
        near = approach(z, mask, y, 1.0, begin, max_trips=trips)
        for lane in range(4):
            rows, labels = z[lane][mask[lane]].astype(float), y[lane][mask[lane]]
            value = objective(rows, labels, 1.0, near.w[lane].astype(float), float(near.b[lane]))
            np.testing.assert_allclose(value, whole.objective[lane], rtol=2e-6)


def test_lanes_that_cannot_be_fitted_say_so_and_are_zero():
    z, mask, y = problems()
    y[1] = 1
    z[2, 3, 4] = np.nan
    z[3, -1] = np.nan  # padding
    found, clean = solve(z, mask, y, 1.0), solve(*problems(), 1.0)
    expected = [codes.CONVERGED, codes.DEGENERATE, codes.NON_FINITE, codes.CONVERGED]
    assert found.code.tolist() == expected
    assert np.isnan(found.gap[1:3]).all() and (found.gap[[0, 3]] <= 1e-6).all()
    assert not found.w[1:3].any() and not found.b[1:3].any()
    for lane in (0, 3):
        np.testing.assert_array_equal(found.w[lane], clean.w[lane])


def test_a_lane_alone_and_among_others():
    z, mask, y = problems()
    together = solve(z, mask, y, 1.0)
    for lane in range(4):
        alone = solve(z[lane : lane + 1], mask[lane : lane + 1], y[lane : lane + 1], 1.0)
        np.testing.assert_allclose(alone.w[0], together.w[lane], rtol=1e-4, atol=1e-5)
        assert alone.code[0] == together.code[lane]

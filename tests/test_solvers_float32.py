"""The path of machines without float64: float32 loops, judged by the host."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probejax.solvers import arithmetic, codes, l1, l2, rotated
from tests.test_solvers_l1 import latents

STRENGTHS = np.logspace(5, -5, 10)


def problem(n, d, noise, seed=0):
    """Returns lanes over one matrix with a dimension that dwarfs the others, as Gemma's does."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(2 * n, d)) * np.geomspace(1, 1e-2, d)).astype(np.float32)
    x[:, 3] = 70 + 8 * x[:, 3]
    x = 100 * (x - x.mean(axis=0))  # so large that noisy labels need exact gradients
    truth = x[:, 0] + x[:, 1] > 0
    rows = np.stack([rng.permutation(2 * n)[:n] for _ in range(4)]).astype(np.int32)
    y = (truth[rows] ^ (rng.random(rows.shape) < noise)).astype(np.int32)
    mask = np.ones(rows.shape, bool)
    mask[1, : n // 5] = False  # a fold of
    rows[1] = rows[0]
    mask[2, n // 2 :] = False
    y[3] = 1
    return x, rows, mask, y


def objective(x, y, w, b, C, penalty):
    margin = (2 * y - 1) * (x.astype(np.float64) @ w.astype(np.float64) + b)
    return penalty(w.astype(np.float64)) + C * np.logaddexp(0, -margin).sum()


@pytest.mark.parametrize("noise", [0.0, 0.3])
# In principal axes; in those of the rows.
@pytest.mark.parametrize("d", [24, pytest.param(160, marks=pytest.mark.thorough)])
def test_l2_certifies_what_it_returns_and_needs_no_host(d, noise):
    x, rows, mask, y = problem(100, d, noise)
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        found = l2.solve_path(x, rows, mask, y, STRENGTHS)
        own = l2.solve(x, rows, mask, y, np.array([1e3, 1.0, 0.1, 1.0]))
    exact = l2.solve_path(x, rows, mask, y, STRENGTHS)
    assert counted == {"fits": 44, "on_host": 0}
    assert (found.code[:3] == codes.CONVERGED).all()
    assert (found.code[3] == codes.DEGENERATE).all() and np.isnan(found.gap[3]).all()
    assert (own.code[:3] == codes.CONVERGED).all()
    assert found.w.dtype == found.gap.dtype == np.float32
    for lane in range(3):
        real = mask[lane]
        for place, C in enumerate(STRENGTHS):
            args = (x[rows[lane][real]], y[lane][real])
            half = lambda w: 0.5 * w @ w
            value = objective(*args, found.w[lane, place], found.b[lane, place], C, half)
            least = objective(*args, exact.w[lane, place], exact.b[lane, place], C, half)
            np.testing.assert_allclose(found.objective[lane, place], value, rtol=1e-6)
            bound = value * (1 - max(found.gap[lane, place], 0))
            assert bound <= least * (1 + 1e-9) and found.gap[lane, place] <= 1e-6


@pytest.mark.filterwarnings("ignore")  # scikit-learn says when its own tolerance is out of reach
def test_l2_agrees_with_scikit_learn():
    x, rows, mask, y = problem(100, 24, 0.2)
    with arithmetic.using("float32"):
        found = l2.solve(x, rows, mask, y, np.full(4, 2.0))
    sets = (x[rows[0]], y[0])
    fit = LogisticRegression(C=2.0, solver="newton-cholesky", tol=1e-10).fit(*sets)
    half = lambda w: 0.5 * w @ w
    theirs = objective(*sets, fit.coef_[0], fit.intercept_[0], 2.0, half)
    assert objective(*sets, found.w[0], found.b[0], 2.0, half) <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_l1_certifies_what_it_returns_and_needs_no_host(noise):
    x, rows, mask, y = problem(100, 24, noise)
    z = np.maximum(x[rows] * np.geomspace(1e3, 1e-3, 24, dtype=np.float32), 0)
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        found = l1.solve_path(z, mask, y, STRENGTHS)
    exact = l1.solve_path(z, mask, y, STRENGTHS)
    assert counted == {"fits": 40, "on_host": 0}
    assert (found.code[:3] == codes.CONVERGED).all() and (found.gap[:3] <= 1e-6).all()
    assert (found.code[3] == codes.DEGENERATE).all()
    np.testing.assert_allclose(found.objective, exact.objective, rtol=2e-6)
    for place in range(10):
        args = (z[0], y[0], found.w[0, place], found.b[0, place], STRENGTHS[place])
        value = objective(*args, lambda w: np.abs(w).sum())
        np.testing.assert_allclose(found.objective[0, place], value, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_gap_of_a_poor_point_covers_what_is_left(monkeypatch, steps):
    """The host judges what it is given, however far from the solution, and never too kindly."""
    monkeypatch.setattr(rotated, "_ROUNDS", 0)
    monkeypatch.setattr(rotated, "_STEPS", steps)
    lanes = x, rows, mask, y = problem(100, 24, 0.3)
    low = np.sort(STRENGTHS)
    grid = np.tile(low, (4, 1))
    found, _ = rotated.solve(
        x, rotated.coordinates(x, rows, mask), lanes[1:], grid, (1e-6,) * 10, slice(None)
    )
    assert honest(found, l2.solve_path(*lanes, low))
    z = np.maximum(x[rows], 0)
    none = (np.zeros((4, 24)), np.full(4, np.nan))
    with arithmetic.using("float32"):
        found = l1._in_float32(z, mask, y, grid, none, 1e-6, steps, None)
    assert honest(found, l1.solve_path(z, mask, y, low))


def honest(found, exact) -> bool:
    """Says whether gaps bound what is above the minimum; some must be poor, or it says nothing."""
    value, gap = (np.asarray(part, np.float64)[:3] for part in (found.objective, found.gap))
    least = np.asarray(exact.objective, np.float64)[:3]
    assert (value > least * 1.0001).any()
    return bool((value * (1 - gap) <= least * (1 + 2e-6)).all())


def test_what_float32_cannot_solve_is_left_to_the_host_and_counted(monkeypatch):
    x, rows, mask, y = problem(100, 24, 0.3)
    monkeypatch.setattr(rotated, "_ROUNDS", 0)
    monkeypatch.setattr(rotated, "_STEPS", 2)
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        found = l2.solve_path(x, rows, mask, y, STRENGTHS)
    assert counted["on_host"] > 0
    assert (found.code[:3] == codes.CONVERGED).all() and (found.gap[:3] <= 1e-6).all()


def test_the_loops_hold_no_float64(monkeypatch):
    """As the solvers call them: whether float64 is on is the caller's doing."""
    texts = {}

    def watched(name, program):
        def seen(*args):
            texts[name] = program.lower(*args).as_text()
            return program(*args)

        return seen

    for module, name in ((rotated, "_walk"), (rotated, "_refine"), (l1, "_advance")):
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    x, rows, mask, y = problem(100, 24, 0.3)
    with arithmetic.using("float32"):
        l2.solve_path(x, rows, mask, y, STRENGTHS)
        l1.solve_path(x[rows], mask, y, STRENGTHS)
    assert set(texts) == {"_walk", "_refine", "_advance"}
    assert all("f32" in text and "f64" not in text for text in texts.values())


@pytest.mark.parametrize("name", ["float16", "", "Float32"])
def test_an_unknown_arithmetic_is_refused(name):
    with pytest.raises(ValueError, match="choose from auto, float32, float64"):
        with arithmetic.using(name):
            pass


def test_what_was_asked_for_ends_with_its_block():
    with arithmetic.using("float32"):
        with arithmetic.using("auto"):
            assert arithmetic.chosen() == "float32"
        with arithmetic.on_host():
            assert arithmetic.chosen() == "float64"
        assert arithmetic.chosen() == "float32"
    assert arithmetic.chosen() == "float64"


@pytest.mark.parametrize("d", [24, 160])
def test_folds_go_in_the_coordinates_of_their_lane(d, monkeypatch):
    """One decomposition serves a lane and its folds; rows that it does not hold get one anew."""
    x, rows, mask, y = problem(100, d, 0.3)
    folds = mask & (np.arange(100) % 5 > 0)
    made = []
    for name in ("_in_axes", "_in_rows"):
        true = getattr(rotated, name)
        monkeypatch.setattr(
            rotated, name, lambda *args, true=true: made.append(len(args[1])) or true(*args)
        )
    with arithmetic.using("float32"):
        shared = l2.share(x, rows, mask)
        before = len(made)
        found = l2.solve_path(shared, rows, folds, y, STRENGTHS)
        assert len(made) == before
        narrow = l2.share(x, rows, folds)
        before = len(made)
        wider = l2.solve_path(narrow, rows, mask, y, STRENGTHS)
        assert len(made) > before
    assert (found.code[:3] == codes.CONVERGED).all() and (wider.code[:3] == codes.CONVERGED).all()
    exact = l2.solve_path(x, rows, folds, y, STRENGTHS)
    np.testing.assert_allclose(found.objective, exact.objective, rtol=3e-6)


def test_an_l1_walk_ends_where_its_bound_is_noise():
    """At strong C on contradicting labels float32 sees no gap; nothing is left to do, though."""
    pairs = [latents(1000, 16, seed) for seed in range(4)]
    z, y = np.stack([z for z, _ in pairs]), np.stack([y for _, y in pairs])
    y ^= np.random.default_rng(0).random(y.shape) < 0.2
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        found = l1.solve_path(z, np.ones(y.shape, bool), y, STRENGTHS)
    assert (found.code == codes.CONVERGED).all() and counted["on_host"] == 0
    assert found.trips.max() < 30 and found.trips.mean() < 10  # 100 and 31 with the bound alone

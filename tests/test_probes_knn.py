"""Nearest neighbours, against scikit-learn by the study's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax.probes import batches, knn, nearest
from probejax.probes.families.neighbours import logits_of
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_knn


def problem(d, signal=0.3, seed=0):
    """Features on a mean far from zero, in columns of different scale, one without variance."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + signal * np.outer(2 * y - 1, rng.normal(size=d))
    x = 300 + x * np.geomspace(0.1, 30, d)
    x[:, 2] = 6950.3
    return x.astype(np.float32), y


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize("d, noise", [(8, 0.2), (60, 0.0)])
def test_against_the_study_s_rules(d, noise, protocol):
    x, y = problem(d)
    found = probe_cases.conditions(y, noise=noise)
    ours = probe_cases.run(lambda rows: knn.fit(jnp.asarray(x), rows, protocol), found)
    exact = x.astype(float)
    for lane, condition in enumerate(found):
        theirs = study_knn.probe(
            exact[condition.train],
            condition.y_train,
            exact[condition.test],
            condition.y_test,
            strict=protocol == "strict",
        )
        assert ours[lane]["hyperparameter"] == theirs["k"]
        for name in ("val_auc", "test_auc", "test_acc", "test_f1"):
            np.testing.assert_allclose(ours[lane][name], theirs[name], atol=1e-6, err_msg=name)
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] == 0


@pytest.mark.parametrize("size", [2, 3, 4, 10, 13, 40, 140])
def test_the_grid_is_the_study_s(size):
    y = np.arange(size) % 2
    (condition,) = probe_cases.conditions(probe_cases.labels(), sizes=(size,))
    ((_, rows),) = batches([condition], [256])
    folds = knn.scores.folds(rows)
    (grid,) = knn._grids(rows.train_mask, folds)
    assert sorted(set(grid.tolist())) == study_knn.grid(condition.y_train)
    assert grid[0] == 1 and len(grid) == 10 and len(y) == size


def test_the_largest_grid():
    assert knn._grid(1024, 100).tolist() == [1, 2, 4, 7, 12, 21, 35, 59, 99, 99]


def search(x, rows, queries, k, among=None):
    """Positions of the k nearest of `rows` in raw features, by our search."""
    among = np.ones(len(rows), bool) if among is None else among
    one = nearest.Search(rows, among, np.ones(x.shape[1]), queries, np.array([k]))
    ((_, found),) = nearest.nearest(x - x.mean(axis=0), [one])
    return found[:, :k]


@pytest.fixture(params=["NumPy", "XLA"])
def searches(request, monkeypatch):
    """Searches as on a CPU, and as on an accelerator."""
    monkeypatch.setattr(nearest, "_on_host", lambda: request.param == "NumPy")


@pytest.mark.usefixtures("searches")
def test_rounding_does_not_decide():
    rng = np.random.default_rng(0)
    x = 100 * rng.normal(size=(300, 40))
    x[50:250] = x[50] + 1e-4 * rng.normal(size=(200, 40))  # far nearer than float32 products tell
    rows, queries = np.arange(50, 306) % 300, np.arange(40)
    apart = ((x[queries, None] - x[rows]) ** 2).sum(axis=2)
    for k in (1, 7, 60):
        expected = np.argsort(apart, axis=1, kind="stable")[:, :k]
        ours = search(x, rows, queries, k)
        assert [set(each) for each in ours.tolist()] == [set(each) for each in expected.tolist()]


@pytest.mark.usefixtures("searches")
def test_of_equally_near_rows_the_first_come_first():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 20)).astype(np.float32).astype(float)
    x[30:60] = x[30]  # thirty times the same row
    rows = rng.permutation(64)
    ours = search(x, rows, np.array([30, 5]), 10)
    same = np.flatnonzero((rows >= 30) & (rows < 60))[:10]
    assert sorted(ours[0].tolist()) == same.tolist()


def test_an_accelerator_finds_the_same(monkeypatch):
    x, y = problem(30)
    found = probe_cases.conditions(y, sizes=(40, 20, 140))
    for protocol in ("paper", "strict"):
        fit = lambda rows, protocol=protocol: knn.fit(jnp.asarray(x), rows, protocol)
        here = probe_cases.run(fit, found)
        monkeypatch.setattr(nearest, "_on_host", lambda: False)
        assert probe_cases.run(fit, found) == here
        monkeypatch.undo()


@pytest.mark.usefixtures("searches")
def test_only_the_rows_asked_for_are_found():
    x = np.arange(12.0)[:, None]
    among = np.arange(12) % 2 == 0
    ours = search(x, np.arange(12), np.array([3, 11]), 3, among)
    assert ours.tolist() == [[2, 4, 0], [10, 8, 6]]


def test_half_the_neighbours_predict_label_0():
    share = np.array([0, 1 / 99, 0.3, 49 / 99, 0.5, 50 / 99, 0.7, 98 / 99, 1])
    logits = logits_of(share)
    assert np.all(np.diff(logits) > 0)
    assert ((logits > 0) == (share > 0.5)).all()
    back = np.asarray(jax.nn.sigmoid(logits))
    np.testing.assert_allclose(back, share, atol=1e-6)
    bins = np.arange(1, 10) / 10
    assert (np.asarray(jax.nn.sigmoid(logits_of(bins))) * 10).astype(int).tolist() == [
        *range(1, 10)
    ]


def test_lanes_that_differ_in_labels_share_a_search(monkeypatch):
    x, y = problem(30)
    (clean,) = probe_cases.conditions(y, sizes=(140,))
    (noisy,) = probe_cases.conditions(y, sizes=(140,), noise=0.3)
    asked = []
    true_search = nearest._search
    monkeypatch.setattr(nearest, "_search", lambda *a: asked.append(len(a[1])) or true_search(*a))
    together = probe_cases.run(lambda rows: knn.fit(jnp.asarray(x), rows), [clean, noisy])
    assert asked == [1, 1]  # one for the fold that both have, one for the test rows
    alone = probe_cases.run(lambda rows: knn.fit(jnp.asarray(x), rows), [noisy])
    assert together[1] == alone[0] and together[0]["test_auc"] != together[1]["test_auc"]


def test_the_saved_arrays_score_new_rows():
    x, y = problem(30)
    found = probe_cases.conditions(y, sizes=(40, 20))
    ((_, rows),) = batches(found, [64])
    probe = knn.fit(jnp.asarray(x), rows).probe
    for lane, condition in enumerate(found):
        new, known = x[condition.test], np.asarray(probe.x)[probe.train[lane]]
        apart = (((new[:, None] - known[None]) / probe.scale[lane]) ** 2).sum(axis=2)
        apart[:, ~probe.mask[lane]] = np.inf
        near = np.argsort(apart, axis=1, kind="stable")[:, : probe.k[lane]]
        share = probe.y[lane][near].mean(axis=1)
        np.testing.assert_array_equal(probe[lane](new), logits_of(share))
        theirs = study_knn.probe(
            x[condition.train], condition.y_train, x[condition.test], condition.y_test
        )
        np.testing.assert_allclose(share, theirs["share"], atol=1e-6)

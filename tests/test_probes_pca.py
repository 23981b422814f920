"""Logistic regression on principal components, against scikit-learn by the study's rules."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probejax.probes import batches, pca
from probejax.probes.fit import fit_lanes
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_pca


def problem(d, signal=0.3, seed=0):
    """Correlated features far from zero, in columns of different scale, one without variance."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) * np.linspace(2, 0.3, d)
    x = x @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = x + signal * np.outer(2 * y - 1, rng.normal(size=d))
    x = 300 + x * np.geomspace(0.1, 30, d)
    x[:, 2] = 6950.3
    return x.astype(np.float32), y


def reference(x, condition, protocol):
    return study_pca.probe(
        x[condition.train].astype(float),
        condition.y_train,
        x[condition.test].astype(float),
        condition.y_test,
        strict=protocol == "strict",
    )


@pytest.mark.parametrize("protocol", ["paper", "strict"])
@pytest.mark.parametrize("d, noise", [(9, 0.2), (120, 0.0)])
def test_against_the_study_s_rules(d, noise, protocol):
    x, y = problem(d)
    found = probe_cases.conditions(y, noise=noise)
    ours = probe_cases.run(lambda rows: pca.fit(jnp.asarray(x), rows, protocol), found)
    same = 0
    for lane, condition in enumerate(found):
        theirs = reference(x, condition, protocol)
        np.testing.assert_allclose(ours[lane]["val_auc"], theirs["val_auc"], atol=2e-3)
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] <= 1e-5
        same += ours[lane]["hyperparameter"] == theirs["number"]
        if ours[lane]["hyperparameter"] != theirs["number"]:  # by a hair
            rivals = theirs["means"][
                [*study_pca.grid(condition.y_train, d)].index(theirs["number"])
            ]
            assert rivals - ours[lane]["val_auc"] < 2e-3
            continue
        np.testing.assert_allclose(ours[lane]["test_auc"], theirs["test_auc"], atol=1e-3)
        np.testing.assert_allclose(ours[lane]["test_acc"], theirs["test_acc"], atol=0.01)
        np.testing.assert_allclose(ours[lane]["test_f1"], theirs["test_f1"], atol=0.01)
    assert same >= len(found) - 1


def test_the_saved_arrays_score_new_rows():
    x, y = problem(120)
    found = probe_cases.conditions(y, sizes=(140, 40))
    ((_, rows),) = batches(found, [256])
    fitted = pca.fit(jnp.asarray(x), rows)
    for lane, condition in enumerate(found):
        logits = fitted.probe[lane](x[condition.test])
        theirs = reference(x, condition, "paper")
        assert fitted.scores.hyperparameter[lane] == theirs["number"]
        np.testing.assert_allclose(logits, theirs["logits"], atol=2e-3 * np.ptp(theirs["logits"]))


def test_of_equal_validation_aucs_the_fewest_components_win():
    x, y = problem(120, signal=40.0)  # the first component separates
    found = probe_cases.conditions(y, sizes=(10, 40, 140))
    ours = probe_cases.run(lambda rows: pca.fit(jnp.asarray(x), rows), found)
    assert [ours[lane]["val_auc"] for lane in range(3)] == [1.0] * 3
    assert [ours[lane]["hyperparameter"] for lane in range(3)] == [1.0] * 3


def test_up_to_three_rows_are_not_searched_and_take_all_components():
    x, y = problem(120)
    found = probe_cases.conditions(y, sizes=(2, 3))
    ours = probe_cases.run(lambda rows: pca.fit(jnp.asarray(x), rows), found)
    assert [ours[lane]["hyperparameter"] for lane in range(2)] == [2.0, 3.0]
    assert [ours[lane]["val_auc"] for lane in range(2)] == [1.0, 1.0]


@pytest.mark.parametrize("size, d", [(4, 640), (13, 640), (53, 20), (1024, 640)])
def test_the_grid_is_the_study_s(size, d):
    y = np.arange(size) % 2
    assert sorted(set(pca._grid(size, d).tolist())) == study_pca.grid(y, d)


@pytest.mark.parametrize("width", range(2, 100))
def test_of_narrow_vectors_all_components_are_tried(width):
    """The study's rounding leaves out the last of 3, 5, 6, 9 and many more."""
    grid = pca._grid(1024, width)
    assert grid.max() == width and len(grid) == len(pca._grid(1024, 640))
    assert set(grid.tolist()) - {width} <= set(study_pca.grid(np.arange(1024) % 2, width))


def test_the_largest_grid():
    assert pca._grid(1024, 640).tolist() == [1, 2, 4, 7, 12, 21, 35, 59, 99, 99]


@pytest.mark.parametrize("n", [40, 12])
def test_components_beyond_the_rank_are_zero(n):
    rng = np.random.default_rng(0)
    x = np.tile(rng.normal(size=(n // 4, 20)), (4, 1)).astype(np.float32)  # each row four times
    found = pca._bases(x, np.arange(n)[None], np.ones((1, n), bool))
    sizes = np.linalg.norm(found.vectors[0], axis=0)
    rank = min(n // 4 - 1, 20)
    np.testing.assert_allclose(sizes[:rank], 1, rtol=1e-5)
    np.testing.assert_array_equal(sizes[rank:], 0)


@pytest.mark.parametrize("far, spread", [(0, 1), (7000, 1), (100, 0.01), (1000, 0.01)])
def test_the_gap_is_that_of_the_weights_that_are_returned(far, spread):
    """Against Newton's method in float64 on components by a decomposition of its own."""
    rng = np.random.default_rng(0)
    x = spread * rng.normal(size=(200, 30))
    y = x[:, :3].sum(axis=1) / spread + 0.5 * rng.normal(size=200) > 0
    x[:100] += far
    x[100:] -= far  # rows of another source, which the lane does not take
    x = x.astype(np.float32)
    found = fit_lanes(x, np.arange(100)[None], y, "pca")
    own, t = x[:100].astype(float), np.where(y[:100], 1.0, -1.0)
    mean, scale = own.mean(axis=0), own.std(axis=0)
    standard = (own - mean) / scale
    v = np.linalg.svd(standard, full_matrices=False)[2][: int(found.hyperparameter[0])]
    best = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(standard @ v.T, t)

    def objective(w, logits):
        return 0.5 * w @ w + np.logaddexp(0, -t * logits).sum()

    least = objective(best.coef_[0], best.decision_function(standard @ v.T))
    w, b = (np.asarray(leaf[0], float) for leaf in (found.probe.w, found.probe.b))
    logits = (own - np.asarray(found.probe.mean, float)) @ w + b
    excess = objective(v @ (w * scale), logits) / least - 1
    assert excess <= 2 * found.gap[0] + 2e-7  # rounding of the components apart
    assert found.code[0] == (codes.CONVERGED if found.gap[0] <= 1e-6 else codes.MAX_TRIPS)
    assert (found.gap[0] > 1e-6) == (far / spread > 1e4)  # float32 has no more digits

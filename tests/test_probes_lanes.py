"""What holds for every method on raw features: lanes do not mix, and bad ones say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import probes
from probejax.probes.fit import fit_lanes
from probejax.solvers import codes
from tests import probe_cases

METHODS = ("mean_difference", "lda", "knn", "pca")
BATCH = (40, 20, 33, 60, 25, 50, 13)


def problem(d=20, seed=0):
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + 0.2 * np.outer(2 * y - 1, rng.normal(size=d))
    return (3 + x * np.geomspace(0.3, 30, d)).astype(np.float32), y


@pytest.fixture(params=METHODS)
def fit(request):
    return probes.BASELINES[request.param]


def fit_rows(fit, x, found, protocol="paper"):
    ((_, rows),) = probes.batches(found, [64])
    return fit(jnp.asarray(x), rows, protocol)


@pytest.mark.parametrize("protocol", probes.PROTOCOLS)
def test_a_lane_alone_and_in_a_batch_of_seven(fit, protocol):
    x, y = problem()
    found = probe_cases.conditions(y, sizes=BATCH)
    together = fit_rows(fit, x, found, protocol)
    alone = fit_rows(fit, x, found[:1], protocol)
    for name, values in together.scores._asdict().items():
        np.testing.assert_allclose(values[0], getattr(alone.scores, name)[0], rtol=1e-6, atol=1e-9)
    assert len(set(np.round(together.scores.test_auc, 6).tolist())) == len(BATCH)
    own, other = (jax.tree.leaves(each.probe[0]) for each in (together, alone))
    for array, single in zip(own, other, strict=True):
        np.testing.assert_allclose(array, single, rtol=1e-4, atol=1e-5)


def test_what_stands_in_padding_has_no_influence(fit):
    x, y = problem()
    x = np.concatenate([x, np.full((1, x.shape[1]), np.nan, np.float32)])
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(14, 40)), [64])
    rng = np.random.default_rng(0)
    fill = lambda kept, mask, high: np.where(mask, kept, rng.integers(0, high, kept.shape)).astype(
        np.int32
    )
    garbage = rows._replace(
        train=fill(rows.train, rows.train_mask, 401),
        y_train=fill(rows.y_train, rows.train_mask, 2),
        test=fill(rows.test, rows.test_mask, 401),
        y_test=fill(rows.y_test, rows.test_mask, 2),
    )
    clean, filled = (fit(jnp.asarray(x), each).scores for each in (rows, garbage))
    for name, values in clean._asdict().items():
        np.testing.assert_array_equal(values, getattr(filled, name), err_msg=name)
    assert np.all(clean.code == codes.CONVERGED)


def test_a_lane_of_one_class_is_degenerate_and_guesses(fit):
    x, y = problem()
    found = probe_cases.conditions(y, sizes=(40, 30))
    single = found[0].__class__(**{**vars(found[0]), "y_train": np.ones_like(found[0].y_train)})
    ours = fit_rows(fit, x, [single, found[1]]).scores
    assert ours.code.tolist() == [codes.DEGENERATE, codes.CONVERGED]
    assert np.isnan(ours.gap[0]) and np.isfinite(ours.gap[1])
    assert ours.test_auc[0] == 0.5 and np.isnan(ours.val_auc[0])
    assert ours.test_auc[1] > 0.6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_value_in_a_row_that_no_lane_uses_changes_nothing(fit, bad):
    x, y = problem()
    found = probe_cases.conditions(y, sizes=(40, 30))
    used = np.concatenate([rows for each in found for rows in (each.train, each.test)])
    broken = x.copy()
    broken[np.setdiff1d(np.arange(len(y)), used)[0], 3] = bad
    ours, clean = (fit_rows(fit, each, found).scores for each in (broken, x))
    assert ours.code.tolist() == clean.code.tolist() == [codes.CONVERGED, codes.CONVERGED]
    np.testing.assert_allclose(ours.test_auc, clean.test_auc, atol=1e-3)


@pytest.mark.parametrize("scale", [1e18, 1e30, 3e36])
def test_a_fit_whose_numbers_overflow_has_no_certificate(fit, scale):
    """The features are finite; their squares, or the logits, need not be."""
    x, y = problem()
    found = probe_cases.conditions(y, sizes=(40, 30))
    fitted = fit_rows(fit, (x / np.abs(x).max() * scale).astype(np.float32), found)
    certified = np.isfinite(fitted.scores.gap)
    assert (certified == (fitted.scores.code <= codes.MAX_TRIPS)).all()
    assert np.isfinite(fitted.scores.test_auc[certified]).all()


@pytest.mark.parametrize("method", ["knn", "lda"])
def test_every_device_finds_the_same(method):
    x, y = problem()
    found = probe_cases.conditions(y, sizes=(40, 30))
    ((_, rows),) = probes.batches(found, [64])
    results = []
    for device in (jax.devices()[0], jax.devices()[3]):
        with jax.default_device(device):
            results.append(probes.BASELINES[method](jnp.asarray(x), rows).scores)
    for name, values in results[0]._asdict().items():
        np.testing.assert_array_equal(values, getattr(results[1], name), err_msg=name)


@pytest.mark.parametrize("method", ["mean_difference", "ridge"])
def test_a_lane_has_the_same_bits_in_any_company(method):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 40)).astype(np.float32), np.arange(300) % 2
    rows = np.stack([rng.permutation(300)[:100] for _ in range(7)])
    together = fit_lanes(x, rows, y, method)
    for lane in (0, 3, 6):
        for company in ([lane], [lane, 1, 5]):
            found = fit_lanes(x, rows[company], y, method)
            np.testing.assert_array_equal(found.probe.w[0], together.probe.w[lane])
            assert found.val_auc[0] == together.val_auc[lane]

"""The difference of class means, against the same formula in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from probejax.probes import batches, mean_difference
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_closed_form


def problem(signal, d=12, seed=0):
    """Features on a mean far from zero, in columns of different scale."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + signal * np.outer(2 * y - 1, rng.normal(size=d))
    return (3000 + x * np.geomspace(0.3, 300, d)).astype(np.float32), y


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_against_float64(noise):
    x, y = problem(0.4)
    found = probe_cases.conditions(y, noise=noise)
    ours = probe_cases.run(lambda rows: mean_difference.fit(jnp.asarray(x), rows), found)
    exact = x.astype(float)
    for lane, condition in enumerate(found):
        theirs = study_closed_form.probe(
            exact[condition.train],
            condition.y_train,
            exact[condition.test],
            condition.y_test,
            study_closed_form.mean_difference,
        )
        np.testing.assert_allclose(ours[lane]["val_auc"], theirs["val_auc"], atol=1e-3)
        np.testing.assert_allclose(ours[lane]["test_auc"], theirs["test_auc"], atol=1e-3)
        np.testing.assert_allclose(ours[lane]["test_acc"], theirs["test_acc"], atol=1e-6)
        np.testing.assert_allclose(ours[lane]["test_f1"], theirs["test_f1"], atol=1e-6)
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] == 0
        assert np.isnan(ours[lane]["hyperparameter"])


def test_the_saved_arrays_score_new_rows():
    x, y = problem(0.4)
    found = probe_cases.conditions(y, sizes=(40, 140))
    ((_, rows),) = batches(found, [256])
    probe = mean_difference.fit(jnp.asarray(x), rows).probe
    for lane, condition in enumerate(found):
        w, b = study_closed_form.mean_difference(
            x[condition.train].astype(float), condition.y_train
        )
        new = x[condition.test].astype(float)
        ours = probe[lane](new)
        np.testing.assert_allclose(probe.w[lane], w, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours, new @ w + b, rtol=1e-4, atol=1e-4 * np.ptp(new @ w))


def test_the_threshold_is_midway():
    x = np.array([[0.0], [2.0], [10.0], [12.0], [5.9], [6.1]], np.float32)
    y = np.array([0, 0, 1, 1, 0, 1])
    (condition,) = probe_cases.conditions(probe_cases.labels(), sizes=(4,))
    fields = {"train": np.arange(4), "y_train": y[:4], "test": np.array([4, 5]), "y_test": y[4:]}
    condition = condition.__class__(**{**vars(condition), **fields})
    ours = probe_cases.run(lambda rows: mean_difference.fit(jnp.asarray(x), rows), [condition])[0]
    assert ours["test_acc"] == 1.0 and ours["test_auc"] == 1.0

"""L2 logistic regression by the study's rules, against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest

from probejax import probes, sizes
from probejax.probes import logreg
from probejax.solvers import codes, l2_float64
from tests import probe_cases
from tests.reference import study_probes


def problem(signal, seed=0, d=12):
    """Features on a mean far from zero, in columns of different scale."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + signal * np.outer(2 * y - 1, rng.normal(size=d))
    return (3 + x * np.geomspace(0.3, 3, d)).astype(np.float32), y


CASES = {"hard": (0.1, 0.0), "fair": (0.25, 0.0), "noisy": (0.4, 0.2)}


@pytest.mark.parametrize("name", CASES)
def test_against_the_study_s_rules(name):
    signal, noise = CASES[name]
    x, y = problem(signal)
    found = probe_cases.conditions(y, noise=noise)
    ours = probe_cases.run(lambda rows: logreg.fit(jnp.asarray(x), rows), found)
    same, exact = 0, x.astype(np.float64)
    for lane, condition in enumerate(found):
        if len(set(condition.y_train)) < 2:
            continue
        theirs = study_probes.probe(
            exact[condition.train],
            condition.y_train,
            exact[condition.test],
            condition.y_test,
            study_probes.fit_l2,
        )
        same += probe_cases.check(ours[lane], theirs)
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] < 1e-5, ours[lane]
    assert same >= len(found) - 2


def test_folds_and_refits_share_one_gram_matrix(monkeypatch):
    x, y = problem(0.3, d=80)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(14, 40)), [64])
    shapes, gram = [], l2_float64._gram
    monkeypatch.setattr(l2_float64, "_gram", lambda x: (shapes.append(x.shape), gram(x))[1])
    found = logreg.fit(jnp.asarray(x), rows).scores
    assert shapes == [(sizes.SHARED[0], 80)] and (found.code == codes.CONVERGED).all()


def test_up_to_three_rows_are_not_searched():
    x, y = problem(0.5)
    found = probe_cases.conditions(y)
    ours = probe_cases.run(lambda rows: logreg.fit(jnp.asarray(x), rows), found)
    for lane, condition in enumerate(found[:2]):
        assert ours[lane]["hyperparameter"] == 1.0
        w, _ = study_probes.fit_l2(x[condition.train].astype(float), condition.y_train, 1.0)
        assert ours[lane]["val_auc"] == 1.0  # two or three points in 12 dimensions are separable
        truth = study_probes.roc_auc_score(condition.y_test, x[condition.test] @ w)
        np.testing.assert_allclose(ours[lane]["test_auc"], truth, atol=1e-3)


def test_of_equal_validation_aucs_the_weakest_regularisation_wins():
    x, y = problem(8.0)  # every C separates every fold
    ours = probe_cases.run(lambda rows: logreg.fit(jnp.asarray(x), rows), probe_cases.conditions(y))
    searched = [lane for lane, size in enumerate(probe_cases.SIZES) if size > 3]
    assert [ours[lane]["val_auc"] for lane in searched] == [1.0] * len(searched)
    assert [ours[lane]["hyperparameter"] for lane in searched] == [1e5] * len(searched)


def test_the_grid_runs_downwards():
    expected = [1e5, 7742.64, 599.484, 46.4159, 3.59381, 0.278256, 0.0215443, 1.6681e-3]
    np.testing.assert_allclose(logreg.STRENGTHS, [*expected, 1.29155e-4, 1e-5], rtol=1e-5)


def test_a_lane_does_not_depend_on_its_neighbours():
    x, y = problem(0.3)
    found, others = probe_cases.conditions(y), probe_cases.conditions(y, seed=9)
    lane = probe_cases.SIZES.index(10)
    others[lane] = found[lane]
    fit = lambda rows: logreg.fit(jnp.asarray(x), rows)
    together, elsewhere = probe_cases.run(fit, found), probe_cases.run(fit, others)
    assert together[lane + 1] != elsewhere[lane + 1]
    assert together[lane] == elsewhere[lane]


def test_what_stands_in_padding_has_no_influence():
    x, y = problem(0.3)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(14, 40)), [64])
    expected = logreg.fit(jnp.asarray(x), rows)
    rng = np.random.default_rng(0)
    fill = lambda kept, mask, high: np.where(mask, kept, rng.integers(0, high, kept.shape)).astype(
        np.int32
    )
    garbage = rows._replace(
        train=fill(rows.train, rows.train_mask, 400),
        y_train=fill(rows.y_train, rows.train_mask, 2),
        test=fill(rows.test, rows.test_mask, 400),
        y_test=fill(rows.y_test, rows.test_mask, 2),
    )
    for ours, theirs in zip(
        logreg.fit(jnp.asarray(x), garbage).scores, expected.scores, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_label_noise_spoils_training_and_validation_but_not_the_test():
    x, y = problem(2.0)
    clean = probe_cases.conditions(y, sizes=(140,))
    noisy = probe_cases.conditions(y, sizes=(140,), noise=0.3)
    fit = lambda found: probe_cases.run(lambda rows: logreg.fit(jnp.asarray(x), rows), found)[0]
    before, after = fit(clean), fit(noisy)
    assert before["val_auc"] > 0.99 and before["test_auc"] > 0.99
    assert after["val_auc"] < 0.8 and after["test_auc"] > 0.8


def test_a_condition_of_one_class_is_degenerate_and_guesses():
    x, y = problem(1.0)
    (found,) = probe_cases.conditions(y, sizes=(40,))
    single = found.__class__(**{**vars(found), "y_train": np.ones_like(found.y_train)})
    ours = probe_cases.run(lambda rows: logreg.fit(jnp.asarray(x), rows), [single])[0]
    assert ours["code"] == codes.DEGENERATE
    assert ours["test_auc"] == 0.5 and np.isnan(ours["val_auc"]) and np.isnan(ours["gap"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_value_in_a_row_that_no_lane_uses_changes_nothing(bad):
    x, y = problem(0.3)
    found = probe_cases.conditions(y, sizes=(40, 140))
    used = np.concatenate([rows for each in found for rows in (each.train, each.test)])
    broken = x.copy()
    broken[np.setdiff1d(np.arange(len(y)), used)[0], 3] = bad
    ours, clean = (
        probe_cases.run(lambda rows, each=each: logreg.fit(jnp.asarray(each), rows), found)
        for each in (broken, x)
    )
    for lane in (0, 1):
        assert ours[lane]["code"] == codes.CONVERGED
        np.testing.assert_allclose(ours[lane]["test_auc"], clean[lane]["test_auc"], atol=1e-3)

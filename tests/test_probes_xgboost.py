"""Boosted trees by the study's rules, against the library's own scikit-learn interface."""

import sys
import threading

import numpy as np
import pytest

from probejax import probes
from probejax.probes import xgboost
from probejax.probes.families.trees import predict
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_xgboost

SIZES = (3, 40, 140)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(xgboost, "DRAWS", 3)
    monkeypatch.setitem(xgboost.CHOICES, "n_estimators", [10, 20])
    monkeypatch.setitem(xgboost.CHOICES, "min_child_weight", [1, 2])
    monkeypatch.setitem(xgboost.CHOICES, "learning_rate", [0.05, 0.1, 0.2])


def problem(signal, seed=0, d=10):
    """Features on a mean far from zero, in columns of different scale."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + signal * np.outer(2 * y - 1, rng.normal(size=d))
    return (300 + x * np.geomspace(0.3, 100, d)).astype(np.float32), y


def run(x, found, fit=xgboost.fit):
    return probe_cases.run(lambda rows: fit(x, rows), found)


def test_the_same_trees_as_the_study_s_rules_give(monkeypatch):
    monkeypatch.setattr(xgboost, "MAX_BIN", 256)  # theirs; ours are fewer
    x, y = problem(0.3)
    found = probe_cases.conditions(y, SIZES)
    ours = run(x, found)
    for lane, condition in enumerate(found):
        theirs = study_xgboost.probe(
            x[condition.train],
            condition.y_train,
            x[condition.test],
            condition.y_test,
            xgboost.draws(42),
        )
        for key in ("val_auc", "test_auc", "test_acc", "test_f1"):
            np.testing.assert_allclose(ours[lane][key], theirs[key], atol=1e-6, err_msg=key)
        np.testing.assert_equal(ours[lane]["hyperparameter"], theirs["draw"])
        assert ours[lane]["code"] == codes.CONVERGED and np.isnan(ours[lane]["gap"])
    assert {ours[lane]["hyperparameter"] for lane in (1, 2)} != {0.0}
    assert ours[2]["test_auc"] > 0.6 and ours[0]["test_auc"] == 0.5


def test_draws_beaten_beyond_repair_are_given_up_and_the_first_of_equals_wins(monkeypatch):
    x, y = problem(8.0)  # every draw separates every fold of the larger sets
    boosted = []
    boost = xgboost._boost
    monkeypatch.setattr(xgboost, "_boost", lambda *args: boosted.append(1) or boost(*args))
    monkeypatch.setattr(xgboost.devices, "cores", lambda: 1)
    ours = run(x, probe_cases.conditions(y, (140,)))[0]
    assert ours["val_auc"] == 1.0 and ours["hyperparameter"] == 0.0
    assert len(boosted) == 2  # the first draw, and the final fit


def test_a_draw_is_given_up_only_when_it_cannot_be_chosen():
    x, y = problem(0.3)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, (40,)), [64])
    folds = probes.scores.folds(rows)
    lane = xgboost._Lane(x, rows, 0, folds.train)
    lane.means[:] = [-np.inf, 0.9, -np.inf]
    beaten = {(draw, best): lane._is_beaten(draw, best) for draw in (0, 2) for best in (0.85, 0.9)}
    assert beaten == {(0, 0.85): True, (0, 0.9): False, (2, 0.85): True, (2, 0.9): False}
    lane.means[1] = 1.0
    assert not lane._is_beaten(0, 1.0) and lane._is_beaten(2, 1.0)


def test_a_split_that_no_fold_can_reach_is_not_tried(monkeypatch):
    x, y = problem(1.0)
    monkeypatch.setitem(xgboost.CHOICES, "min_child_weight", [9])
    found = probe_cases.conditions(y, (12, 40))  # folds of 10 and 33 rows: at most 2.5 and 8.25
    boosted, boost = [], xgboost._boost
    monkeypatch.setattr(xgboost, "_boost", lambda *args: boosted.append(1) or boost(*args))
    ours = run(x, found)
    assert [ours[lane]["val_auc"] for lane in range(2)] == [0.5, 0.5]
    assert len(boosted) == 2  # the final fits
    truth = study_xgboost.probe(
        x[found[1].train], found[1].y_train, x[found[1].test], found[1].y_test, xgboost.draws(42)
    )
    assert truth["val_auc"] == 0.5  # as the library finds, the long way


def test_draws_are_seeded_and_within_the_study_s_ranges():
    assert xgboost.draws(1) == xgboost.draws(1) != xgboost.draws(2)
    for settings in xgboost.draws(42):
        assert list(settings) == list(xgboost.CHOICES)
        assert all(settings[name] in values for name, values in xgboost.CHOICES.items())
    np.testing.assert_allclose(
        np.log10(xgboost.CHOICES["reg_alpha"])[[0, 1, 9]], [-3, -2.5556, 1], atol=1e-4
    )


def test_lanes_that_train_alike_are_fitted_once(monkeypatch):
    x, y = problem(0.4)
    (found,) = probe_cases.conditions(y, (40,))
    other_test = found.__class__(
        **{**vars(found), "test": found.test[:70], "y_test": found.y_test[:70]}
    )
    finished, finish = [], xgboost._Lane.finish
    monkeypatch.setattr(
        xgboost._Lane, "finish", lambda lane: finished.append(lane.seed) or finish(lane)
    )
    twins, alone = run(x, [found, other_test]), run(x, [other_test])
    assert finished == [42, 42]  # once in either call
    assert twins[1] == pytest.approx(alone[0], nan_ok=True)
    assert twins[0]["test_auc"] != twins[1]["test_auc"]


def test_another_seed_draws_and_samples_anew():
    x, y = problem(0.3)
    (found,) = probe_cases.conditions(y, (140,))
    reseeded = found.__class__(**{**vars(found), "seed": 7})
    first, second = run(x, [found, reseeded]).values()
    assert first["val_auc"] != second["val_auc"] and first["test_auc"] != second["test_auc"]


def test_neighbours_threads_and_padding_have_no_influence(monkeypatch):
    x, y = problem(0.3)
    found, others = probe_cases.conditions(y, SIZES), probe_cases.conditions(y, SIZES, seed=9)
    lane = SIZES.index(40)
    others[lane] = found[lane]
    together, elsewhere = run(x, found), run(x, others)
    monkeypatch.setattr(xgboost.devices, "cores", lambda: 1)
    alone = run(x, found[lane : lane + 1])[0]
    np.testing.assert_equal(together[lane], elsewhere[lane])
    np.testing.assert_equal(together[lane], alone)
    ((_, rows),) = probes.batches(found[lane : lane + 1], [64])
    padded = rows._replace(y_train=np.where(rows.train_mask, rows.y_train, 1))
    padded = padded._replace(train=np.where(rows.train_mask, rows.train, 17))
    for a, b in zip(xgboost.fit(x, padded).scores, xgboost.fit(x, rows).scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_class_is_told():
    x, y = problem(1.0)
    single, sound = probe_cases.conditions(y, (40, 60))
    single = single.__class__(**{**vars(single), "y_train": np.ones_like(single.y_train)})
    ours = run(x, [single, sound])
    assert [ours[lane]["code"] for lane in range(2)] == [codes.DEGENERATE, codes.CONVERGED]
    assert ours[0]["test_auc"] == 0.5 and np.isnan(ours[0]["val_auc"])
    assert ours[1]["val_auc"] > 0.6


def test_a_model_can_be_read_back_from_its_bytes():
    x, y = problem(0.5)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, (60,)), [64])
    fitted = xgboost.fit(x, rows)
    model = fitted.probe.model[0][: fitted.probe.size[0]].tobytes()
    logits = predict(model, x[rows.test[0]])
    auc = probes.scores.metrics.auc(logits, rows.y_test[0], rows.test_mask[0])
    np.testing.assert_allclose(auc, fitted.scores.test_auc[0], atol=1e-6)
    assert len(np.unique(logits)) > 20


def test_without_the_library_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(RuntimeError, match=r"needs the xgboost library.*probejax\[xgboost\]"):
        xgboost.load()


def test_no_thread_outlives_a_fit():
    x, y = problem(0.5)
    before = threading.active_count()
    run(x, probe_cases.conditions(y, (40,)))
    assert threading.active_count() == before

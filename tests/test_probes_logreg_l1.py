"""L1 logistic regression on raw features by the study's rules, against a float64 reference."""

import numpy as np
import pytest

from probejax import probes
from probejax.probes import logreg_l1
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_probes

SIZES = (3, 40, 140)


def problem(signal, seed=0, d=8):
    """Features on a mean far from zero, in columns of different scale."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, d)) + signal * np.outer(2 * y - 1, rng.normal(size=d))
    return (30 + x * np.geomspace(0.3, 3, d)).astype(np.float32), y


def run(x, found):
    return probe_cases.run(lambda rows: logreg_l1.fit(x, rows), found)


@pytest.mark.parametrize("signal, noise", [(0.25, 0.0), (0.4, 0.2)], ids=["fair", "noisy"])
def test_against_the_study_s_rules(signal, noise):
    x, y = problem(signal)
    found = probe_cases.conditions(y, SIZES, noise=noise)
    ours, same = run(x, found), 0
    exact = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    for lane, condition in enumerate(found):
        if len(set(condition.y_train)) < 2:
            continue
        theirs = study_probes.probe(
            exact[condition.train],
            condition.y_train,
            exact[condition.test],
            condition.y_test,
            study_probes.fit_l1,
        )
        same += probe_cases.check(ours[lane], theirs)
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] < 1e-6, ours[lane]
    assert same >= len(found) - 1
    assert ours[0]["hyperparameter"] == 1.0  # three rows: scikit-learn's default


def test_the_penalty_leaves_weights_at_zero_and_the_mean_belongs_to_the_probe(monkeypatch):
    monkeypatch.setattr(logreg_l1, "STRENGTHS", np.array([0.05, 0.02]))
    x, y = problem(0.4)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, (140,)), [256])
    fitted = logreg_l1.fit(x, rows)
    w, b, mean = fitted.probe.w[0], fitted.probe.b[0], fitted.probe.mean
    assert 0 < (w != 0).sum() < len(w)
    assert (np.abs(mean - x.mean(axis=0)) < x.std(axis=0)).all()
    logits = (x[rows.test[0]] - mean) @ w + b
    auc = probes.scores.metrics.auc(logits, rows.y_test[0], rows.test_mask[0])
    np.testing.assert_allclose(auc, fitted.scores.test_auc[0], atol=1e-4)


def test_neighbours_chunks_and_padding_have_no_influence(monkeypatch):
    x, y = problem(0.3)
    found, others = (probe_cases.conditions(y, (40, 50, 60), seed=seed) for seed in (1, 9))
    others[1] = found[1]
    together, elsewhere = run(x, found), run(x, others)
    assert together[0] != elsewhere[0]
    assert together[1] == elsewhere[1]
    monkeypatch.setattr(logreg_l1, "_CHUNK_BYTES", 4 * 64 * 8)  # one fit at a time
    for lane, ours in run(x, found).items():
        for key, value in ours.items():  # batches of other sizes round differently
            np.testing.assert_allclose(value, together[lane][key], atol=1e-5, err_msg=key)
    ((_, rows),) = probes.batches(found, [64])
    rng = np.random.default_rng(0)
    fill = lambda kept, mask, high: np.where(mask, kept, rng.integers(0, high, kept.shape)).astype(
        np.int32
    )
    garbage = rows._replace(
        train=fill(rows.train, rows.train_mask, 400), y_train=fill(rows.y_train, rows.train_mask, 2)
    )
    for a, b in zip(logreg_l1.fit(x, garbage).scores, logreg_l1.fit(x, rows).scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_class_is_told():
    x, y = problem(1.0)
    single, sound = probe_cases.conditions(y, (40, 60))
    single = single.__class__(**{**vars(single), "y_train": np.ones_like(single.y_train)})
    ours = run(x, [single, sound])
    assert [ours[lane]["code"] for lane in range(2)] == [codes.DEGENERATE, codes.CONVERGED]
    assert np.isnan(ours[0]["val_auc"]) and ours[0]["test_auc"] == 0.5
    assert np.isnan(ours[0]["gap"]) and ours[1]["gap"] <= 1e-6
    assert ours[1]["val_auc"] > 0.9 and ours[1]["test_auc"] > 0.9

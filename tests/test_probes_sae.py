"""L1 logistic regression on chosen latents by the study's rules, against an exact solver."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import probes, saes
from probejax.probes import sae as sae_probe
from probejax.saes import stream
from probejax.saes.winners import Keep
from probejax.solvers import codes
from tests import probe_cases
from tests.reference import study_probes
from tests.sae_cases import random_sae

D_MODEL, D_SAE, K = 12, 60, 5


@pytest.fixture(scope="module")
def dictionary():
    return random_sae(D_MODEL, D_SAE)


def problem(signal, seed=0):
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    shift = signal * np.outer(2 * y - 1, rng.normal(size=D_MODEL))
    return jnp.asarray(rng.normal(size=(probe_cases.N_TASK, D_MODEL)) + shift, jnp.float32), y


def fitted(x, found, dictionary, ranking="normalised"):
    """Selects and fits on all conditions; returns the scores and the latents of each."""
    latents = {}

    def fit(rows):
        selection = sae_probe.select(x, rows, dictionary, K, ranking)
        latents.update({tuple(rows.train[i]): each for i, each in enumerate(selection.latents)})
        return sae_probe.fit(selection, rows, K)

    scores = probe_cases.run(fit, found)
    start = lambda condition: tuple(condition.train.tolist())
    chosen = {
        lane: next(each for key, each in latents.items() if key[: len(c.train)] == start(c))
        for lane, c in enumerate(found)
    }
    return scores, chosen


@pytest.mark.parametrize(
    "signal, noise, ranking",
    [
        (0.15, 0.0, "normalised"),
        (0.3, 0.0, "raw"),
        pytest.param(0.5, 0.2, "raw", marks=pytest.mark.thorough),
    ],
)
def test_against_the_study_s_rules(dictionary, signal, noise, ranking):
    x, y = problem(signal)
    found = probe_cases.conditions(y, noise=noise)
    ours, chosen = fitted(x, found, dictionary, ranking)
    latents = np.asarray(saes.encode(dictionary, x), np.float64)
    compared = []
    for lane, c in enumerate(found):
        if len(set(c.y_train)) < 2:
            continue
        # With few rows many latents tie, and which of them are chosen is a matter of rounding.
        if len(c.train) >= 40:
            columns = study_probes.rank(latents[c.train], c.y_train, K, ranking == "normalised")
            np.testing.assert_array_equal(chosen[lane], columns)
        z = latents[:, chosen[lane]]
        theirs = study_probes.probe(z[c.train], c.y_train, z[c.test], c.y_test, study_probes.fit_l1)
        compared.append(probe_cases.check(ours[lane], theirs))
        assert ours[lane]["code"] == codes.CONVERGED and ours[lane]["gap"] < 1e-5, ours[lane]
    assert sum(compared) >= len(compared) - 1 >= len(found) - 3


def test_the_reference_solver_is_exact(dictionary):
    x, y = problem(0.3)
    z = np.asarray(saes.encode(dictionary, x), np.float64)[:40, :K]
    for C in study_probes.GRID:
        w, _, miss = study_probes.fit_l1(z, y[:40], C)
        assert miss < 1e-5
        assert study_probes.fit_l1(-z, y[:40], C)[0] == pytest.approx(-w, abs=1e-6)


def test_selection_encodes_only_what_is_chosen(dictionary):
    x, y = problem(0.3)
    for _, rows in probes.batches(probe_cases.conditions(y), probe_cases.GROUPS):
        chosen = sae_probe.select(x, rows, dictionary, K, "raw")
        assert chosen.latents.shape == chosen.columns.shape == (len(rows.train), K)
        latents = np.asarray(saes.encode(dictionary, x))
        for lane in range(len(rows.train)):
            np.testing.assert_allclose(
                np.asarray(chosen.values)[:, chosen.columns[lane]],
                latents[:, chosen.latents[lane]],
                rtol=1e-5,
                atol=1e-5,
            )
        assert chosen.values.shape[1] == len(np.unique(chosen.latents))


def test_a_smaller_k_uses_a_prefix_of_a_larger_selection(dictionary):
    x, y = problem(0.3)
    found = probe_cases.conditions(y, sizes=(14, 40))
    ((_, rows),) = probes.batches(found, [64])
    large = sae_probe.select(x, rows, dictionary, K, "normalised")
    small = sae_probe.select(x, rows, dictionary, 2, "normalised")
    np.testing.assert_array_equal(large.latents[:, :2], small.latents)
    fit = lambda selection, k: sae_probe.fit(selection, rows, k).scores
    for ours, theirs in zip(fit(large, 2), fit(small, 2), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (fit(large, K).val_auc != fit(small, 2).val_auc).any()


@pytest.mark.parametrize("keep", ["all", "top"])
def test_the_width_is_shared_among_the_local_devices(keep, monkeypatch):
    x, y = problem(0.3)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(14, 40)), [64])
    wide = random_sae(D_MODEL, 5000)  # three blocks
    if keep == "top":
        wide = dataclasses.replace(wide, keep=Keep("top", 200))
    assert jax.local_device_count() == 4  # see conftest.py
    used, whole = [], stream._over

    def over(sae, begin, here, one, join, block, devices):
        used.append([*devices])
        return whole(sae, begin, here, one, join, block, devices)

    monkeypatch.setattr(stream, "_over", over)
    with jax.default_device(None):
        shared = sae_probe.select(x, rows, wide, 32, "normalised")
    # The ranking's pass; a top-k dictionary has one for the winners too, and again for the columns.
    assert used == [jax.local_devices()] * (1 if keep == "all" else 3)
    alone = sae_probe.select(x, rows, wide, 32, "normalised")
    np.testing.assert_array_equal(shared.latents, alone.latents)
    np.testing.assert_array_equal(shared.columns, alone.columns)
    np.testing.assert_array_equal(shared.values, alone.values)
    assert len(np.unique(shared.latents // 2048)) == 3  # every range has some


def test_binarised_latents_are_on_above_one(dictionary):
    x, y = problem(0.3)
    found = probe_cases.conditions(y, sizes=(140,))
    ((_, rows),) = probes.batches(found, [256])
    selection = sae_probe.select(x, rows, dictionary, K, "raw")
    ours = sae_probe.fit(selection, rows, K, binarised=True)
    on = sae_probe.Selection(jnp.asarray(selection.values > 1.0, jnp.float32), *selection[1:])
    theirs = sae_probe.fit(on, rows, K)
    np.testing.assert_array_equal(ours.probe.w, theirs.probe.w)
    assert (ours.probe.w != sae_probe.fit(selection, rows, K).probe.w).any()


def test_strict_ranks_inside_the_fold(dictionary):
    x, y = problem(0.0)  # no signal: ranking on the validation rows too is pure leakage
    found = probe_cases.conditions(y, sizes=(40,))
    ((_, rows),) = probes.batches(found, [64])
    paper, strict = (
        sae_probe.select(x, rows, dictionary, K, "raw", protocol) for protocol in probes.PROTOCOLS
    )
    np.testing.assert_array_equal(paper.latents, strict.latents)  # the final fit is the same
    latents = np.asarray(saes.encode(dictionary, x), np.float64)
    (c,) = found
    for fold in range(6):
        inside = ~rows.val[0, fold, : len(c.train)]
        expected = study_probes.rank(latents[c.train[inside]], c.y_train[inside], K, False)
        ours = strict.values[c.train][:, strict.fold_columns[fold]]
        np.testing.assert_allclose(ours, latents[c.train][:, expected], rtol=1e-5, atol=1e-5)
    fit = lambda each, protocol: sae_probe.fit(each, rows, K, protocol=protocol).scores
    leaky, clean = fit(paper, "paper"), fit(strict, "strict")
    assert leaky.val_auc[0] > clean.val_auc[0] + 0.05


def test_strict_never_validates_on_training_rows(dictionary):
    x, y = problem(0.5)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(2, 3)), [16])
    for protocol, expected in zip(probes.PROTOCOLS, ([1, 1], [0.5, 0.5]), strict=True):
        selection = sae_probe.select(x, rows, dictionary, K, "raw", protocol)
        found = sae_probe.fit(selection, rows, K, protocol=protocol).scores
        np.testing.assert_array_equal(found.val_auc, expected)


def test_more_latents_than_were_selected_is_an_error(dictionary):
    x, y = problem(0.3)
    ((_, rows),) = probes.batches(probe_cases.conditions(y, sizes=(10,)), [16])
    selection = sae_probe.select(x, rows, dictionary, 4, "raw")
    with pytest.raises(ValueError, match=r"^k=5, but only 4 latents were selected\.$"):
        sae_probe.fit(selection, rows, 5)


def test_latents_are_ranked_on_the_corrupted_labels_of_the_lane(dictionary):
    x, y = problem(1.0)
    found = [
        *probe_cases.conditions(y, sizes=(40,)),
        *probe_cases.conditions(y, sizes=(40,), noise=0.4),
    ]
    ((_, rows),) = probes.batches(found, [64])
    chosen = sae_probe.select(x, rows, dictionary, K, "raw").latents
    latents = np.asarray(saes.encode(dictionary, x), np.float64)
    for lane, c in enumerate(found):
        expected = study_probes.rank(latents[c.train], c.y_train, K, normalised=False)
        np.testing.assert_array_equal(chosen[lane], expected)
    assert (chosen[0] != chosen[1]).any()


def test_of_equal_validation_aucs_the_weakest_regularisation_wins(dictionary):
    x, y = problem(6.0)
    ours, _ = fitted(x, probe_cases.conditions(y), dictionary)
    searched = [lane for lane, size in enumerate(probe_cases.SIZES) if size > 3]
    assert [ours[lane]["val_auc"] for lane in searched] == [1.0] * len(searched)
    assert [ours[lane]["hyperparameter"] for lane in searched] == [1e5] * len(searched)


def test_up_to_three_rows_are_not_searched(dictionary):
    x, y = problem(0.5)
    found = probe_cases.conditions(y)
    ours, chosen = fitted(x, found, dictionary)
    latents = np.asarray(saes.encode(dictionary, x), np.float64)
    for lane, c in enumerate(found[:2]):
        assert len(c.train) == lane + 2
        z = latents[:, chosen[lane]]
        w = study_probes.fit_l1(z[c.train], c.y_train, 1.0)[0]
        assert ours[lane]["hyperparameter"] == 1.0
        on_train = study_probes.roc_auc_score(c.y_train, z[c.train] @ w)
        np.testing.assert_allclose(ours[lane]["val_auc"], on_train, atol=1e-3)


def test_a_lane_does_not_depend_on_its_neighbours(dictionary):
    x, y = problem(0.3)
    found, others = probe_cases.conditions(y), probe_cases.conditions(y, seed=9)
    lane = probe_cases.SIZES.index(10)
    others[lane] = found[lane]
    together, elsewhere = (fitted(x, each, dictionary)[0] for each in (found, others))
    assert together[lane + 1] != elsewhere[lane + 1]
    for name, value in together[lane].items():
        np.testing.assert_allclose(value, elsewhere[lane][name], rtol=1e-6, atol=1e-7, err_msg=name)

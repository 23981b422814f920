"""The question of the study on arrays: an SAE that must win, one that cannot, and errors."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from probejax.analysis.intervals import Interval
from probejax.comparison import Comparison, _interval, _seeds, compare

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6)).astype(np.float32)
METHODS = ("logreg", "mean_difference", "sae_k2")


class Corners:
    """Latents that fire where the first two columns agree in sign, as no linear probe can tell."""

    def encode(self, x):
        agree = np.maximum(np.asarray(x)[:, :2].prod(axis=1, keepdims=True), 0)
        return np.concatenate([agree, np.maximum(x, 0)], axis=1)


def test_an_sae_that_sees_what_the_others_cannot_helps():
    y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    found = compare(X, y, Corners(), methods=METHODS, draws=4)
    assert found.low > 0.2 and found.verdict.startswith("SAE probes help: test AUC +0.")
    assert len(found.draws) == 4 and len(found.fits) == 12
    tests = found.fits[found.fits["method"] == "sae_k2"].set_index("seed")["test_auc"]
    np.testing.assert_allclose(found.draws["with_sae"], tests[found.draws["seed"]], atol=1e-9)
    assert "sae_k2" in repr(found) and repr(found).startswith(found.verdict)


def test_noise_makes_no_certain_difference():
    y = np.random.default_rng(1).permutation(np.arange(240) % 2)
    found = compare(X, y, Corners(), methods=METHODS, draws=4)
    assert found.low < 0 < found.high and "no certain difference" in found.verdict


def test_no_probe_is_tested_on_a_copy_of_what_it_was_trained_on():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(80, 6)), rng.permutation(np.arange(80) % 2)
    which = rng.permutation(np.repeat(np.arange(80), 4))
    methods = ("knn", "mean_difference", "sae_k2")
    copied = compare(x[which], y[which], Corners(), methods=methods, draws=3)
    assert copied.fits["test_auc"].max() < 0.8  # nearest neighbours find a copy with 1.0
    of_the_study = compare(x[which], y[which], Corners(), methods=methods, draws=3,
                           protocol="paper")  # fmt: skip
    assert of_the_study.fits["test_auc"].max() > 0.95
    first = np.sort(np.unique(which, return_index=True)[1])
    once = compare(x[which[first]], y[which[first]], Corners(), methods=methods, draws=3)
    np.testing.assert_array_equal(copied.fits["test_auc"], once.fits["test_auc"])


Three = tuple[float, float, float]
NONE = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "stated, averaged, said",
    [
        ((0.02, 0.01, 0.03), (0.02, 0.01, 0.03), "SAE probes help: test AUC +0.0200 [+0.0100, "
         "+0.0300] over 5 draws"),
        ((0.02, 0.01, 0.03), (0.001, -0.01, 0.012), "SAE probes make no certain difference: test "
         "AUC +0.0200 [+0.0100, +0.0300] over 5 draws; with ties in validation averaged +0.0010 "
         "[-0.0100, +0.0120]"),
        ((-0.02, -0.03, -0.01), (-0.01, -0.02, -0.001), "SAE probes hurt: test AUC -0.0200 "
         "[-0.0300, -0.0100] over 5 draws; with ties in validation averaged -0.0100 [-0.0200, "
         "-0.0010]"),
        (NONE, NONE, "SAE probes make no difference in any of 5 draws: the test AUC of what is "
         "chosen is the same with them"),
        (NONE, (0.01, 0.001, 0.02), "SAE probes make no certain difference: test AUC +0.0000 "
         "[+0.0000, +0.0000] over 5 draws; with ties in validation averaged +0.0100 [+0.0010, "
         "+0.0200]"),
    ],
)  # fmt: skip
def test_the_rule_for_ties_decides_nothing(stated: Three, averaged: Three, said):
    table = pd.DataFrame(index=range(5))
    assert Comparison(*stated, Interval(*averaged), table, table).verdict == said


def test_ties_are_those_of_the_draws():
    """Two latents and the first column alone rank validation rows alike, and test rows not."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(80, 6)), np.arange(80) % 2
    x[:, 2] += 3 * y
    found = compare(x, y, Corners(), methods=METHODS, draws=4)
    tied = found.draws["tied"].to_numpy() > 0
    best = found.fits.groupby("seed")["val_auc"].transform("max")
    by_hand = found.fits[found.fits["val_auc"] >= best - 1e-9].groupby("seed")["test_auc"].mean()
    rest = found.fits[found.fits["method"] != "sae_k2"]
    best = rest.groupby("seed")["val_auc"].transform("max")
    by_hand -= rest[rest["val_auc"] >= best - 1e-9].groupby("seed")["test_auc"].mean()
    assert tied.any() and found.averaged.mean == pytest.approx(by_hand.mean(), abs=1e-7)
    assert found.averaged.mean != found.difference


def test_draws_that_all_differ_by_the_same_give_no_interval():
    found = _interval(np.array([0.01, 0.01]), 1 / 3)
    assert (found.mean, found.low, found.high) == (0.01, -np.inf, np.inf)
    table = pd.DataFrame(index=range(2))
    said = Comparison(*found, found, table, table).verdict
    assert said == (
        "SAE probes make no certain difference: test AUC +0.0100, the same in each, which gives no "
        "interval, over 2 draws"
    )
    assert _interval(np.zeros(3), 1 / 3) == Interval(0, 0, 0)


def test_the_interval_by_hand():
    apart = np.array([0.01, 0.03, 0.02, 0.06])
    mean, low, high = _interval(apart, 1 / 3)
    assert mean == pytest.approx(0.03)
    error = np.sqrt((1 / 4 + 1 / 3) * np.var(apart, ddof=1))
    half = stats.t(3).interval(0.95)[1] * error
    np.testing.assert_allclose([low, high], [0.03 - half, 0.03 + half])


def test_draws_and_seed_are_whole_numbers():
    assert _seeds(np.int64(3), 2) == range(3, 5)
    for seed, draws, said in ((0, 2.5, "draws=2.5"), (0, "5", "draws='5'"), (-1, 5, "seed=-1")):
        with pytest.raises(ValueError, match=f"{said} will not do; give a whole number, at least"):
            _seeds(seed, draws)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": ("logreg",)}, "compares nothing"),
        ({"methods": ("sae_k2",)}, "compares nothing"),
        ({"methods": ("logreg", "sae_k64")}, "more latents than the SAE's 7"),
        ({"methods": ("attention", "sae_k2")}, "attention cannot be compared"),
        ({"methods": ("logreg_shuffled", "sae_k2")}, "cannot be compared"),
        ({"methods": ("lgreg", "sae_k2")}, "Did you mean logreg"),
        ({"draws": 1}, "at least 2"),
        ({"methods": "logreg"}, r"methods=\['logreg'\] compares nothing"),
        ({"sae": None}, "sae is None; expected an SAE, as px.load_sae returns"),
        ({"x": sparse.csr_array(X)}, "the activations are a sparse matrix; give a dense one"),
        ({"x": pd.DataFrame(X).astype(str)}, "the activations are .*; expected numbers"),
        ({"y": np.zeros(240)}, "exactly two"),
        ({"y": np.arange(5) % 2}, "one label per row"),
        ({"y": np.arange(240) == 3}, "it needs 4 of either class"),
        ({"x": X[np.arange(240) % 6]}, "different rows of the data cannot be split: it needs 4 of"),
        ({"x": X[0]}, "expected one row per prompt"),
        ({"x": np.where(X > 2, np.nan, X)}, "NaN or infinity"),
    ],
)
def test_what_will_not_do_is_said(change, message):
    given = {"x": X, "y": np.arange(240) % 2, "methods": METHODS, "draws": 2}
    given |= {"sae": Corners()} | change
    with pytest.raises(ValueError, match=message):
        compare(given.pop("x"), given.pop("y"), given.pop("sae"), **given)

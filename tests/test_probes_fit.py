"""The front door: arrays and labels of every kind, one problem or many, and what is refused."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from probejax import activations, probes, saes
from probejax.probes import logreg
from probejax.probes.fit import fit, fit_lanes
from probejax.probes.folds import stratified_folds
from probejax.probes.methods import LAST_TOKEN
from probejax.tasks import Condition
from tests import token_cases

fit_module = sys.modules["probejax.probes.fit"]  # whose name the function has, too

N, D = 150, 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X[:, 0] + 0.5 * RNG.normal(size=N) > 0).astype(int)


def narrow():
    """An SAE that reads activations three wide."""
    zeros = jnp.zeros(4)
    return saes.SAE(jnp.ones((3, 4)), zeros, None, jnp.zeros(3), zeros)


class Rectified:
    def encode(self, x):
        return np.maximum(np.concatenate([x, -x], axis=1), 0)


@pytest.mark.parametrize(
    "y, classes",
    [
        (Y, (0, 1)),
        (Y.astype(bool), (False, True)),
        (2 * Y - 1, (-1, 1)),
        (Y.astype(np.float32), (0.0, 1.0)),
        (np.where(Y, "spam", "ham"), ("ham", "spam")),
        (np.where(Y, "spam", "ham").astype(object), ("ham", "spam")),
        (np.where(Y, "spam", "ham").tolist(), ("ham", "spam")),
        (torch.from_numpy(Y), (0, 1)),
        (jnp.asarray(Y), (0, 1)),
        (np.where(Y, 10.0, 9.0), (9.0, 10.0)),
    ],
)
def test_two_values_of_any_kind(y, classes):
    found, plain = fit(X, y, "ridge"), fit(X, Y, "ridge")
    assert found.classes == classes and (str(classes[1]) in repr(found) or classes == (0, 1))
    np.testing.assert_array_equal(found.probe.w, plain.probe.w)


@pytest.mark.parametrize(
    "kind",
    [np.asarray, jnp.asarray, torch.from_numpy, np.float64, np.ndarray.tolist],
    ids=["numpy", "jax", "torch", "float64", "list"],
)
def test_activations_of_any_kind(kind):
    found = fit(kind(X), Y, "ridge")
    np.testing.assert_allclose(found.probe(kind(X)), fit(X, Y, "ridge").probe(X), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    half = torch.from_numpy(X).to(dtype)
    found = fit(half, Y, "ridge")
    np.testing.assert_allclose(found.probe(half), found.probe(half.float().numpy()))
    np.testing.assert_allclose(
        found.probe(jnp.asarray(half.float().numpy(), "bfloat16")[:, :]),
        found.probe(half),
        atol=0.05,
    )


@pytest.mark.parametrize("method", [*LAST_TOKEN, "sae_k4", "sae_k4_binarised"])
def test_every_method_fits_is_called_and_comes_back_from_its_file(method, tmp_path):
    sae = {"sae": Rectified()} if method.startswith("sae") else {}
    found = fit(X, Y, method, **sae)
    logits = np.asarray(found.probe(X))
    assert logits.shape == (N,) and ((logits > 0) == Y).mean() > 0.75
    assert 0.6 < found.val_auc <= 1 and f"{N} training rows" in repr(found)
    bad = np.where(np.arange(N)[:, None] == 3, np.nan, X)
    np.testing.assert_array_equal(np.isnan(found.probe(bad)), np.arange(N) == 3)
    probes.save(found, tmp_path / "p", site="resid_post.9")
    back = probes.load_probe(tmp_path / "p", **sae)
    np.testing.assert_allclose(back(X), logits, rtol=1e-5, atol=1e-5)
    assert back.origin == {"method": method, "classes": ["0", "1"], "site": "resid_post.9"}


_OTHERS = [pytest.param(each, marks=pytest.mark.thorough) for each in ("concat_pca", "ema")]


@pytest.mark.parametrize("method", ["mean_pool", "max_pool", "attention", *_OTHERS])
def test_methods_on_all_tokens_come_back_from_their_file(method, tmp_path):
    y = np.arange(60) % 2
    tokens = token_cases.tokens(2 + np.arange(60) % 7, y)
    found = fit(tokens, y, method)
    logits = np.asarray(found.probe(tokens))
    assert logits.shape == (60,) and np.isfinite(logits).all()
    probes.save(found.probe, tmp_path / "p")
    np.testing.assert_allclose(probes.load_probe(tmp_path / "p")(tokens), logits, atol=1e-6)
    with pytest.raises(ValueError, match="reads all tokens of a prompt"):
        found.probe(X)


def test_a_probe_can_be_traced():
    probe = fit(X, Y, "ridge").probe
    np.testing.assert_allclose(jax.jit(lambda x: probe(x))(X), probe(X), atol=1e-6)
    assert jax.grad(lambda x: probe(x).sum())(jnp.asarray(X)).shape == X.shape


def test_lanes_are_what_single_fits_are():
    rows = np.stack([np.random.default_rng(i).permutation(N)[:90] for i in range(5)])
    mask = np.arange(90) < np.array([90, 90, 40, 9, 20])[:, None]
    many = fit_lanes(X, rows, Y[rows], "logreg", mask=mask)
    listed = fit_lanes(X, [r[m] for r, m in zip(rows, mask, strict=True)], Y, "logreg")
    assert many.probe(X).shape == (5, N) and many.val_auc.shape == (5,)
    assert (many.gap <= 1e-6).all() and "5 probes" in repr(many)
    for lane in range(5):
        own = rows[lane][mask[lane]]
        alone = fit_lanes(X, own[None], Y[own][None], "logreg")
        np.testing.assert_allclose(alone[0].probe(X), many[lane].probe(X), atol=1e-4)
        np.testing.assert_allclose(alone.val_auc[0], many.val_auc[lane], atol=1e-6)
        np.testing.assert_array_equal(listed[lane].probe.w, many[lane].probe.w)


@pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray, torch.tensor, pandas.Series])
def test_labels_of_rows_come_in_any_kind(kind):
    rows = [np.arange(40), np.arange(20, 90)]
    found = fit_lanes(X, rows, kind(Y), "ridge", mask=[np.ones(40, bool), np.arange(70) < 60])
    expected = fit_lanes(X, [rows[0], rows[1][:60]], [Y[:40], Y[20:80]], "ridge")
    np.testing.assert_array_equal(found.probe.w, expected.probe.w)


@pytest.mark.parametrize("method", ["ridge", "knn", "mlp"])
def test_no_rows_have_no_logits_and_a_single_probe_no_lanes(method):
    found = fit(X, Y, method)
    assert found.probe(X[:0]).shape == (0,)
    assert fit_lanes(X, np.arange(N)[None], Y, method).probe(X[:0]).shape == (1, 0)
    with pytest.raises(IndexError, match="a single probe"):
        found.probe[0]


def test_more_rows_than_an_auc_counts():
    x = np.random.default_rng(1).normal(size=(70_000, 2)).astype(np.float32)
    found = fit(x, x[:, 0] > 0, "mean_difference")
    assert found.val_auc > 0.99 and found.probe(x[:3]).shape == (3,)


def test_the_search_reads_no_row_but_those_that_validate():
    """So that few rows of a large matrix take no more memory than they need."""
    x = np.full((50_000, 3), np.nan, np.float32)
    x[:4] = np.arange(12).reshape(4, 3)
    rows, val = np.array([[0, 1, 2, 9], [2, 3, 9, 9]]), np.array([[1, 0, 1, 0], [0, 1, 0, 0]], bool)
    w = np.array([[1, 2], [1, 10]], np.float32)[:, :, None] * np.ones(3, np.float32)
    expected = [[[3, 0, 21, 0], [6, 0, 42, 0]], [[0, 30, 0, 0], [0, 300, 0, 0]]]
    np.testing.assert_array_equal(logreg.rank_path(x, rows, val, w), expected)


def test_more_rows_than_the_study_has():
    x = np.random.default_rng(1).normal(size=(2500, 5)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(int)
    found = fit(x, y, "ridge")
    theirs = RidgeClassifier(alpha=1 / float(found.hyperparameter)).fit(x.astype(float), y)
    np.testing.assert_allclose(found.probe(x), theirs.decision_function(x), atol=1e-4)


@pytest.mark.parametrize("n, positives", [(128, 3), (1000, 5), (1000, 500), (100_000, 40)])
def test_the_fifth_that_validates_has_both_classes(n, positives):
    y = np.zeros(n, int)
    y[:positives] = 1
    (val,) = stratified_folds(np.random.default_rng(0).permutation(y))
    assert val.sum() <= min(0.2 * n + 1, 1001)
    shuffled = np.random.default_rng(0).permutation(y)
    assert 0 < shuffled[val].sum() < positives


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": X[0]}, r"are \(12,\); expected one row per prompt"),
        ({"x": X[None]}, r"are \(1, 150, 12\)"),
        ({"x": np.full((N, D), "a")}, "expected numbers"),
        ({"x": X > 0}, "expected numbers"),
        ({"x": np.where(np.arange(N)[:, None] == 7, np.inf, X)}, "row 7 .* NaN or infinity"),
        ({"y": Y[:-1]}, r"150 rows of activations and labels of shape \(149,\)"),
        ({"y": Y[:, None]}, r"labels of shape \(150, 1\)"),
        ({"y": np.zeros(N)}, r"1 different values \(0.0\)"),
        ({"y": np.arange(N) % 3}, r"3 different values \(0, 1, 2\)"),
        (
            {"y": np.where(Y, np.nan, 1.0)},
            rf"label {np.argmax(Y)} is missing .*{Y.sum() - 1} others",
        ),
        ({"y": [None, *Y[1:].tolist()]}, "label 0 is missing"),
        ({"y": pandas.Series([None, *Y[1:].tolist()], dtype="Int64")}, "label 0 is missing"),
        ({"y": ["a", float("nan"), *["a"] * (N - 2)]}, "label 1 is missing"),
        ({"y": ["1", *[1] * (N - 1)]}, "several types"),
        ({"y": np.array(["1", *[1] * (N - 1)], object)}, "several types"),
        ({"y": np.ma.masked_array(Y, Y == 0)}, "labels are a masked array"),
        ({"x": np.ma.masked_array(X, X > 2)}, "activations are a masked array"),
        ({"method": "logrg"}, "Did you mean logreg"),
        ({"method": "sae_k4"}, "sae_k4 reads latents of an SAE"),
        ({"sae": Rectified()}, "logreg reads no SAE"),
        ({"method": "attention"}, 'positions="all"'),
        ({"method": "logreg_shuffled"}, "is a control"),
        ({"method": "sae_k99", "sae": Rectified()}, "only 24"),
        ({"protocol": "lax"}, "no protocol 'lax'"),
        ({"seed": -1}, "seed is -1; expected"),
        ({"seed": 2**31}, "seed is 2147483648; expected"),
        ({"x": X.astype(float) + 1e9}, r"column 0 of .* differences too small for float32, beside"),
        ({"x": (X * 100).astype(int) + 10**12}, "differences too small for float32, beside a mean"),
        ({"x": torch.tensor(X, dtype=torch.float64) + 1e9}, "take off its mean and divide by its"),
        (
            {"x": X * np.where(np.arange(D) == 5, 1e39, 1)},
            "column 5 .* numbers too large for float32",
        ),
        ({"x": X[:, :0]}, r"have no column: \(150, 0\)"),
        ({"x": np.zeros(N, [("a", "f4"), ("b", "f4")])[:, None]}, "expected numbers"),
        ({"method": "sae_k4", "sae": narrow()}, "x is 12 wide; the SAE reads vectors of width 3"),
    ],
)
def test_what_will_not_do_is_said(change, message):
    given = {"x": X, "y": Y} | change
    with pytest.raises(ValueError, match=message):
        fit(given.pop("x"), given.pop("y"), **given)


@pytest.mark.parametrize(
    "rows, y, message",
    [
        ([], [], "there is no problem"),
        (np.array([[0, N]]), [[0, 1]], "does not exist"),
        (
            np.array([[0.0, 1.0]]),
            [[0, 1]],
            r"are float64\[2\]; expected \[n\] numbers of rows of x",
        ),
        (np.ones((1, N), bool), Y, r"are bool\[150\]; .*which of these count, mask= says"),
        (np.array([[0, 1]]), [[0, 1, 1]], "another shape"),
        ([np.array([], int), np.array([0, 1])], [[], [0, 1]], "problem 0 has no row"),
        (np.array([[0, 1]]), [0, 1], "2 labels and x 150 rows"),
        (np.array([[0, 1]]), ["a", float("nan"), *["a"] * (N - 2)], "label 1 is missing"),
        (np.array([[0, 1]]), ["1", *[1] * (N - 1)], "several types"),
        (np.array([[0, 1]]), [["a", None]], "label 1 is missing"),
        (np.array([[0, 1]]), pandas.Series(["a", np.nan, *["a"] * (N - 2)]), "label 1 is missing"),
    ],
)
def test_problems_that_will_not_do_are_said(rows, y, message):
    with pytest.raises(ValueError, match=message):
        fit_lanes(X, rows, y)


@pytest.mark.parametrize("n", [10, 30, 100, 400])
def test_no_row_validates_its_own_copy(n):
    """Labels that are random for each vector are not told from copies of it."""
    rng = np.random.default_rng(n)
    x = np.repeat(rng.normal(size=(n, 6)).astype(np.float32), 4, axis=0)
    y = np.repeat(rng.permutation(np.arange(n) % 2), 4)
    rows = np.random.default_rng(0).permutation(4 * n)
    condition = Condition("own", None, 0, rows, y[rows], rows[:0], rows[:0])
    masks = fit_module._folds(np.repeat(np.arange(n), 4), condition)
    assert len(masks)
    for val in masks:
        assert not set(rows[val] // 4) & set(rows[~val] // 4)
        assert 0 < y[rows[val]].sum() < val.sum()
    found = fit(x, y, "knn")
    assert found.val_auc < 0.9  # 1 by copies
    alone = dataclasses.replace(condition, train=rows[:n], y_train=y[rows[:n]])
    expected = stratified_folds(alone.y_train)
    np.testing.assert_array_equal(fit_module._folds(np.arange(4 * n), alone), expected)


@pytest.mark.parametrize("x", [
    X.astype(float) + 1e4,
    np.where(np.arange(D) == 3, 0.1 + 1e-17 * X, X),  # what float64 rounds of a constant
    (X * 100).astype(int),
])  # fmt: skip
def test_float64_that_float32_can_hold_is_taken(x):
    assert fit(x, Y, "ridge").val_auc > 0.8


@pytest.mark.parametrize("n", [9, 30])
def test_without_two_of_a_class_nothing_is_searched(n):
    """No fold would fit on both classes."""
    y = (np.arange(n) == 3).astype(int)
    assert not len(stratified_folds(y))
    assert fit(X[:n], y).hyperparameter == 1.0


@pytest.mark.parametrize("method", ["knn", "logreg", "pca", "ridge", "sae_k4"])
def test_a_row_that_is_not_finite_has_no_logit(method):
    found = fit(X, Y, method, sae=Rectified() if method == "sae_k4" else None)
    x = X[:5].copy()
    x[2, 1] = np.nan
    given = activations.Activations(x, np.arange(5), np.ones(5, int))
    for each in (x, given):
        assert np.isnan(np.asarray(found.probe(each))).tolist() == [
            False,
            False,
            True,
            False,
            False,
        ]


def test_a_prompt_with_a_token_that_is_not_finite_has_no_logit():
    y = np.arange(60) % 2
    tokens = token_cases.shuffled(token_cases.tokens(np.arange(60) % 5 + 2, y))
    found = fit(tokens, y, "mean_pool")
    x = np.array(tokens.x, np.float32)
    x[tokens.starts[3]] = np.inf
    logits = np.asarray(found.probe(tokens._replace(x=x)))
    assert np.flatnonzero(np.isnan(logits)).tolist() == [3]

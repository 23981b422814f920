"""What no probe and no solver may take: every method refuses it before it fits anything."""

import dataclasses
from typing import Any

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from probejax import inputs, metrics, probes, saes
from probejax.probes import attention, folds, given, sae_pooled
from probejax.probes.sae import Selection
from probejax.solvers import l1, l2, small_logreg
from tests import probe_cases, token_cases

N, D = probe_cases.N_TASK, token_cases.D
Y = probe_cases.labels()
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
((_, ROWS),) = probes.batches(probe_cases.conditions(Y, sizes=(10, 13)), [16])
TOKENS = token_cases.tokens(np.full(N, 2), Y)
SAE = saes.SAE(
    W_enc=jnp.ones((D, 4)),
    b_enc=jnp.zeros(4),
    W_dec=None,
    b_dec=jnp.zeros(D),
    threshold=jnp.zeros(4),
)
UNUSED = int(np.setdiff1d(np.arange(N), given.used(ROWS))[0])


def selected(values, rows, protocol="paper"):
    """The first two columns as the latents of every fit."""
    lanes = len(ROWS.train)
    which = len(probes.scores.folds(ROWS).lane)
    columns = [np.tile([0, 1], (count, 1)) for count in (lanes, which)]
    return probes.sae.fit(Selection(values, *columns, columns[0]), rows, 2, protocol=protocol)


# Everything that is given features, or tokens, beside rows and a protocol.
ON_FEATURES: dict[str, Any] = {
    **probes.BASELINES,
    "sae.fit": selected,
    "sae.fit binarised": lambda x, rows, protocol="paper": probes.sae.fit(
        Selection(x, *[np.zeros((2, 1), int)] * 3), rows, 1, binarised=True, protocol=protocol
    ),
    "sae.select": lambda x, rows, protocol="paper": probes.sae.select(
        x, rows, SAE, 2, "raw", protocol
    ),
}
ON_TOKENS: dict[str, Any] = {
    **probes.TOKEN_METHODS,
    "sae_pooled.select": lambda tokens, rows, protocol="paper": sae_pooled.select(
        tokens, rows, SAE, 2, "max", "raw", protocol
    ),
}
METHODS = {**ON_FEATURES, **ON_TOKENS}


def changed(field, place, value, kind=None):
    array = np.array(getattr(ROWS, field), kind)
    array[place] = value
    return ROWS._replace(**{field: array})


FIRST = (0, 0)
BAD_ROWS = {
    "labels -1 and 1": (ROWS._replace(y_train=2 * ROWS.y_train - 1), "labels are -1, 1, and only"),
    "a label 2": (changed("y_train", FIRST, 2), r"labels are 0, 1, 2, and only 0 and 1.*\(0,"),
    "a label 0.5": (changed("y_train", FIRST, 0.5, float), "labels are 0.0, 0.5, 1.0, and only"),
    "a label NaN": (changed("y_train", FIRST, np.nan, float), "nan, and only 0 and 1 will do"),
    "labels in words": (ROWS._replace(y_train=ROWS.y_train.astype(str)), "labels are '0', '1'"),
    "a test label -1": (changed("y_test", FIRST, -1), "labels are -1, 0, 1, and only"),
    "a row past the end": (changed("train", (1, 2), N + 5), r"number 405 at \(1, 2\) does not"),
    "the row behind": (changed("train", FIRST, N), "400 at .* does not exist: .* have 400"),
    "a row before the start": (changed("train", FIRST, -1), "row number -1 at .* does not exist"),
    "a test row past the end": (changed("test", FIRST, N), "row number 400 at .* does not exist"),
    "half a row": (ROWS._replace(train=ROWS.train + 0.5), "numbers are float64.*; expected whole"),
    "a mask of twos": (ROWS._replace(train_mask=2 * ROWS.train_mask), "values of a mask are 0, 2"),
    "a lane without rows": (changed("train_mask", 1, False), "lane 1 has no training row"),
    "a fold on padding": (changed("val", (0, 0, 15), True), "fold 0 of lane 0 validates on pla"),
    "a lane too many": (ROWS._replace(val=ROWS.val[:1]), "2 lanes of 16 rows have val"),
    "seeds of other lanes": (ROWS._replace(seed=ROWS.seed[:1]), "2 lanes of 16 rows have val"),
    "labels of another shape": (ROWS._replace(y_train=ROWS.y_train[:, :9]), "the labels are .2, 9"),
    "rows of another shape": (ROWS._replace(train=ROWS.train[:, :9]), "row numbers are .*expected"),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_will_not_do_are_refused(method):
    x = TOKENS if method in ON_TOKENS else jnp.asarray(X)
    for case, (rows, said) in BAD_ROWS.items():
        with pytest.raises(ValueError, match=said):
            METHODS[method](x, rows)
            pytest.fail(f"{method} took {case}")
    for protocol in ("Paper", "", None):
        with pytest.raises((ValueError, TypeError)):
            METHODS[method](x, ROWS, protocol)


@pytest.mark.parametrize("method", ON_FEATURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_used_must_be_finite(method, bad):
    for row in (ROWS.train[0, 3], ROWS.test[1, 7]):
        x = X.copy()
        x[row, D - 1] = bad
        with pytest.raises(ValueError, match=rf"row {row} of the .* holds NaN or infinity"):
            ON_FEATURES[method](jnp.asarray(x), ROWS)
    with pytest.raises(ValueError, match=r"expected one row per prompt, \[rows, width\]"):
        given.features_of(X[0], ROWS, "paper")


@pytest.mark.parametrize("method", ON_TOKENS)
def test_tokens_that_are_used_must_be_finite_and_there(method):
    prompt = ROWS.train[0, 3]
    for bad in (np.nan, -np.inf):
        x = TOKENS.x.copy()
        x[TOKENS.starts[prompt] + 1, 2] = bad
        with pytest.raises(ValueError, match=rf"a token of prompt {prompt} holds NaN or infinity"):
            ON_TOKENS[method](TOKENS._replace(x=x), ROWS)
    counts, starts = np.array(TOKENS.counts), np.array(TOKENS.starts)
    counts[5], starts[7] = 0, len(TOKENS.x) - 1
    for tokens, said in (
        (TOKENS._replace(counts=counts), "prompt 5 has 0 tokens"),
        (TOKENS._replace(starts=starts), "prompt 7 has [12] tokens from row .* where there"),
        (TOKENS._replace(starts=starts[:9]), r"starts \(9,\) and counts \(400,\)"),
        (
            TOKENS._replace(starts=TOKENS.starts[:20], counts=TOKENS.counts[:20]),
            "not exist: the tokens have",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ON_TOKENS[method](tokens, ROWS)


def test_what_is_not_used_may_be_anything():
    x = X.copy()
    x[UNUSED] = np.nan
    rng = np.random.default_rng(0)
    garbage = lambda kept, mask: np.where(mask, kept, rng.integers(-9, 999, kept.shape))
    rows = ROWS._replace(
        train=garbage(ROWS.train, ROWS.train_mask),
        y_train=garbage(ROWS.y_train, ROWS.train_mask),
        test=garbage(ROWS.test, ROWS.test_mask),
        y_test=garbage(ROWS.y_test, ROWS.test_mask),
    )
    found = given.features_of(x, rows, "paper")
    for name, array in found._asdict().items():
        np.testing.assert_array_equal(array, getattr(ROWS, name), err_msg=name)
    tokens = token_cases.shuffled(TOKENS)  # with NaN between the prompts
    assert given.tokens_of(tokens, ROWS, "strict").train.shape == ROWS.train.shape


@pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.uint8, np.float32])
def test_zeros_and_ones_of_any_type_are_labels(kind):
    rows = ROWS._replace(y_train=ROWS.y_train.astype(kind), train_mask=ROWS.train_mask.astype(kind))
    found = given.rows_of(rows, N, "paper")
    np.testing.assert_array_equal(found.y_train, ROWS.y_train)
    assert found.train_mask.dtype == bool and found.y_train.dtype.kind == "i"


@hypothesis.given(st.integers(0, 40), st.sampled_from([1.0, 3e38, -3e38, np.nan, np.inf, -np.inf]))
def test_finite_rows_are_told_by_their_sums(place, value):
    x = np.full((7, 6), 3e38 if abs(value) == 3e38 else 1.0, np.float32)  # sums that overflow
    x.ravel()[place] = value
    np.testing.assert_array_equal(given.finite(x), np.isfinite(x).all(axis=1))
    low = x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(given.finite(low), np.isfinite(low.astype(float)).all(axis=1))


def test_a_selection_is_of_the_lanes_that_are_fitted():
    columns = [np.zeros((count, 1), int) for count in (2, 3, 2)]
    with pytest.raises(ValueError, match="selected for 2 lanes with 3 folds, and these rows are"):
        probes.sae.fit(Selection(jnp.asarray(X), *columns), ROWS, 1)
    with pytest.raises(ValueError, match="k=0, but only 1 latents were selected"):
        probes.sae.fit(Selection(jnp.asarray(X), *columns), ROWS, 0)


CONDITION = probe_cases.conditions(Y, sizes=(10,))[0]


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"y_train": 2 * CONDITION.y_train - 1}, "labels are -1, 1, and only 0 and 1 will do"),
        ({"y_test": CONDITION.y_test + 1}, "labels are 1, 2, and only 0 and 1 will do"),
        ({"y_train": CONDITION.y_train[:-1]}, r"the mask is \(10,\) and the labels are \(9,\)"),
        ({"train": CONDITION.train - N}, "row number -.* does not exist"),
        ({"test": CONDITION.test / 2}, "row numbers are float64"),
    ],
)
def test_conditions_that_will_not_do_are_not_packed(fields, said):
    with pytest.raises(ValueError, match=said):
        probes.batches([dataclasses.replace(CONDITION, **fields)], [16])


def test_folds_and_splits_take_labels_alone():
    with pytest.raises(ValueError, match="the labels are 1, 2, and only 0 and 1 will do"):
        folds.paper_folds(np.array([1, 2, 1, 2]))


MASK, LABELS = np.ones((1, 8), bool), np.arange(8)[None] % 2
Z = np.random.default_rng(0).normal(size=(1, 8, 2)).astype(np.float32)
ONE = np.ones(1)
NEAR = (np.zeros((1, 2), np.float32), np.zeros(1, np.float32))
SOLVERS: dict[str, Any] = {
    "l1.solve": lambda *lanes: l1.solve(*map(jnp.asarray, (Z, *lanes))),
    "l1.solve_path": lambda *lanes: l1.solve_path(*map(jnp.asarray, (Z, *lanes))),
    "l2.solve": lambda m, y, C: l2.solve(Z[0], np.arange(8)[None], m, y, C),
    "l2.solve_path": lambda m, y, C: l2.solve_path(Z[0], np.arange(8)[None], m, y, C),
    "small_logreg.solve": lambda m, y, C: small_logreg.solve(Z, m, y, float(C[0])),
    "small_logreg.approach": lambda m, y, C: small_logreg.approach(Z, m, y, float(C[0]), NEAR),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_take_labels_and_strengths_alone(solver):
    solve = SOLVERS[solver]
    for labels, said in (
        (2 * LABELS - 1, "labels are -1, 1, and only"),
        (LABELS + 1, "labels are 1, 2, and only"),
        (np.arange(8)[None] % 3, "labels are 0, 1, 2, and only"),
    ):
        with pytest.raises(ValueError, match=said):
            solve(MASK, labels, ONE)
    for C in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"C holds .*; expected positive, finite strengths"):
            solve(MASK, LABELS, C * ONE)


def test_l2_takes_rows_that_exist():
    for row in (-1, 8):
        rows = np.arange(8)[None].copy()
        rows[0, 3] = row
        for call in (
            lambda rows=rows: l2.share(Z[0], rows, MASK),
            lambda rows=rows: l2.solve(Z[0], rows, MASK, LABELS, ONE),
        ):
            with pytest.raises(ValueError, match=rf"row number {row} at \(0, 3\) does not exist"):
                call()


def test_metrics_take_labels_alone():
    scores, mask = np.linspace(0, 1, 4, dtype=np.float32), np.ones(4, bool)
    for metric in (metrics.auc, metrics.tpr_at_fpr, metrics.calibration_error):
        for labels in ([-1, 1, -1, 1], [0, 1, 2, 1]):
            with pytest.raises(ValueError, match="and only 0 and 1 will do"):
                metric(scores, np.array(labels), mask)
    for metric in (metrics.accuracy, metrics.weighted_f1):
        with pytest.raises(ValueError, match="and only 0 and 1 will do"):
            metric(np.array([0, 1, 0, 1]), np.array([1, 2, 1, 2]), mask)
    assert metrics.auc(scores, np.array([0, 1, 7, 1]), np.array([True, True, False, True])) == 1


@hypothesis.given(
    st.lists(st.sampled_from([0, 1, -1, 2, 0.5, float("nan")]), min_size=1), st.data()
)
def test_binary_takes_exactly_what_it_says(values, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    labels, fine = np.array(values, float), [v in (0, 1) for v in values]
    if all(ok for ok, counts in zip(fine, mask, strict=True) if counts):
        found = inputs.binary(labels, mask)
        assert found.dtype == int and found.tolist() == np.where(mask, labels, 0).tolist()
    else:
        with pytest.raises(ValueError, match="only 0 and 1 will do"):
            inputs.binary(labels, mask)


def test_attention_is_among_the_methods():
    assert probes.TOKEN_METHODS["attention"] is attention.fit

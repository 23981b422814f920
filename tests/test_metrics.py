import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score, roc_curve

from probejax import metrics

TOLERANCE = 1e-6

auc = jax.jit(metrics.auc)
tpr_at_fpr = jax.jit(metrics.tpr_at_fpr, static_argnums=3)
calibration_error = jax.jit(metrics.calibration_error, static_argnums=3)


def measure(metric, values, labels, *options):
    """The metric as a float; padded to one size, so that it compiles once."""
    n = len(labels)
    size = n if n > 1024 else 1024
    padded = np.full(size, np.nan if values.dtype.kind == "f" else 1, values.dtype)
    padded[:n] = values
    return float(
        metric(padded, np.r_[labels, np.ones(size - n, int)], np.arange(size) < n, *options)
    )


def problem(kind, n, rng):
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = {
        "distinct": rng.normal(size=n) + labels,
        "tied": rng.integers(0, 4, n) / 3 + 0.2 * labels,
        "constant": np.full(n, 0.25),
        "saturated": 1 / (1 + np.exp(-20 * (rng.normal(size=n) + labels))),
        "tiny": 1e-30 * (rng.normal(size=n) + labels),
        "signed_zeros": rng.choice([-0.0, 0.0, 1.0], n),
        "infinite": rng.choice([-np.inf, -1.0, 0.0, 1.0, np.inf], n),
    }[kind]
    return scores.astype(np.float32), labels


def rank_auc(scores, labels):
    """From ranks and not from sklearn, which refuses infinite scores."""
    scores = scores.astype(np.float64)
    difference = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :])
    return np.nan_to_num(difference).mean() / 2 + 0.5


KINDS = ("distinct", "tied", "constant", "saturated", "tiny", "signed_zeros", "infinite")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 7, 300])
def test_auc_counts_pairs_exactly(kind, n):
    scores, labels = problem(kind, n, np.random.default_rng(n))
    with np.errstate(invalid="ignore"):  # inf - inf: a tie
        expected = rank_auc(scores, labels)
    if kind != "infinite":
        assert expected == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert measure(auc, scores, labels) == pytest.approx(expected, abs=TOLERANCE)


def test_auc_of_five_thousand_rows_is_the_nearest_float():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(5000) % 2)
    for decimals in (1, 7):
        scores = np.round(rng.normal(size=5000) + labels, decimals).astype(np.float32)
        expected = roc_auc_score(labels, scores)
        assert measure(auc, scores, labels) == np.float32(expected)


def test_auc_of_simple_orders():
    labels = np.array([0, 0, 1, 1])
    for scores, expected in (
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], 0.0),
        ([1, 3, 2, 4], 0.75),
        ([1, 2, 2, 3], 0.875),
    ):
        assert measure(auc, np.array(scores, np.float32), labels) == expected


@pytest.mark.parametrize("bits", ["float16", "bfloat16"])
def test_auc_takes_other_float_types(bits):
    scores = jnp.array([0.1, 0.4, 0.35, 0.8], bits)
    assert float(auc(scores, np.array([0, 0, 1, 1]), np.ones(4, bool))) == 0.75


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_tpr_at_fpr_is_the_best_point_of_the_roc_curve(fpr):
    for kind in KINDS[:-1]:
        for n in (2, 40, 601):
            scores, labels = problem(kind, n, np.random.default_rng(n))
            false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
            expected = true[false <= fpr].max()
            result = measure(tpr_at_fpr, scores, labels, fpr)
            assert result == pytest.approx(expected, abs=TOLERANCE), (kind, n)


@pytest.mark.parametrize(
    "negatives, fpr, allowed",
    [
        *[(99, 0.01, 0), (100, 0.01, 1), (300, 0.01, 3), (500, 0.01, 5)],
        *[(100, 0.53, 53), (300, 0.21, 63)],  # products that float32 rounds down
    ],
)
def test_tpr_at_fpr_allows_exactly_the_stated_number_of_negatives(negatives, fpr, allowed):
    labels = np.r_[np.zeros(negatives, int), np.ones(negatives, int)]
    # Positive i lies just above the i-th highest negative.
    scores = np.r_[-np.arange(negatives), 0.5 - np.arange(negatives)].astype(np.float32)
    result = measure(tpr_at_fpr, scores, labels, fpr)
    assert result == pytest.approx((allowed + 1) / negatives, abs=TOLERANCE)


@pytest.mark.parametrize("classes", ["both", "never_predicted", "never_true", "all_wrong"])
def test_accuracy_and_weighted_f1_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(0, 2, (2, 101))
    labels = 0 * labels if classes == "never_true" else labels
    predictions = {"never_predicted": 0 * labels, "all_wrong": 1 - labels}.get(classes, predictions)
    expected = f1_score(labels, predictions, average="weighted", zero_division=0)
    result = measure(metrics.weighted_f1, predictions, labels)
    assert result == pytest.approx(expected, abs=TOLERANCE)
    expected = accuracy_score(labels, predictions)
    result = measure(metrics.accuracy, predictions == 1, labels)
    assert result == pytest.approx(expected, abs=TOLERANCE)


def test_calibration_error_of_hand_made_bins():
    probabilities = np.array([0.0, 0.05, 0.1, 0.19, 0.95, 1.0], np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0])
    # Bins [0, .1), [.1, .2), [.9, 1]: |.05 - 1|, |.29 - 1| and |1.95 - 1| summed over rows.
    expected = (0.95 + 0.71 + 0.95) / 6
    result = measure(calibration_error, probabilities, labels, 10)
    assert result == pytest.approx(expected, abs=TOLERANCE)


def test_calibration_error_is_the_binned_mean_gap():
    rng = np.random.default_rng(4)
    probabilities = rng.random(997).astype(np.float32)
    labels = (rng.random(997) < probabilities**2).astype(int)
    for bins in (1, 10, 15):
        which = np.minimum((probabilities * np.float32(bins)).astype(int), bins - 1)
        gaps = [
            (which == b).mean() * abs(probabilities[which == b].mean() - labels[which == b].mean())
            for b in range(bins)
        ]
        result = measure(calibration_error, probabilities, labels, bins)
        assert result == pytest.approx(sum(gaps), abs=TOLERANCE)


CASES = {
    "auc": metrics.auc,
    "tpr_at_fpr": lambda s, y, m: metrics.tpr_at_fpr(s, y, m, 0.2),
    "accuracy": lambda s, y, m: metrics.accuracy(s > 0.5, y, m),
    "weighted_f1": lambda s, y, m: metrics.weighted_f1(s > 0.5, y, m),
    "calibration_error": metrics.calibration_error,
}


@pytest.mark.parametrize("name", CASES)
def test_masked_rows_have_no_influence_alone_or_vmapped(name):
    metric = CASES[name]
    batched, single = jax.jit(jax.vmap(metric)), jax.jit(metric)
    rng = np.random.default_rng(5)
    labels = rng.integers(-1, 3, (3, 64))
    scores = np.zeros((3, 64), np.float32)
    mask = np.zeros((3, 64), bool)
    expected = []
    for lane, n in enumerate((9, 40, 64)):
        rows = np.sort(rng.choice(64, n, replace=False))  # not only at the end
        mask[lane, rows] = True
        scores[lane, rows] = rng.integers(0, 12, n) / 12
        labels[lane, rows] = rng.permutation(np.arange(n) % 2)
        kept = (scores[lane, rows], labels[lane, rows], np.ones(n, bool))
        expected.append(float(metric(*kept)))
    assert len(set(expected)) == 3
    for garbage in (np.nan, np.inf, -np.inf, 0.5):
        padded = np.where(mask, scores, np.float32(garbage))
        np.testing.assert_allclose(batched(padded, labels, mask), expected, rtol=0, atol=TOLERANCE)
        alone = float(single(padded[0], labels[0], mask[0]))
        assert alone == pytest.approx(expected[0], abs=TOLERANCE)


def test_what_is_undefined_is_nan():
    scores = np.array([0.1, 0.9], np.float32)
    both, one, zero = np.array([0, 1]), np.ones(2, int), np.zeros(2, int)
    all_rows, no_rows = np.ones(2, bool), np.zeros(2, bool)
    for metric in (metrics.auc, metrics.tpr_at_fpr):
        for labels in (one, zero):
            assert np.isnan(metric(scores, labels, all_rows))
        assert np.isnan(metric(np.array([np.nan, 1], np.float32), both, all_rows))
    for metric in CASES.values():
        assert np.isnan(metric(scores, both, no_rows))
    assert float(metrics.accuracy(one, one, all_rows)) == 1.0
    assert float(metrics.weighted_f1(zero, zero, all_rows)) == 1.0
    for wrong in (-0.1, 1.1, np.nan):
        bad = np.array([0.5, wrong], np.float32)
        assert np.isnan(metrics.calibration_error(bad, both, all_rows))


def test_bad_arguments_are_refused():
    two = np.array([0, 1])
    with pytest.raises(ValueError, match=r"fpr is 1\.5; expected a rate from 0 to 1"):
        metrics.tpr_at_fpr(two.astype(np.float32), two, np.ones(2, bool), 1.5)
    many = np.zeros(65_536)
    with pytest.raises(ValueError, match="65536 rows; at most 65535 fit the exact counts"):
        metrics.auc(many, many.astype(int), many == 0)


def test_auc_does_not_overflow_at_the_largest_size():
    labels = np.arange(65_535) % 2
    scores = np.arange(65_535, dtype=np.float32)
    assert measure(auc, scores, labels) == np.float32(roc_auc_score(labels, scores))

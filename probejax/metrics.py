"""Metrics of one binary classification problem: masked, exact in ties, made for `jax.vmap`.

Everywhere `labels` are zeros and ones, `mask` marks the rows that count, and what stands in the
other rows (NaN included) has no influence. Where a metric is undefined the result is NaN. A label
that is neither raises ValueError, except inside `jit`, where nobody can look.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Shaped
from scipy.stats import rankdata

from probejax import inputs
from probejax.rules import MAX_ROWS as MAX_ROWS

_LARGEST_KEY = np.iinfo(np.int32).max

_Vector = Array | np.ndarray


def auc(
    scores: Float[Array | np.ndarray, " m"],
    labels: Int[Array | np.ndarray, " m"],
    mask: Bool[Array | np.ndarray, " m"],
) -> Float[Array, ""]:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order.

    Equal scores count half (the Mann-Whitney statistic). The counts are integers, so the only
    rounding is one division. O(m log m).

    Args:
        scores: larger means more likely positive; read as float32.
        labels: 1 for positives, 0 for negatives.
        mask: the rows that count.

    Returns:
        The area, or NaN when a class is absent or a counted score is NaN.

    Raises:
        ValueError: more than 65535 rows.
    """
    keys, positive, negative, valid = _prepare(scores, labels, mask)
    ordered = jnp.sort(jnp.where(negative, keys, _LARGEST_KEY))
    below = jnp.searchsorted(ordered, keys, side="left")
    not_above = jnp.searchsorted(ordered, keys, side="right")
    twice_won = jnp.sum(jnp.where(positive, below + not_above, 0))
    pairs = jnp.sum(positive) * jnp.sum(negative)
    return _ratio(twice_won, 2 * pairs, valid)


def host_auc(scores: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"]) -> float:
    """Returns the area under the ROC curve, equal scores counting half; NaN of one class."""
    return float(host_aucs(scores[:, None], y[:, None])[0, 0])


def host_aucs(
    values: Shaped[np.ndarray, "n m"], labels: Int[np.ndarray, "n p"]
) -> Float[np.ndarray, "m p"]:
    """Returns the AUC of every column for every labelling; NaN of one class.

    Args:
      values: m scores of n rows.
      labels: p labellings of the same rows, 0 or 1.
    """
    ranks = rankdata(values, axis=0)
    positive = labels.sum(axis=0).astype(float)
    pairs = positive * (len(labels) - positive)
    won = ranks.T @ labels.astype(float) - (positive * (positive + 1) / 2)[None, :]
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1)[None, :], np.nan)


def tpr_at_fpr(
    scores: Float[Array | np.ndarray, " m"],
    labels: Int[Array | np.ndarray, " m"],
    mask: Bool[Array | np.ndarray, " m"],
    fpr: float = 0.01,
) -> Float[Array, ""]:
    """Largest true-positive rate of any threshold whose false-positive rate is at most `fpr`.

    A point of the ROC curve itself: nothing is interpolated, equal scores pass or fail together.

    Args:
        scores: as in `auc`.
        labels: as in `auc`.
        mask: as in `auc`.
        fpr: the false-positive rate allowed, from 0 to 1.

    Returns:
        The rate, or NaN as in `auc`.

    Raises:
        ValueError: `fpr` is out of range, or more than 65535 rows.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}; expected a rate from 0 to 1")
    keys, positive, negative, valid = _prepare(scores, labels, mask)
    negatives = jnp.sum(negative)
    # The slack keeps 0.53 * 100 at 53 where float32 rounds the product down.
    allowed = jnp.floor(fpr * negatives + 1e-3).astype(jnp.int32)
    ordered = jnp.sort(jnp.where(negative, keys, _LARGEST_KEY))
    # Passing must stop above the first negative that is one too many; fpr = 1 has none.
    barrier = ordered[jnp.maximum(negatives - 1 - allowed, 0)]
    passed = positive & ((keys > barrier) | (allowed >= negatives))
    return _ratio(jnp.sum(passed), jnp.sum(positive), valid & (negatives > 0))


def accuracy(
    predictions: Int[Array | np.ndarray, " m"] | Bool[Array | np.ndarray, " m"],
    labels: Int[Array | np.ndarray, " m"],
    mask: Bool[Array | np.ndarray, " m"],
) -> Float[Array, ""]:
    """Share of counted rows whose predicted label is right.

    Args:
        predictions: predicted labels.
        labels: true labels.
        mask: the rows that count.

    Returns:
        The share, or NaN without a counted row.
    """
    _require_labels(labels, mask)
    right = jnp.asarray(mask) & (jnp.asarray(predictions) == labels)
    return _ratio(jnp.sum(right), jnp.sum(mask))


def weighted_f1(
    predictions: Int[Array | np.ndarray, " m"] | Bool[Array | np.ndarray, " m"],
    labels: Int[Array | np.ndarray, " m"],
    mask: Bool[Array | np.ndarray, " m"],
) -> Float[Array, ""]:
    """F1 of either class, averaged with the classes' true frequencies as weights.

    A class with no right prediction scores 0, as in scikit-learn's `f1_score(average="weighted",
    zero_division=0)`.

    Args:
        predictions: as in `accuracy`.
        labels: as in `accuracy`.
        mask: as in `accuracy`.

    Returns:
        The mean, or NaN without a counted row.
    """
    _require_labels(labels, mask)
    mask = jnp.asarray(mask)
    predicted = jnp.asarray(predictions) == 1
    true = jnp.asarray(labels) == 1
    total = jnp.zeros(())
    for p, t in ((predicted, true), (~predicted, ~true)):
        support = jnp.sum(mask & t)
        f1 = 2 * jnp.sum(mask & p & t) / jnp.maximum(jnp.sum(mask & p) + support, 1)
        total += support * f1
    return _ratio(total, jnp.sum(mask))


def calibration_error(
    probabilities: Float[Array | np.ndarray, " m"],
    labels: Int[Array | np.ndarray, " m"],
    mask: Bool[Array | np.ndarray, " m"],
    bins: int = 10,
) -> Float[Array, ""]:
    """Expected calibration error of the probability of label 1.

    The mean over rows of |mean probability - share of positives| of the row's bin (Naeini et al.
    2015, binary form). Bins have equal width and hold their lower edge; the last holds 1 too.

    Args:
        probabilities: of label 1, from 0 to 1.
        labels: true labels.
        mask: the rows that count.
        bins: how many bins.

    Returns:
        The error, or NaN without a counted row or with a counted probability outside 0 to 1.
    """
    _require_labels(labels, mask)
    mask = jnp.asarray(mask)
    p = jnp.where(mask, probabilities, 0.0)
    where = jnp.minimum((p * bins).astype(jnp.int32), bins - 1)
    excess = jnp.where(mask, p - labels, 0.0)
    per_bin = jax.ops.segment_sum(excess, where, num_segments=bins)
    inside = jnp.all((p >= 0) & (p <= 1))
    return _ratio(jnp.sum(jnp.abs(per_bin)), jnp.sum(mask), inside)


def _prepare(scores: _Vector, labels: _Vector, mask: _Vector) -> tuple[Array, Array, Array, Array]:
    """Sortable keys, the counted positives and negatives, and whether every counted score is one.

    Keys are integers because XLA's CPU backend sorts one array of integers ten times as fast as
    floats or several arrays together.
    """
    if scores.shape[0] > MAX_ROWS:
        raise ValueError(f"{scores.shape[0]} rows; at most {MAX_ROWS} fit the exact counts")
    _require_labels(labels, mask)
    scores = jnp.asarray(scores, jnp.float32)
    mask = jnp.asarray(mask)
    scores = jnp.where(mask & (scores != 0), scores, 0.0)  # -0.0 and 0.0 are equal scores
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    # The bits of negative floats grow with their magnitude.
    keys = jnp.where(bits < 0, bits ^ _LARGEST_KEY, bits)
    positive = jnp.asarray(labels) == 1
    return keys, mask & positive, mask & ~positive, ~jnp.any(jnp.isnan(scores))


def _require_labels(labels: _Vector, mask: _Vector) -> None:
    if not any(isinstance(each, Tracer) for each in (labels, mask)):
        inputs.lanes(mask, labels)


def _ratio(numerator: Array, denominator: Array, valid: Array | bool = True) -> Array:
    defined = valid & (denominator > 0)
    return jnp.where(defined, numerator / jnp.where(defined, denominator, 1), jnp.nan)

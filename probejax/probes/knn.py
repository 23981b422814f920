"""Nearest neighbours on standardised features, for every k of the study's grid from one search."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax.probes import given, scores
from probejax.probes.closed_form import codes_of
from probejax.probes.neighbours import Search, learn_scales, nearest
from probejax.probes.rows import Rows
from probejax.solvers import codes

_MOST = 100  # neighbours at most, as the study has it
_CANDIDATES = 10  # values of k at most
_CERTAIN = 20.0  # logit where all neighbours agree; that of 99 in 100 is 4.6


def fit(
    features: Float[Array, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fitted:
    """Counts, per lane, the positives among the k nearest training rows, k chosen on the folds.

    As scikit-learn's KNeighborsClassifier behind a StandardScaler: Euclidean, every neighbour
    counts the same, and half the neighbours positive predicts label 0. Of rows at one distance the
    first come first; scikit-learn keeps those that its heap happens to hold.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    usable = np.array(np.isfinite(np.asarray(features)).all(axis=1))
    x = np.where(usable[:, None], features, 0).astype(np.float64)
    centre = x.mean(axis=0)
    x -= centre
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    test, test_mask = np.asarray(rows.test), np.asarray(rows.test_mask)
    folds = scores.folds(rows, protocol)
    grids = _grids(mask, folds)
    lanes = len(train)
    mean, spread = learn_scales(
        x, np.concatenate([train, train[folds.lane]]), np.concatenate([mask, folds.seen])
    )

    searches = [
        Search(train[lane], folds.train[q], spread[lanes + q], train[lane][val], grids[lane])
        for q, (lane, val) in enumerate(zip(folds.lane, folds.val, strict=True))
    ]
    shares = np.zeros((len(searches), _CANDIDATES, train.shape[1]), np.float32)
    for q, found in nearest(x, searches):
        k = grids[folds.lane[q]]
        positives = np.cumsum(y[folds.lane[q]][found], axis=1)[:, k - 1]
        shares[q][:, folds.val[q]] = (positives / k[None, :]).T
    val_auc, best = scores.choose(shares, folds, rows)
    k = grids[np.arange(lanes), best]

    searches = [
        Search(
            train[lane], mask[lane], spread[lane], test[lane][test_mask[lane]], k[lane : lane + 1]
        )
        for lane in range(lanes)
    ]
    test_logits = np.zeros(test.shape, np.float32)
    for lane, found in nearest(x, searches):
        share = y[lane][found[:, : k[lane]]].mean(axis=1)
        test_logits[lane][test_mask[lane]] = logits_of(share)
    code = codes_of(usable, train, mask, y)
    test_logits[code == codes.NON_FINITE] = 0
    test_logits[~usable[test] & test_mask] = np.nan
    train_logits = np.zeros(train.shape, np.float32)  # matter for lanes without a search alone
    alone = ~scores.searched(rows)[folds.lane]
    train_logits[folds.lane[alone]] = logits_of(shares[alone, 0])
    found = scores.finish(
        rows,
        protocol,
        val_auc=val_auc,
        train_logits=train_logits,
        test_logits=test_logits,
        hyperparameter=k.astype(float),
        gap=np.where(code == codes.NON_FINITE, np.nan, 0.0),
        code=code,
    )
    mean, spread = (mean[:lanes] + centre).astype(np.float32), spread[:lanes].astype(np.float32)
    probe = {
        "mean": mean,
        "scale": spread,
        "vectors": np.asarray(_vectors(jnp.asarray(features), train, mask, mean, spread)),
        "labels": y,
        "mask": mask,
        "k": k.astype(np.int32),
    }
    return scores.Fitted(found, probe)


def _grids(mask, folds: scores.Folds) -> Int[np.ndarray, "L P"]:
    """Returns the study's values of k for each lane, the last repeated where there are fewer."""
    sizes = mask.sum(axis=1)
    largest = np.minimum(sizes - 1, _MOST)
    np.minimum.at(largest, folds.lane, folds.train.sum(axis=1))
    return np.array(
        [_grid(size, most) for size, most in zip(sizes.tolist(), largest.tolist(), strict=True)]
    )


def _grid(size: int, most: int) -> Int[np.ndarray, " P"]:
    # Up to three rows nothing is searched, and k is 1.
    grid = np.ones(1, int)
    if size > 3:
        grid = np.unique(np.logspace(0, np.log2(most), _CANDIDATES, base=2).astype(int))
    return np.pad(grid, (0, _CANDIDATES - len(grid)), mode="edge")


def logits_of(share) -> Float[np.ndarray, "*batch"]:
    """Returns log odds that keep the order of shares, and the side of one half they lie on.

    They are raised by a millionth, so that the sigmoid of 0.3 falls into the bin from 0.3 up.
    """
    p = np.asarray(share, np.float64)
    inner = np.clip(p, 1e-3, 1 - 1e-3)
    logits = np.log(inner) - np.log1p(-inner) + 1e-6 * (p != 0.5)
    return np.where(p == 0, -_CERTAIN, np.where(p == 1, _CERTAIN, logits)).astype(np.float32)


@jax.jit
def _vectors(x, rows, mask, mean, scale):
    """Returns the training rows [L, n, d] in the units of each lane's scaler, zero on padding."""
    return jnp.where(mask[:, :, None], (x[rows] - mean[:, None, :]) / scale[:, None, :], 0)

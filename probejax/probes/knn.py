"""Nearest neighbours on standardised features, for every k of the study's grid from one search."""

import numpy as np
from jaxtyping import Array, Float, Int

from probejax.probes import given, scale, scores
from probejax.probes.closed_form import codes_of
from probejax.probes.families import Neighbours
from probejax.probes.nearest import Search, learn_scales, nearest
from probejax.probes.rows import Rows
from probejax.solvers import codes

_MOST = 100  # neighbours at most, as the study has it
_CANDIDATES = 10  # values of k at most


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
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
    usable = given.finite(np.asarray(features))
    x = np.where(usable[:, None], features, 0).astype(np.float64)
    x -= scale.middle(x[usable])
    train, mask, y = rows.train, rows.train_mask, rows.y_train
    folds, lanes = scores.folds(rows, protocol), len(train)
    grids = _grids(mask, folds)
    sets = (np.concatenate([train, train[folds.lane]]), np.concatenate([mask, folds.seen]))
    _, spread = learn_scales(x, *sets)

    def path(folds):
        searches = [
            Search(train[lane], folds.train[q], spread[lanes + q], train[lane][val], grids[lane])
            for q, (lane, val) in enumerate(zip(folds.lane, folds.val, strict=True))
        ]
        shares = np.zeros((len(searches), _CANDIDATES, train.shape[1]), np.float32)
        for q, found in nearest(x, searches):
            k = grids[folds.lane[q]]
            positives = np.cumsum(y[folds.lane[q]][found], axis=1)[:, k - 1]
            shares[q][:, folds.val[q]] = (positives / k[None, :]).T
        return shares

    def refit(k):
        code = codes_of(usable, train, mask, y)
        probe = Neighbours(train, mask, y, spread[:lanes], k.astype(np.int32), features)
        return probe, np.where(code == codes.NON_FINITE, np.nan, 0.0), code

    return scores.search_and_refit(features, rows, protocol, grids, path, refit, grids[:, 0])


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

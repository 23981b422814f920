"""The study's validation rule: which training rows validate, and which fit (`paper` protocol)."""

import itertools
import warnings

import numpy as np
from jaxtyping import Bool, Shaped
from sklearn.model_selection import StratifiedKFold

from probejax.inputs import binary

_MAX_UNSEARCHED = 3
_MAX_PAIRS = 12
_MAX_STRATIFIED = 127
_STRATIFIED_FOLDS = 6
_HELD_OUT, _MOST_HELD_OUT = 0.2, 1000


def paper_folds(y_train: Shaped[np.ndarray, " n"], seed: int = 42) -> Bool[np.ndarray, "F n"]:
    """Marks the validation rows of every fold, by the size n of the training set.

    - n <= 3: no fold; the hyperparameter is not searched.
    - 4 to 12: every pair of rows with both classes.
    - 13 to 127: six stratified, shuffled folds, less those whose validation part lacks a class.
    - from 128: the last min(int(0.2 n), 100) rows of the already shuffled training set.

    Source: reference code of arXiv 2502.16681; its text gives other thresholds.

    Args:
        y_train: labels in the order of the training rows, zeros and ones.
        seed: of the stratified shuffle; the study uses 42.

    Returns:
        One row per fold, True where a training row validates; a fold fits on the others.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    y_train = binary(y_train)
    n = len(y_train)
    if n <= _MAX_UNSEARCHED:
        return np.zeros((0, n), bool)
    if n <= _MAX_PAIRS:
        folds = _pairs(n)
    elif n <= _MAX_STRATIFIED:
        folds = _stratified(y_train, seed)
    else:
        return (np.arange(n) >= n - min(int(0.2 * n), 100))[None]
    positives = (folds & (y_train == 1)).sum(axis=1)
    return folds[(positives > 0) & (positives < folds.sum(axis=1))]


def stratified_folds(y_train: Shaped[np.ndarray, " n"], seed: int = 0) -> Bool[np.ndarray, "F n"]:
    """Marks the validation rows of every fold as `paper_folds` does, but beyond 127 rows by class.

    There a fifth of each class validates, of 1,000 rows at most: the last of each in their order.
    No fold fits on one class alone.

    Args:
        y_train: labels in the order of the training rows, zeros and ones.
        seed: of the stratified shuffle up to 127 rows.

    Returns:
        One row per fold, True where a training row validates; a fold fits on the others.
    """
    y_train = binary(y_train)
    n = len(y_train)
    if n <= _MAX_STRATIFIED:
        folds = paper_folds(y_train, seed)
        ones, fitted = (~folds & (y_train == 1)).sum(axis=1), (~folds).sum(axis=1)
        return folds[(ones > 0) & (ones < fitted)]
    share = min(_HELD_OUT, _MOST_HELD_OUT / n)
    val = np.zeros((1, n), bool)
    for label in (0, 1):
        own = np.flatnonzero(y_train == label)
        if len(own) < 2:
            return val[:0]
        val[0, own[-max(1, int(share * len(own))) :]] = True
    return val


def _pairs(n: int) -> np.ndarray:
    pairs = np.array(list(itertools.combinations(range(n), 2)))
    return (np.arange(n) == pairs[:, :, None]).any(axis=1)


def _stratified(y_train: np.ndarray, seed: int) -> np.ndarray:
    splitter = StratifiedKFold(_STRATIFIED_FOLDS, shuffle=True, random_state=seed)
    folds = np.zeros((_STRATIFIED_FOLDS, len(y_train)), bool)
    with warnings.catch_warnings():
        # A class with fewer rows than folds: the folds that lack it are dropped by the caller.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, validation) in zip(folds, splitter.split(y_train, y_train), strict=True):
            fold[validation] = True
    return folds

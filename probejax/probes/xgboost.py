"""Gradient-boosted trees: the xgboost library, ten random draws of its settings (arXiv 2502.16681).

The study standardises the features first. Trees look at the order within a column only, which no
standardisation changes, so the raw features give the same trees and are used as they are.

A training set is binned once for all draws. Fits run on one thread each, as many at a time as there
are cores; no fit knows of its neighbours, so the order in which they end changes nothing.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from probejax import devices
from probejax.probes import given, scores
from probejax.probes.families.trees import load, margin, packed
from probejax.probes.rows import Rows
from probejax.solvers import codes

DRAWS = 10
# The library's default is 256, for about 1,000 rows. 64 takes a third of the time, and changes the
# test AUC by less than another seed does (BUILD_NOTES.md).
MAX_BIN = 64

# Drawn from in this order; the study does so without a seed.
CHOICES: dict[str, list[Any]] = {
    "n_estimators": [50, 100, 150, 200, 250],
    "max_depth": [2, 3, 4, 5],
    "learning_rate": np.logspace(-3, -1, 10).tolist(),
    "subsample": np.linspace(0.7, 1.0, 5).tolist(),
    "colsample_bytree": np.linspace(0.7, 1.0, 5).tolist(),
    "reg_alpha": np.logspace(-3, 1, 10).tolist(),
    "reg_lambda": np.logspace(-3, 1, 10).tolist(),
    "min_child_weight": [1, 2, 3, 4, 5, 6, 7, 8, 9],
}
DEFAULT = {"n_estimators": 100}  # the other settings are the library's own


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: the best of ten draws on the folds, then a fit on all training rows.

    `hyperparameter` is the number of the draw (see `draws`), NaN where there was no search. Trees
    have no certificate: `gap` is NaN, and `code` is CONVERGED where the rules ran to their end.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes; their seeds seed the draws and the library.
      protocol: whose rules; they differ for at most three rows only.

    Raises:
      RuntimeError: xgboost is not installed.
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    load()
    rows = given.features_of(features, rows, protocol)
    x = np.asarray(features, np.float32)
    folds, searched = scores.folds(rows, protocol), scores.searched(rows)
    lanes = [
        _Lane(x, rows, lane, folds.train[folds.lane == lane] if wanted else folds.train[:0])
        for lane, wanted in enumerate(searched)
    ]
    first: dict[bytes, int] = {}  # lanes that train alike are fitted once
    twin = [first.setdefault(lane.identity, index) for index, lane in enumerate(lanes)]
    usable = [index for index in first.values() if lanes[index].code == codes.CONVERGED]
    usable.sort(key=lambda index: -len(lanes[index].y))  # the longest first
    with ThreadPoolExecutor(devices.cores()) as pool:
        jobs = [(lanes[i], draw) for i in usable if searched[i] for draw in range(DRAWS)]
        list(pool.map(lambda job: job[0].try_draw(job[1]), jobs))
        list(pool.map(lambda index: lanes[index].finish(), usable))

    lanes = [lanes[index] for index in twin]
    return scores.finish(
        x,
        rows,
        protocol,
        packed([lane.model for lane in lanes], x.shape[1]),
        val_auc=np.array([lane.means.max() for lane in lanes]),
        hyperparameter=np.where(searched, [float(lane.means.argmax()) for lane in lanes], np.nan),
        gap=np.full(len(lanes), np.nan),
        code=np.array([lane.code for lane in lanes]),
    )


def draws(seed: int) -> list[dict[str, Any]]:
    """Returns the settings that are tried, the same for all conditions with this seed."""
    rng = random.Random(seed)
    return [{name: rng.choice(values) for name, values in CHOICES.items()} for _ in range(DRAWS)]


class _Lane:
    """One training set, its search over the folds (none: no search) and its final model."""

    def __init__(self, x, rows: Rows, lane: int, folds: np.ndarray):
        mask = np.asarray(rows.train_mask)[lane]
        train = np.asarray(rows.train)[lane][mask]
        self.x, self.y = x[train], np.asarray(rows.y_train)[lane][mask]
        self.folds = folds[:, mask]
        self.seed = int(np.asarray(rows.seed)[lane])
        self.identity = b"".join(
            part.tobytes()
            for part in (train, self.y, self.folds, np.array([len(train), self.seed]))
        )
        self.means = np.full(DRAWS, -np.inf)  # validation AUC of each draw that ran to its end
        self.code, self.model = codes.CONVERGED, b""
        if not np.isfinite(self.x).all():
            self.code, self.means[:] = codes.NON_FINITE, np.nan
        elif len(set(self.y.tolist())) < 2:
            self.code, self.means[:] = codes.DEGENERATE, np.nan
        self._binned: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._left = DRAWS

    def try_draw(self, draw: int) -> None:
        """Finds the mean validation AUC of a draw, unless another one has beaten it already."""
        total, count = 0.0, len(self.folds)
        for fold, train in enumerate(self.folds):
            if self._is_beaten(draw, (total + count - fold) / count):
                break
            total += self._fold_auc(fold, train, draws(self.seed)[draw])
        else:
            self.means[draw] = total / count
        with self._lock:
            self._left -= 1
            if not self._left:
                self._binned.clear()

    def _is_beaten(self, draw: int, best: float) -> bool:
        """Tells whether a draw whose mean will be `best` at most can no longer be chosen."""
        best = 1.0 if best > 1 - 1e-12 else best + 1e-12  # sums round, but never above 1
        return bool((self.means > best).any() or (self.means[:draw] >= best).any())

    def _fold_auc(self, fold: int, train: np.ndarray, settings: dict[str, Any]) -> float:
        y = self.y[~train]
        if len(set(y.tolist())) < 2:
            return np.nan
        # A row weighs 1/4 at most, so that both sides of a split cannot reach the minimum.
        stump = train.sum() / 4 < 2 * settings["min_child_weight"]
        if stump or len(set(self.y[train].tolist())) < 2:
            return 0.5
        with self._lock:
            if fold not in self._binned:
                self._binned[fold] = _binned(self.x[train], self.y[train])
            binned = self._binned[fold]
        booster = _boost(binned, settings, self.seed)
        return _auc(margin(booster, self.x[~train]), y)

    def finish(self) -> None:
        """Fits the best draw, or the default of a lane without folds, on all training rows."""
        best = int(self.means.argmax())
        settings = draws(self.seed)[best] if len(self.folds) else DEFAULT
        booster = _boost(_binned(self.x, self.y), settings, self.seed)
        self.model = bytes(booster.save_raw("json"))


def _boost(binned, settings: dict[str, Any], seed: int):
    settings = {
        "objective": "binary:logistic",
        "max_bin": MAX_BIN,
        "seed": seed,
        "nthread": 1,
        "verbosity": 0,
        **settings,
    }
    trees = settings.pop("n_estimators")
    booster = load().Booster(settings, [binned])
    for tree in range(trees):
        booster.update(binned, tree)
    return booster


def _binned(x, y):
    return load().QuantileDMatrix(x, y, max_bin=MAX_BIN, nthread=1)


def _auc(logits, y) -> float:
    """As `metrics.auc`, on the host: threads of many sizes would compile each."""
    positive, negative = logits[y == 1], np.sort(logits[y == 0])
    sides = (np.searchsorted(negative, positive, side).sum() for side in ("left", "right"))
    return float(sum(sides)) / (2 * len(positive) * len(negative))

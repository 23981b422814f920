"""The vote of the nearest training rows."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import scale
from probejax.probes.families.probe import Probe, shared
from probejax.probes.nearest import Search, nearest

_CERTAIN = 20.0  # logit where all neighbours agree; that of 99 in 100 is 4.6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours(Probe):
    """The logit of x is the log odds of the labels of the k nearest training rows.

    Distances are Euclidean after division by the scale. Of rows at one distance the first count.

    Attributes:
      train: [*lanes, n], training rows, as row numbers of `x`.
      mask: [*lanes, n], which of these count.
      y: [*lanes, n], their labels.
      scale: [*lanes, d], standard deviations.
      k: [*lanes], how many vote.
      x: [N, d], where the training rows are.
    """

    train: Int[np.ndarray, "*lanes n"]
    mask: Bool[np.ndarray, "*lanes n"]
    y: Int[np.ndarray, "*lanes n"]
    scale: Float[np.ndarray, "*lanes d"]
    k: Int[np.ndarray, "*lanes"]
    x: Float[Array | np.ndarray, "N d"] = shared()

    @property
    def lanes(self) -> int | None:
        return len(self.k) if self.k.ndim else None

    @property
    def width(self) -> int:
        return self.x.shape[1]

    def of_rows(self, source, rows, mask):
        known = np.asarray(self.x, np.float64)
        if source is self.x:
            x, moved = known, rows
        else:  # new rows stand behind those that are known
            x, moved = np.concatenate([known, np.asarray(source, np.float64)]), rows + len(known)
        fine = np.asarray(np.isfinite(x).all(axis=1))
        x = np.where(fine[:, None], x, 0)
        x = x - scale.middle(x[: len(known)])
        lanes = zip(self.train, self.mask, self.scale, moved, mask, self.k, strict=True)
        searches = [
            Search(train, among, spread, own[asked], np.array([k]))
            for train, among, spread, own, asked, k in lanes
        ]
        found = np.zeros(rows.shape, np.float32)
        for lane, near in nearest(x, searches):
            share = self.y[lane][near[:, : self.k[lane]]].mean(axis=1)
            found[lane][mask[lane]] = logits_of(share)
        return found

    def kept(self) -> "Neighbours":
        used = np.unique(self.train[self.mask])
        place = np.searchsorted(used, np.where(self.mask, self.train, used[:1]))
        return dataclasses.replace(self, x=np.asarray(self.x)[used], train=place)


def logits_of(share) -> Float[np.ndarray, "*batch"]:
    """Returns log odds that keep the order of shares, and the side of one half they lie on.

    They are raised by a millionth, so that the sigmoid of 0.3 falls into the bin from 0.3 up.
    """
    p = np.asarray(share, np.float64)
    inner = np.clip(p, 1e-3, 1 - 1e-3)
    logits = np.log(inner) - np.log1p(-inner) + 1e-6 * (p != 0.5)
    return np.where(p == 0, -_CERTAIN, np.where(p == 1, _CERTAIN, logits)).astype(np.float32)

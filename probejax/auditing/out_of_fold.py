"""The probability of each row's labels, by probes that have not seen its prompt."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from probejax.auditing.dataset import Dataset
from probejax.auditing.folds import FOLDS, folds, lanes
from probejax.auditing.ranks import auc
from probejax.probes import logreg, methods
from probejax.probes import sae as on_latents
from probejax.solvers import codes

REPEATS = 3


class Judged(NamedTuple):
    """What one method says of every row.

    Attributes:
      method: its name.
      probability: [n] of label 1, the mean over repeats.
      auc: of these probabilities.
      permuted: [n] the same where the labels of the dataset are permuted, of one repeat.
      permuted_auc: of the latter, against the permuted labels.
      unconverged: fits that did not reach their certificate.
    """

    method: str
    probability: Float[np.ndarray, " n"]
    auc: float
    permuted: Float[np.ndarray, " n"]
    permuted_auc: float
    unconverged: int


def permutation(data: Dataset, seed: int = 0) -> np.ndarray:
    """Returns the permuted labels with which everything is compared."""
    return np.random.RandomState(seed).permutation(data.y)


def judge(data: Dataset, method: str, *, repeats: int = REPEATS, seed: int = 0) -> Judged:
    """Fits a method on all folds of all repeats, and on those of permuted labels, in one batch.

    The strength of the regularisation is chosen inside the training rows, and latents are ranked
    on them alone.

    Args:
      data: the dataset.
      method: `logreg`, or `sae_k<k>` where the dataset has an SAE.
      repeats: how often each row is judged.
      seed: of the folds and the permutation.
    """
    shuffled = permutation(data, seed)
    cuts = folds(data.y, data.same, repeats, seed)
    cuts += folds(shuffled, data.same, 1, seed)
    count = FOLDS * repeats
    labels = np.concatenate([np.tile(data.y, (count, 1)), np.tile(shuffled, (FOLDS, 1))])
    found = np.zeros((repeats + 1, len(data.y)))
    unconverged = 0
    for which, rows in lanes(cuts, labels):
        fit = _fit(data, method, rows)
        unconverged += int((np.asarray(fit.code)[: len(which)] != codes.CONVERGED).sum())
        logits = np.asarray(fit.probe(data.x), np.float64)
        for lane, number in enumerate(which):
            test = cuts[number].test
            found[number // FOLDS, test] = expit(logits[lane, test])
    mean = found[:repeats].mean(axis=0)
    return Judged(method, mean, auc(mean, data.y), found[-1], auc(found[-1], shuffled), unconverged)


def _fit(data: Dataset, method: str, rows):
    rules = methods.parse(method)
    if not rules.k:
        return logreg.fit(data.x, rows, "strict")
    assert data.sae is not None, "only a dataset with an SAE is judged by latents"
    chosen = on_latents.select(data.x, rows, data.sae, rules.k, "normalised", "strict")
    return on_latents.fit(chosen, rows, rules.k, binarised=rules.binarised, protocol="strict")

"""The probability of each row's labels, by probes that have not seen its prompt."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from probejax.auditing.dataset import Dataset
from probejax.auditing.folds import FOLDS, MOST_TRAIN, Fold, lanes
from probejax.metrics import host_auc
from probejax.probes import logreg, methods
from probejax.probes import sae as on_latents
from probejax.solvers import codes, l2

REPEATS = 3
_ROWS = 1 << 14  # judged at a time


class Judged(NamedTuple):
    """What one method says of every row.

    Attributes:
      method: its name.
      probability: [n] of label 1, the mean over repeats.
      auc: of these probabilities.
      permuted: [n] the same where the labels of the dataset are permuted.
      permuted_auc: of the latter, against the permuted labels.
      unconverged: fits that did not reach their certificate.
    """

    method: str
    probability: Float[np.ndarray, " n"]
    auc: float
    permuted: Float[np.ndarray, " n"]
    permuted_auc: float
    unconverged: int


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
    shuffled = data.permuted(seed)
    cuts = data.folds(data.y, repeats, seed) + data.folds(shuffled, repeats, seed)
    count = FOLDS * repeats
    labels = np.concatenate([np.tile(data.y, (count, 1)), np.tile(shuffled, (count, 1))])
    parts, unconverged = probabilities(data, method, cuts, labels)
    found = np.zeros((2 * repeats, len(data.y)))
    for number, (cut, part) in enumerate(zip(cuts, parts, strict=True)):
        found[number // FOLDS, cut.test] = part
    own, chance = found[:repeats].mean(axis=0), found[repeats:].mean(axis=0)
    return Judged(
        method, own, host_auc(own, data.y), chance, host_auc(chance, shuffled), unconverged
    )


def probabilities(
    data: Dataset, method: str, cuts: list[Fold], labels: Int[np.ndarray, "L n"]
) -> tuple[list[Float[np.ndarray, " t"]], int]:
    """Fits a method on the training rows of every cut and judges its test rows.

    Args:
      data: the dataset.
      method: as for `judge`.
      cuts: L of them.
      labels: of the whole dataset, for each cut.

    Returns:
      The probabilities of label 1 of each cut's test rows, and how many fits did not converge.
    """
    found: dict[int, np.ndarray] = {}
    unconverged = 0
    for which, rows in lanes(cuts, labels):
        fit = _fit(data, method, rows)
        unconverged += int((np.asarray(fit.code)[: len(which)] != codes.CONVERGED).sum())
        parts = [fit.probe(data.x[i : i + _ROWS]) for i in range(0, len(data.x), _ROWS)]
        logits = np.concatenate(parts, axis=1).astype(np.float64)
        found |= {
            number: expit(logits[lane, cuts[number].test]) for lane, number in enumerate(which)
        }
    return [found[number] for number in range(len(cuts))], unconverged


def _fit(data: Dataset, method: str, rows):
    rules = methods.parse(method)
    if not rules.k:
        return logreg.fit(data.x, rows, "strict")
    assert data.sae is not None, "only a dataset with an SAE is judged by latents"
    chosen = on_latents.select(data.x, rows, data.sae, rules.k, "normalised", "strict")
    return on_latents.fit(chosen, rows, rules.k, binarised=rules.binarised, protocol="strict")


def direction(
    data: Dataset, labels: Int[np.ndarray, "L n"], seed: int = 0
) -> Float[np.ndarray, "L d"]:
    """Returns the weights of logistic regression on all rows, for each labelling of them.

    The first labelling chooses the strength for all: a permutation that chose its own would often
    choose one at which only the directions of largest variance are left.

    Args:
      data: the dataset.
      labels: 0 or 1.
      seed: of the split that chooses the strength.
    """
    every = np.arange(len(data.y))
    (inner, *_) = data.folds(data.y, 1, seed)
    cut = Fold(every, np.isin(every, inner.test), every)
    if len(every) > MOST_TRAIN:
        cut = inner
    found = np.zeros((len(labels), data.x.shape[1]))
    ((_, first),) = lanes([cut], labels[:1])
    C = logreg.fit(data.x, first, "strict").scores.hyperparameter[0]
    x, *_ = logreg.centred(data.x)
    for which, rows in lanes([cut] * len(labels), labels):
        train, mask, y = rows.train, rows.train_mask, rows.y_train
        strengths = np.full(len(train), C)
        weights = l2.solve(l2.share(x, train, mask), train, mask, y, strengths).w
        found[list(which)] = np.asarray(weights)[: len(which)]
    return found

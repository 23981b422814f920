"""Probes on the first latents of several orders, tested on a shifted set: one batch of lanes."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int

from probejax.auditing import shifted, units
from probejax.auditing.dataset import Dataset
from probejax.auditing.orders import Order, moves, orders
from probejax.auditing.resampled import Resampled, resampled
from probejax.auditing.shifted import Shifted
from probejax.probes import logreg, scores
from probejax.probes import sae as on_latents
from probejax.probes.families import OnLatents
from probejax.probes.rows import batches
from probejax.saes import stream
from probejax.saes.select import encode_columns, top_latents
from probejax.solvers import codes
from probejax.tasks import Condition

_TOGETHER = 1 << 17  # training rows, padding included, that are fitted together at most
_Key = tuple[int, tuple[int, ...]]  # which labels, and the columns that a probe reads, rising


class Pruned(NamedTuple):
    """Probes on some latents each, m latents of n rows to train on and t shifted ones.

    Attributes:
      latents: [m] numbers of the latents in the SAE, rising.
      values: [n + t, m] their activations.
      labels: [2, n] the labels, and a permutation of them.
      tested: [t] the labels of the shifted rows.
      candidates: [k] columns, those whose class means differ most first.
      weights: [m] of the probe on all candidates, times the latent's standard deviation.
      moved: [m] see `moves`.
      orders: those for the labels, and those for the permutation.
      aucs: on the shifted rows, of logreg, of logreg on permuted labels, and of every probe.
      unconverged: fits that did not reach their certificate.
      places: where in `aucs` the probe is that reads some columns.
    """

    latents: Int[np.ndarray, " m"]
    values: Float[np.ndarray, "N m"]
    labels: Int[np.ndarray, "2 n"]
    tested: Int[np.ndarray, " t"]
    candidates: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, " m"]
    moved: Float[np.ndarray, " m"]
    orders: tuple[list[Order], list[Order]]
    aucs: Resampled
    unconverged: int
    places: dict[_Key, int]

    def mean(self, permuted: int, order: Order, kept: int) -> Float[np.ndarray, " a"]:
        """Returns the weights with which AUCs add up to the mean AUC of an order cut at `kept`."""
        found = np.zeros(len(self.aucs.aucs))
        for key in _keys(permuted, order, kept):
            found[self.places[key]] += 1
        return found / len(order.lists)


def prune(
    data: Dataset, other: Shifted, k: int, keep: tuple[int, ...] | None = None, *, seed: int = 0
) -> Pruned:
    """Fits a probe on the first 1, 2, ... latents of every order.

    Args:
      data: the dataset, which has an SAE.
      other: its shifted set.
      k: latents that are ranked, those whose class means differ most.
      keep: latents that the user ranked, the best first.
      seed: of the rows, the random orders, the permutation and the bootstrap.

    Raises:
      ValueError: there are too few rows of a class.
    """
    assert data.sae is not None, "there is an SAE"
    cut = shifted.split(data, other, seed)
    x, y = np.concatenate([data.x[cut.train], other.x[cut.test]]), data.y[cut.train]
    n, shuffled = len(y), units.shuffled(y, data.same[cut.train], 1, seed)
    labels = np.concatenate([y[None], shuffled])
    k = min(k, stream.width(data.sae, x[:1]))
    train = np.tile(np.arange(n), (2, 1))
    best = top_latents(data.sae, x, train, np.ones(train.shape, bool), labels, k)
    latents = np.unique(np.concatenate([best.ravel(), np.array(keep or (), best.dtype)]))
    candidates = np.searchsorted(latents, best)
    given = None if keep is None else np.searchsorted(latents, keep)
    values, width = encode_columns(data.sae, x, latents), max(k, len(keep or ()))
    w, _, unconverged = _fit(values, list(candidates), labels, width, seed)
    weights, moved = np.abs(w) * values[:n].std(axis=0), moves(values[:n], values[n:])
    ranked = [
        orders(own, weight, moved, given, seed)
        for own, weight in zip(candidates, weights, strict=True)
    ]
    keys = dict.fromkeys(
        key
        for permuted, found in enumerate(ranked)
        for order in found
        for kept in range(1, order.lists.shape[1] + 1)
        if not permuted or kept in (half(order), order.lists.shape[1])  # what the claims need
        for key in _keys(permuted, order, kept)
    )
    lanes = [np.array(columns) for _, columns in keys]
    _, logits, more = _fit(values, lanes, labels[[which for which, _ in keys]], width, seed)
    every = np.concatenate([_logreg(x, labels, seed), logits])
    same = units.of(other.x, other.texts)[cut.test]
    return Pruned(
        latents=latents,
        values=values,
        labels=labels,
        tested=other.y[cut.test],
        candidates=candidates[0],
        weights=weights[0],
        moved=moved,
        orders=(ranked[0], ranked[1]),
        aucs=resampled(every, other.y[cut.test], same, seed),
        unconverged=unconverged + more,
        places={key: 2 + place for place, key in enumerate(keys)},
    )


def half(order: Order) -> int:
    """Returns how many latents half of an order are."""
    return -(-order.lists.shape[1] // 2)


def _keys(permuted: int, order: Order, kept: int) -> list[_Key]:
    """Returns what the probes of an order read; a set of latents is one fit, in any order."""
    return [(permuted, tuple(np.sort(each[:kept]).tolist())) for each in order.lists]


def _fit(
    values: Float[np.ndarray, "N m"],
    kept: Sequence[np.ndarray],
    labels: Int[np.ndarray, "L n"],
    width: int,
    seed: int,
) -> tuple[Float[np.ndarray, "L m"], Float[np.ndarray, "L t"], int]:
    """Fits L1 logistic regression on some columns for each lane.

    A lane that reads fewer columns is filled up with one of zeros, whose weight an L1 penalty keeps
    at zero: lanes of any number of latents are one program.

    Returns:
      The weights of all columns, the logits of the rows that are not trained on, and how many fits
      did not converge.
    """
    n, zeros = labels.shape[1], values.shape[1]
    padded = np.pad(values, ((0, 0), (0, 1)))
    columns = np.array([np.pad(c, (0, width - len(c)), constant_values=zeros) for c in kept])
    w, b, unconverged = np.zeros((len(kept), zeros + 1)), np.zeros((len(kept), 1)), 0
    for which, rows in batches(_conditions(labels, seed), most_rows=_TOGETHER):
        own, lanes = columns[list(which)], np.array(which)[:, None]
        of_folds = own[scores.folds(rows, "strict").lane]
        chosen = on_latents.Selection(padded, own, of_folds, own)
        found = on_latents.fit(chosen, rows, width, protocol="strict")
        probe = cast(OnLatents, found.probe)
        w[lanes, own], b[lanes] = probe.w, np.asarray(probe.b)[:, None, None]
        unconverged += int((np.asarray(found.code) != codes.CONVERGED).sum())
    # Rounded, as a probe's logits are: rows with the same latents on must tie.
    logits = (w[:, :zeros] @ values[n:].T).astype(np.float32) + b.astype(np.float32)
    return w[:, :zeros], logits, unconverged


def _logreg(x: Float[np.ndarray, "N d"], labels: Int[np.ndarray, "L n"], seed: int) -> np.ndarray:
    """Returns the logits [L, t] of logistic regression on all dimensions."""
    found = np.zeros((len(labels), len(x) - labels.shape[1]))
    for which, rows in batches(_conditions(labels, seed), most_rows=_TOGETHER):
        found[list(which)] = logreg.fit(x, rows, "strict").probe(x[labels.shape[1] :])
    return found


def _conditions(labels: Int[np.ndarray, "L n"], seed: int) -> list[Condition]:
    none, rows = np.zeros(0, int), np.arange(labels.shape[1])
    return [Condition(shifted.REGIME, None, seed, rows, y, none, none) for y in labels]

"""A small network on standardised features, as the study trains it (arXiv 2502.16681).

Of the study's nominal grid a single setting is ever drawn, so nothing is searched.
"""

from typing import cast

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import given, minibatch, scale, scores
from probejax.probes.closed_form import codes_of
from probejax.probes.families import Network
from probejax.probes.families.network import Layers
from probejax.probes.minibatch import Rules
from probejax.probes.rows import Rows
from probejax.probes.scale import Scale
from probejax.solvers import codes, engine, tables

RULES = Rules(hidden=(16, 16, 16), rate=10**-2.5, decay=0.01)
FEW_ROWS = Rules(hidden=(32,), rate=1e-3, decay=1e-4)  # up to three rows: scikit-learn's defaults
_TABLE_BYTES = 2**28  # of standardised features at a time
_TABLES = 16  # of them, at most


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one network per lane, and one per fold for the validation AUC.

    A network has no certificate: `gap` is NaN. `code` is CONVERGED where the loss stopped falling
    by scikit-learn's rule, MAX_TRIPS after 1,000 epochs.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes; their seeds seed start and shuffles.
      protocol: whose rules; they tell which rows the scaler of a fold sees.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    x = np.asarray(features, np.float32)
    train, mask = rows.train, rows.train_mask
    folds, count = scores.folds(rows, protocol), len(train)
    lane = np.concatenate([np.arange(count), folds.lane])
    layers, scaler, code = _fit(
        x,
        np.where(mask, train, -1)[lane],
        np.asarray(rows.y_train)[lane],
        np.concatenate([mask, folds.train]),
        np.concatenate([mask, folds.seen]),
        np.asarray(rows.seed)[lane],
        scores.searched(rows)[lane],
    )
    every = Network(layers, scaler)

    def path(folds):
        return every[count:].of_rows(x, train[folds.lane], mask[folds.lane])[:, None, :]

    def refit(_):
        return every[:count], np.full(count, np.nan), code[:count]

    return scores.search_and_refit(x, rows, protocol, np.array([np.nan]), path, refit)


def _fit(
    x: Float[np.ndarray, "N d"],
    rows: Int[np.ndarray, "J n"],
    y: Int[np.ndarray, "J n"],
    mask: Bool[np.ndarray, "J n"],
    seen: Bool[np.ndarray, "J n"],
    seeds: Int[np.ndarray, " J"],
    searched: Bool[np.ndarray, " J"],
) -> tuple[Layers, Scale, Int[np.ndarray, " J"]]:
    """Fits J networks on standardised rows of x (-1: padding), those that are alike once.

    Networks that cannot be fitted are all zeros. All have the same form, see `_formed`.
    """
    (count, n), d = rows.shape, x.shape[1]
    usable = given.finite(x)
    code = codes_of(usable, rows, mask, y)
    code = np.where((usable[rows] | ~seen).all(axis=1), code, codes.NON_FINITE).astype(np.int32)
    width = (RULES if searched.all() else FEW_ROWS).hidden[0]
    layers = _formed(minibatch.start(d, RULES.hidden, np.random.RandomState(0)), width)
    layers = jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape), np.float32), layers)
    scaler = cast(Scale, Scale._make(np.full((count, d), v, np.float32) for v in (0, 1)))

    good = np.flatnonzero(code == codes.CONVERGED)
    first_table, table = _alike(rows[good], seen[good])
    first, alike = _alike(table[:, None], mask[good], (y * mask)[good], seeds[good, None])
    first_table, first = good[first_table], good[first]
    table_of = table[np.searchsorted(good, first)]
    room = min(max(1, _TABLE_BYTES // (4 * n * d)), _TABLES)
    for start in range(0, len(first_table), room):
        part = first_table[start : start + room]
        padded = np.resize(part, room)
        standard, scalers = _standardise(tables.rows(x, rows[padded]), seen[padded])
        scalers = jax.tree.map(np.asarray, scalers)
        inside = (table_of >= start) & (table_of < start + len(part))
        for rules, wanted in ((FEW_ROWS, ~searched), (RULES, searched)):
            some = inside & wanted[first]
            if not some.any():
                continue
            fits, which = first[some], table_of[some] - start
            found, ended = minibatch.train(standard, which, mask[fits], y[fits], seeds[fits], rules)
            engine.put(layers, fits, _formed(found, width))
            code[fits] = ended
            engine.put(scaler, fits, engine.take(scalers, which))
    everything = (layers, scaler, code)
    engine.put(everything, good, engine.take(everything, first[alike]))
    return layers, scaler, code


def _alike(*columns: Int[np.ndarray, "J _"] | Bool[np.ndarray, "J _"]):
    """Returns the first of every kind of row, and which kind each row is."""
    _, first, kind = np.unique(
        np.concatenate(columns, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return first, kind.reshape(-1)


def _formed(layers: Layers, width: int) -> Layers:
    """Returns an equal network with as many layers as `RULES` has, of the given width.

    Units without weights change nothing, and an identity passes on what a rectifier let through.
    """
    *hidden, (w, b) = layers
    formed = [_grown(*layer, width, width if i else None) for i, layer in enumerate(hidden)]
    for _ in range(len(RULES.hidden) - len(hidden)):
        eye = np.broadcast_to(np.eye(width, dtype=np.float32), (*w.shape[:-2], width, width))
        formed.append((eye, np.zeros(eye.shape[:-1], np.float32)))
    return (*formed, _grown(w, b, 1, width))


def _grown(w, b, outputs: int, inputs: int | None):
    """Pads weights [..., out, in] and intercepts [..., out] with zeros."""
    batch = ((0, 0),) * (w.ndim - 2)
    more, wider = (0, outputs - w.shape[-2]), (0, (inputs or w.shape[-1]) - w.shape[-1])
    return np.pad(w, (*batch, more, wider)), np.pad(b, (*batch, more))


@jax.jit
def _standardise(own, seen):
    """Returns the standardised rows, one set after the other, and the scalers of the sets."""
    rows, scalers = jax.lax.map(lambda each: scale.standardise(*each), (own, seen))
    return rows.reshape(-1, rows.shape[-1]), scalers

"""Probes on all tokens of a prompt, trained by gradient: the study's attention, and its kin."""

from typing import NamedTuple

import numpy as np

from probejax.activations import ragged
from probejax.activations.ragged import Activations
from probejax.probes import aggregators, given, scores
from probejax.probes import token_training as training
from probejax.probes.aggregators import Aggregator
from probejax.probes.families import Pooled
from probejax.probes.rows import Rows
from probejax.probes.token_training import Fits, Trained
from probejax.solvers import codes, engine

_SPREAD = 1e-3  # of the initial score vectors, the study's
_TRIES = 1000  # random splits until both parts hold both classes


class Design(NamedTuple):
    """A kind of probe, and what is tried.

    Attributes:
      aggregate: what makes a logit of the scores of a prompt's tokens.
      vectors: score vectors of a probe.
      settings: of the aggregator.
      rates: learning rates.
      starts: draws of the initial vectors.
      bos: whether the first token counts.
      steps: of Adam.
    """

    aggregate: Aggregator
    vectors: int = 1
    settings: tuple[float, ...] = (0.0,)
    rates: tuple[float, ...] = (1e-4,)
    starts: int = 1
    bos: bool = False
    steps: int = 1000


def attention(heads: int = 1) -> Design:
    """Returns the study's probe (arXiv 2502.16681): BOS counts, one query and value per head."""
    return Design(aggregators.attention, 2 * heads, bos=True)


_STUDY = attention()


def fit(
    tokens: Activations,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    design: Design = _STUDY,
    size: int | None = None,
) -> scores.Fit:
    """Fits one probe per lane.

    `paper` follows the study: a random 80 % of the training rows train and 20 % validate, and the
    probe of the best step is final. Its validation AUC is thus the largest of a thousand on the
    rows that stopped it. `strict` takes the folds of `rows` like every other method: the step with
    the best mean over folds, then a fit on all training rows for so many steps. Where there is no
    fold, or no split with both classes in both parts, all steps are taken on all rows.

    Args:
      tokens: of all prompts that `rows` means.
      rows: the lanes.
      protocol: whose rules.
      design: which probe; of settings, rates and starts that validate equally well the first wins.
      size: tokens of a tile, see `tiles.tile`.

    Returns:
      Scores with the chosen setting as hyperparameter (the learning rate where there is one setting
      only) and no certificate, as the problem is not convex.

    Raises:
      ValueError: the tokens or the rows will not do, see `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    tokens = tokens if design.bos else ragged.without_bos(tokens)
    return _finished(tokens, protocol, design, search(tokens, rows, protocol, design, size))


class Search(NamedTuple):
    """What training found.

    Attributes:
      rows: the lanes with the folds that were used.
      val_auc: per lane, of the best step.
      step: per lane, the best.
      tried: per lane, the setting, rate and start that were best.
      final: the probes to keep.
    """

    rows: Rows
    val_auc: np.ndarray
    step: np.ndarray
    tried: list[tuple[float, float, int]]
    final: Trained


def search(
    tokens: Activations,
    rows: Rows,
    protocol: scores.Protocol,
    design: Design,
    size: int | None = None,
) -> Search:
    """Trains all that the design tries; arguments as for `fit`, tokens as they shall be read."""
    rows = Rows(*map(np.asarray, rows))
    if protocol == "paper":
        rows = _halved(rows)
    tried = [(s, r, i) for s in design.settings for r in design.rates for i in range(design.starts)]
    folds = scores.folds(rows, protocol)
    alone = ~scores.searched(rows)
    single = np.bincount(folds.lane, minlength=len(alone)) == 1
    stop = np.where(single & ~alone, -1, design.steps - 1)[folds.lane]
    every = np.repeat(np.arange(len(folds.lane)), len(tried))  # fold after fold, all that is tried
    found = train(
        tokens,
        rows,
        design,
        folds.lane[every],
        tried * len(folds.lane),
        (folds.train[every], folds.val[every], stop[every]),
        size,
    )
    val_auc, best, step = _best(found.val_auc, folds.lane, len(tried))
    best[alone], step[alone] = 0, design.steps - 1
    chosen = [tried[candidate] for candidate in best]
    if protocol == "paper":  # each lane has one fold, and what was fitted there is final
        fold = np.argsort(folds.lane, kind="stable")
        final = engine.take(found, fold * len(tried) + best)
    else:
        mask = np.asarray(rows.train_mask)
        masks = (mask, np.zeros_like(mask), step)
        final = train(tokens, rows, design, np.arange(len(mask)), chosen, masks, size)
    return Search(rows, val_auc, step, chosen, final)


def _halved(rows: Rows) -> Rows:
    """Gives each lane the study's one fold: a random fifth of its rows validates, seeded by us."""
    val = np.zeros((len(rows.train), 1, rows.train.shape[1]), bool)
    for lane, (mask, y, seed) in enumerate(
        zip(rows.train_mask, rows.y_train, rows.seed, strict=True)
    ):
        places, rng = np.flatnonzero(mask), np.random.default_rng([int(seed), 80])
        for _ in range(_TRIES if len(places) > 3 else 0):
            order = rng.permutation(places)
            part = np.split(order, [int(0.8 * len(order))])
            if all(0 < y[half].sum() < len(half) for half in part):
                val[lane, 0, part[1]] = True
                break
    return rows._replace(val=val, fold_mask=val.any(axis=2))


def train(
    tokens: Activations,
    rows: Rows,
    design: Design,
    lane: np.ndarray,
    tried: list[tuple[float, float, int]],
    masks: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: int | None = None,
) -> Trained:
    """Trains fits of lanes.

    Args:
      tokens: of all prompts, as they shall be read.
      rows: the lanes.
      design: which probe.
      lane: of each fit.
      tried: of each fit, its setting, rate and start.
      masks: of each fit, its training rows, validation rows and stop, see `token_training.Fits`.
      size: tokens of a tile.
    """
    shape = (design.vectors, tokens.d_model)
    seeds = rows.seed[lane].tolist()
    setting, rate, start = (np.array(each) for each in zip(*tried, strict=True))
    w = np.stack(
        [
            np.random.default_rng([*key]).normal(0, _SPREAD, shape)
            for key in zip(seeds, [81] * len(seeds), start.tolist(), strict=True)
        ]
    )
    b = np.zeros(len(lane))
    fixed = (np.asarray(rows.y_train)[lane], w, b, setting.astype(float), rate)
    fits = Fits(np.asarray(rows.train)[lane], masks[0], masks[1], *fixed, masks[2])
    return training.train(tokens, fits, design.aggregate, steps=design.steps, size=size)


def _best(traces: np.ndarray, lane: np.ndarray, tried: int) -> tuple[np.ndarray, ...]:
    """Returns per lane the best mean validation AUC over folds, of what and after which steps."""
    traces = traces.reshape(len(lane), tried, -1)
    mean = np.zeros((lane.max() + 1, *traces.shape[1:]))
    np.add.at(mean, lane, traces)
    mean /= np.bincount(lane)[:, None, None]
    mean[np.isnan(mean)] = -1  # after a fit has left it cannot be better
    top = mean.max(axis=2)
    best = top.argmax(axis=1)
    at = np.arange(len(mean))
    step = mean[at, best].argmax(axis=1)
    never = top[at, best] < 0
    return np.where(never, np.nan, top[at, best]), best, np.where(never, traces.shape[2] - 1, step)


def _finished(tokens, protocol, design: Design, found: Search) -> scores.Fit:
    """Scores the final fits."""
    rows, final = found.rows, found.final
    code = codes_of(rows, final)
    good = code == codes.CONVERGED
    w, b = np.where(good[:, None, None], final.w, 0), np.where(good, final.b, 0)
    setting = np.array([each[0] for each in found.tried])
    name = design.aggregate.__name__
    chosen = [s if len(design.settings) > 1 else r for s, r, _ in found.tried]
    return scores.finish(
        tokens,
        rows,
        protocol,
        Pooled(w, b, setting, name, design.bos),
        val_auc=found.val_auc,
        hyperparameter=np.array(chosen),
        gap=np.full(len(w), np.nan),
        code=code,
    )


def codes_of(rows: Rows, final: Trained) -> np.ndarray:
    """Returns the result codes: a fit that took its steps has done all that the rules ask."""
    positive, count = (rows.y_train * rows.train_mask).sum(axis=1), rows.train_mask.sum(axis=1)
    code = np.where((positive > 0) & (positive < count), codes.CONVERGED, codes.DEGENERATE)
    return np.where(np.isnan(final.loss[:, 0]), codes.NON_FINITE, code)

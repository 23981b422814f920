"""Trains probes that read all tokens of a prompt, many at once, by the study's rules.

A probe is some score vectors and a bias. Its tokens' scores become one logit (`aggregators`), and
all fits of a batch take their steps of Adam together, on all their rows. The gradient of a prompt
needs that prompt alone, so one pass over the tiles gives loss, gradient and logits: a tile is
multiplied with the vectors of all fits, and its gradient with the tile, while it is in the cache.

The rules (arXiv 2502.16681, attention probe): mean binary cross-entropy, Adam with its usual
decays, parameters kept where the validation AUC, taken before each step, is best for the first
time. A fit whose validation AUC is 1 cannot do better, and leaves; so results do not change.
"""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from probejax import metrics, sizes
from probejax.activations.ragged import Activations
from probejax.probes import tiles as layout
from probejax.probes.aggregators import Aggregator
from probejax.probes.tiles import Form
from probejax.probes.token_chunks import chunks
from probejax.solvers import engine
from probejax.solvers.spread import over_lanes

_ROUND = 50  # steps between two looks of the host
_SHARE = 2**31  # bytes of tokens
_ADAM = optax.scale_by_adam()


class Fits(NamedTuple):
    """What to train, Q fits.

    Attributes:
      rows: prompts of each fit.
      train: which of them train.
      val: which of them validate.
      y: their labels.
      w: score vectors at the start.
      b: biases at the start.
      setting: of the aggregator.
      rate: learning rate.
      stop: the step whose parameters are kept; -1 keeps those with the best validation AUC.
    """

    rows: Int[np.ndarray, "Q n"]
    train: Bool[np.ndarray, "Q n"]
    val: Bool[np.ndarray, "Q n"]
    y: Int[np.ndarray, "Q n"]
    w: Float[np.ndarray, "Q c d"]
    b: Float[np.ndarray, " Q"]
    setting: Float[np.ndarray, " Q"]
    rate: Float[np.ndarray, " Q"]
    stop: Int[np.ndarray, " Q"]


class Trained(NamedTuple):
    """What came of it.

    Attributes:
      w: score vectors kept.
      b: biases kept.
      step: whose parameters these are; -1 where no step had a validation AUC.
      val_auc: before each step; NaN after a fit has left.
      loss: on the training rows before each step; NaN after a fit has left.
    """

    w: Float[np.ndarray, "Q c d"]
    b: Float[np.ndarray, " Q"]
    step: Int[np.ndarray, " Q"]
    val_auc: Float[np.ndarray, "Q steps"]
    loss: Float[np.ndarray, "Q steps"]


class _Tiles(NamedTuple):
    """The tiles of a chunk, on the device; the spare ones behind `count` are never looked at."""

    count: Int[Array, ""]
    x: Float[Array, "tiles size d"]
    real: Bool[Array, "tiles size"]
    kind: Int[Array, " tiles"]


class _Lanes(NamedTuple):
    """What the fits of a chunk want, one lane each."""

    y: Float[Array | np.ndarray, "L tiles most"]
    weight: Float[Array | np.ndarray, "L tiles most"]  # share of the training rows
    place: Int[Array | np.ndarray, "L v"]  # where the validation rows lie among [tiles * most]
    y_val: Int[Array | np.ndarray, "L v"]
    val: Bool[Array | np.ndarray, "L v"]
    setting: Float[Array | np.ndarray, " L"]
    rate: Float[Array | np.ndarray, " L"]
    stop: Int[Array | np.ndarray, " L"]


class _State(NamedTuple):
    """How far they are."""

    w: Float[Array | np.ndarray, "L c d"]
    b: Float[Array | np.ndarray, " L"]
    adam: optax.OptState
    step: Int[Array | np.ndarray, " L"]
    live: Bool[Array | np.ndarray, " L"]
    best: Float[Array | np.ndarray, " L"]
    kept_w: Float[Array | np.ndarray, "L c d"]
    kept_b: Float[Array | np.ndarray, " L"]
    kept_step: Int[Array | np.ndarray, " L"]
    val_auc: Float[Array | np.ndarray, "L steps"]
    loss: Float[Array | np.ndarray, "L steps"]


def train(
    tokens: Activations,
    fits: Fits,
    aggregate: Aggregator,
    *,
    steps: int = 1000,
    size: int | None = None,
    share_bytes: int = _SHARE,
) -> Trained:
    """Trains all fits, in chunks that share their tokens.

    Args:
      tokens: of all prompts.
      fits: what to train.
      aggregate: what makes a logit of a prompt's scores.
      steps: of Adam at most.
      size: tokens of a tile, see `tiles.tile`.
      share_bytes: memory for the tokens of a chunk. A single fit may exceed it.
    """
    vector = tokens.d_model * np.dtype(tokens.x.dtype).itemsize
    used = fits.train | fits.val
    parts = [
        _train(tokens, engine.take(fits, chunk), aggregate, steps, size)
        for chunk in chunks(tokens, fits.rows, used, max(share_bytes // vector, 1))
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _train(tokens: Activations, fits: Fits, aggregate, steps: int, size: int | None) -> Trained:
    """Trains one chunk: a fit that has ended leaves when the batch can become narrower."""
    tiles, lanes, form = _load(tokens, fits, size)
    state = _start(fits.w, fits.b, steps)

    def advance(slots, moved, _, narrower):
        here, count = engine.take(lanes, slots), len(set(slots.tolist()))
        running = np.ones(count, bool)
        while running.sum() > narrower:
            moved = _advance(tiles, here, moved, aggregate, form)
            running = np.asarray(moved.live)[:count]
        return moved, moved.live

    state = engine.drive(advance, state, np.arange(len(fits.w)), sizes.FITS)
    kept = (state.kept_w, state.kept_b, state.kept_step, state.val_auc, state.loss)
    return Trained(*map(np.asarray, kept))


def _load(tokens: Activations, fits: Fits, size: int | None) -> tuple[_Tiles, _Lanes, Form]:
    """Lays out the prompts of a chunk and puts them on the device."""
    used = fits.train | fits.val
    prompts = np.unique(fits.rows[used])
    plan = layout.tile(tokens, prompts, size)
    count, most = plan.prompts.shape
    spare = sizes.up(count, sizes.TILES) - count
    fill = lambda array: np.pad(array, [(0, spare)] + [(0, 0)] * (array.ndim - 1))
    tiles = _Tiles(
        jnp.asarray(count, jnp.int32),
        jnp.asarray(fill(layout.read(tokens, plan))),
        jnp.asarray(fill(plan.real)),
        jnp.asarray(fill(plan.kind)),
    )
    place = np.zeros(len(prompts), np.int64)  # of each prompt among [tiles * most]
    at = np.flatnonzero(plan.prompts.ravel() >= 0)
    place[plan.prompts.ravel()[at]] = at
    where = place[np.searchsorted(prompts, np.where(used, fits.rows, prompts[0]))]
    y = np.zeros((len(fits.w), (count + spare) * most), np.float32)
    weight = np.zeros_like(y)
    lane, column = np.nonzero(fits.train)
    at = (lane, where[lane, column])
    np.add.at(weight, at, 1)
    np.add.at(y, at, fits.y[lane, column])
    y /= np.maximum(weight, 1)  # the mean label, where a fit trains on a prompt more than once
    weight /= np.maximum(fits.train.sum(axis=1), 1)[:, None]
    widest = sizes.up(int(fits.val.sum(axis=1).max()), sizes.VALIDATION)
    first = np.argsort(~fits.val, axis=1, kind="stable")[:, :widest]
    of_val = lambda array: np.take_along_axis(array, first, axis=1)
    shape = (len(fits.w), count + spare, most)
    lanes = _Lanes(
        y.reshape(shape),
        weight.reshape(shape),
        of_val(where).astype(np.int32),
        of_val(fits.y).astype(np.int32),
        of_val(fits.val),
        fits.setting.astype(np.float32),
        fits.rate.astype(np.float32),
        fits.stop.astype(np.int32),
    )
    return tiles, lanes, plan.form


def _start(w, b, steps: int) -> _State:
    """Returns the state of fits that have not begun, on the host."""
    lanes = len(w)
    w, b = np.asarray(w, np.float32), np.asarray(b, np.float32)
    adam = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(jax.vmap(_ADAM.init), (w, b)),
    )
    trace = lambda: np.full((lanes, steps), np.nan, np.float32)
    return _State(
        w=w,
        b=b,
        adam=adam,
        step=np.zeros(lanes, np.int32),
        live=np.ones(lanes, bool),
        best=np.full(lanes, -1, np.float32),
        kept_w=w.copy(),
        kept_b=b.copy(),
        kept_step=np.full(lanes, -1, np.int32),
        val_auc=trace(),
        loss=trace(),
    )


@over_lanes(static=("aggregate", "form"), shared=("tiles",), donated=("state",))
def _advance(tiles: _Tiles, lanes: _Lanes, state: _State, aggregate, form: Form) -> _State:
    """Takes up to so many steps, as long as a fit runs."""
    until = state.step[0] + _ROUND
    step = lambda state: _step(tiles, lanes, state, aggregate, form)
    going = lambda state: state.live.any() & (state.step[0] < until)
    return jax.lax.while_loop(going, step, state)


def _step(tiles: _Tiles, lanes: _Lanes, state: _State, aggregate, form: Form) -> _State:
    loss, (dw, db), logits = _gradient(tiles, lanes, state.w, state.b, aggregate, form)
    on_val = jnp.take_along_axis(logits, lanes.place, axis=1)
    auc = jax.vmap(metrics.auc)(on_val, lanes.y_val, lanes.val)
    now, steps = state.step[0], state.loss.shape[1]
    live = state.live & jnp.isfinite(loss)
    better = live & jnp.where(lanes.stop < 0, auc > state.best, now == lanes.stop)
    best = jnp.where(live & (auc > state.best), auc, state.best)
    of = lambda mask, new, old: jnp.where(
        jnp.reshape(mask, (-1,) + (1,) * (new.ndim - 1)), new, old
    )
    record = lambda trace, new: trace.at[:, now].set(jnp.where(live, new, jnp.nan))
    updates, adam = jax.vmap(_ADAM.update)((dw, db), state.adam)
    dw, db = cast(tuple[Array, Array], updates)
    w = state.w - lanes.rate[:, None, None] * dw
    b = state.b - lanes.rate * db
    ended = jnp.where(lanes.stop < 0, best >= 1, now >= lanes.stop) | (now + 1 >= steps)
    return _State(
        of(live, w, state.w),
        of(live, b, state.b),
        adam,
        state.step + 1,
        live & ~ended,
        best,
        of(better, state.w, state.kept_w),
        of(better, state.b, state.kept_b),
        jnp.where(better, now, state.kept_step),
        record(state.val_auc, auc),
        record(state.loss, loss),
    )


def _gradient(tiles: _Tiles, lanes: _Lanes, w, b, aggregate, form: Form):
    """Returns losses [L], their gradients and the logits [L, tiles * most], in one pass."""
    count, c, d = w.shape
    vectors = jnp.moveaxis(w, 1, 0).reshape(c * count, d)

    def rows(y, weight, scores, real):
        """Of the rows of one tile, [rows, length, ...]."""
        y, weight = y[: len(real)], weight[: len(real)]
        real = layout.first_is_real(real)
        over_lanes = jax.vmap(aggregate, in_axes=(2, None, 0))
        logit = lambda scores: jax.vmap(over_lanes, in_axes=(0, 0, None))(
            scores, real, lanes.setting
        )
        z, back = jax.vjp(logit, scores)
        z = z + b[None, :]
        loss = (weight * (jax.nn.softplus(z) - y * z)).sum(axis=0)
        error = weight * (jax.nn.sigmoid(z) - y)
        (of_scores,) = back(error)
        return layout.padded(z, form), loss, error.sum(axis=0), of_scores.reshape(form.size, -1)

    def add(i, carry):
        loss, dw, db, logits = carry
        x = tiles.x[i].astype(jnp.float32)
        scores = jnp.matmul(x, vectors.T, precision="highest").reshape(form.size, c, count)
        of_tile = functools.partial(rows, lanes.y[:, i].T, lanes.weight[:, i].T)
        z, l, e, g = layout.by_row(form, tiles.kind[i], of_tile, scores, tiles.real[i])
        dw = dw + jnp.matmul(g.T, x, precision="highest")
        return loss + l, dw, db + e, logits.at[i].set(z)

    zeros = jnp.zeros(count, jnp.float32)
    logits = jnp.zeros((*lanes.y.shape[1:], count), jnp.float32)
    begin = (zeros, jnp.zeros_like(vectors), zeros, logits)
    loss, dw, db, logits = jax.lax.fori_loop(0, tiles.count, add, begin)
    dw = jnp.moveaxis(dw.reshape(c, count, d), 0, 1)
    return loss, (dw, db), logits.reshape(-1, count).T

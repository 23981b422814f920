"""Small networks trained by minibatches, many at once, by scikit-learn's rules.

The rules (MLPClassifier of scikit-learn 1.9, solver adam): rectified hidden layers, a logistic
output, Glorot's uniform start, batches of at most 200 rows from an order that is shuffled anew for
every epoch, and an end after more than ten epochs in a row whose mean loss did not fall by 1e-4.
Start and shuffles come from one legacy generator of numpy, on the host, and are scikit-learn's own,
bit for bit; what remains between the two is float32.

All fits of a batch take their steps together. Every few steps the host looks: a fit that has ended
leaves, and the next one takes its place.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes.families.network import Layers
from probejax.solvers import codes, engine
from probejax.solvers.spread import over_lanes

_BATCH, _MAX_EPOCHS, _TOLERANCE, _PATIENCE = 200, 1000, 1e-4, 10
_MOMENTUM, _FRICTION, _TINY = 0.9, 0.999, 1e-8  # of Adam, Kingma and Ba 2015
_EDGE = float(np.finfo(np.float32).eps)  # how near to 0 and 1 a probability in the loss may come
_STEPS = 32  # between two looks of the host
_WIDEST = 32  # fits at a time
_RUNNING = -1


class Rules(NamedTuple):
    """What distinguishes one kind of network from another.

    Attributes:
      hidden: units of each hidden layer.
      rate: Adam's learning rate.
      decay: weight of 0.5 |W|^2 / rows in the loss of a batch; intercepts are free.
    """

    hidden: tuple[int, ...]
    rate: float
    decay: float


class _State(NamedTuple):
    layers: Layers
    first: Layers  # Adam's moments
    second: Layers
    loss: Array | np.ndarray  # sum over the rows of this epoch so far
    best: Array | np.ndarray  # lowest mean loss of an epoch
    idle: Array | np.ndarray  # epochs in a row without progress
    code: Array | np.ndarray


class _Feed(NamedTuple):
    """What the host supplies for one step of every fit."""

    rows: Array | np.ndarray  # [fits, batch], of the table
    labels: Array | np.ndarray  # [fits, batch]
    count: Array | np.ndarray  # rows that are in the batch; the others stand behind them
    rate: Array | np.ndarray  # Adam's, corrected for its start
    size: Array | np.ndarray  # rows in an epoch if this step ends one, else 0
    limit: Array | np.ndarray  # whether this step ends the last epoch


def train(
    table: Float[Array | np.ndarray, "Sn d"],
    which: Int[np.ndarray, " J"],
    mask: Bool[np.ndarray, "J n"],
    y: Int[np.ndarray, "J n"],
    seeds: Int[np.ndarray, " J"],
    rules: Rules,
) -> tuple[Layers, Int[np.ndarray, " J"]]:
    """Trains J networks.

    Args:
      table: standardised features, S sets of n rows one after the other.
      which: the set of each fit.
      mask: the rows of its set that a fit trains on, both classes among them.
      y: labels, 0 or 1, of the rows of its set.
      seeds: of start and shuffles.
      rules: the kind of network.

    Returns:
      The layers [J, ...] and the codes: CONVERGED where the loss stopped falling, MAX_TRIPS after
      1,000 epochs.
    """
    n, d = mask.shape[1], table.shape[1]
    fits = [
        _Fit(np.flatnonzero(mask[j]), y[j], int(seeds[j]), d, rules, which[j] * n)
        for j in range(len(which))
    ]
    waiting = np.argsort([-fit.batches for fit in fits], kind="stable")  # the longest first
    width = _width(min(_BATCH, n) * d)

    def advance(slots, moved, *_):
        feeds = {j: fits[j].feed(min(_BATCH, n)) for j in dict.fromkeys(slots.tolist())}
        chosen = [feeds[j] for j in slots.tolist()]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)
        moved = _advance(table, moved, stacked, rules.decay)
        return moved, np.asarray(moved.code) == _RUNNING

    states = _batch([_start(fit.layers) for fit in fits])
    found = engine.drive(advance, states, waiting, (width,))
    return found.layers, np.asarray(found.code)


def start(d: int, hidden: tuple[int, ...], rng: np.random.RandomState) -> Layers:
    """Draws the layers that scikit-learn starts from (Glorot and Bengio 2010, for rectifiers)."""
    layers, widths = [], (d, *hidden, 1)
    for inputs, outputs in itertools.pairwise(widths):
        bound = np.sqrt(6.0 / (inputs + outputs))
        w = rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
        layers.append((w.T, rng.uniform(-bound, bound, outputs).astype(np.float32)))
    return tuple(layers)


def _width(size: int) -> int:
    """Returns how many fits to advance at a time, of batches with so many numbers.

    Always so many, spare ones repeating a fit: sums of another width differ in their last digits,
    which a thousand epochs make larger. On a CPU their batches should fit its cache.
    """
    room, most = (2**18, _WIDEST // 4) if jax.default_backend() == "cpu" else (2**28, _WIDEST)
    return min(max(most, 1), 1 << (max(room // size, 2).bit_length() - 1))


class _Fit:
    """The host's half of one fit: its generator and how far it has been fed."""

    def __init__(self, rows, y, seed, d, rules, offset):
        self.rows, self.y, self.offset, self.rate = rows, y[rows], offset, rules.rate
        self.rng = np.random.RandomState(seed)
        self.layers = start(d, rules.hidden, self.rng)
        self.order = np.arange(len(rows))
        self.batches = -(-len(rows) // _BATCH)  # in an epoch
        self.step = 0
        self._ahead = np.zeros(0, int)  # the rows of steps that are not fed yet

    def feed(self, batch: int) -> _Feed:
        """Returns the next steps, [steps, ...]; an epoch is padded to whole batches."""
        epochs = [self._ahead.reshape(-1, batch)]
        steps = self.step + np.arange(_STEPS)
        while sum(map(len, epochs)) < _STEPS:
            shuffle = np.arange(len(self.order))
            self.rng.shuffle(shuffle)
            self.order = self.order[shuffle]
            epoch = np.zeros((self.batches, batch), int)
            epoch.reshape(-1)[: len(self.order)] = self.order
            epochs.append(epoch)
        ahead = np.concatenate(epochs)
        chosen, self._ahead = ahead[:_STEPS], ahead[_STEPS:]
        place = steps % self.batches
        ends = place == self.batches - 1
        t = steps + 1.0
        self.step += _STEPS
        return _Feed(
            rows=(self.offset + self.rows[chosen]).astype(np.int32),
            labels=self.y[chosen].astype(np.float32),
            count=np.minimum(len(self.rows) - place * batch, batch).astype(np.float32),
            rate=(self.rate * np.sqrt(1 - _FRICTION**t) / (1 - _MOMENTUM**t)).astype(np.float32),
            size=np.where(ends, len(self.rows), 0).astype(np.float32),
            limit=ends & (steps + 1 >= _MAX_EPOCHS * self.batches),
        )


def _start(layers: Layers) -> _State:
    zeros = jax.tree.map(np.zeros_like, layers)
    number, count = (
        functools.partial(np.array, dtype=np.float32),
        functools.partial(np.array, dtype=np.int32),
    )
    return _State(layers, zeros, zeros, number(0), number(np.inf), count(0), count(_RUNNING))


def _batch(states: list[_State]) -> _State:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@over_lanes(static=("decay",), shared=("table",))
def _advance(table: Float[Array, "rows d"], state: _State, feeds: _Feed, decay: float) -> _State:
    """Takes the steps that the host feeds, [fits, steps, ...]."""
    step = functools.partial(_step, table, decay)
    feeds = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), feeds)
    return jax.lax.scan(lambda state, feed: (step(state, feed), None), state, feeds)[0]


def _step(table, decay, state: _State, feed: _Feed) -> _State:
    """Takes one step of Adam with every fit that is still running."""
    live = state.code == _RUNNING
    fits, batch = feed.rows.shape
    # Flat indices that are known to be in bounds: XLA's other gathers are many times slower.
    rows = table.at[feed.rows.reshape(-1)].get(mode="promise_in_bounds")
    rows = rows.reshape(fits, batch, -1)
    counts = (jnp.arange(batch)[None, :] < feed.count[:, None]).astype(jnp.float32)
    loss, gradient = _backward(state.layers, rows, feed.labels, counts, feed.count, decay)

    def moved(w, m, v, g):
        axes = (slice(None),) + (None,) * (w.ndim - 1)
        m = _MOMENTUM * m + (1 - _MOMENTUM) * g
        v = _FRICTION * v + (1 - _FRICTION) * g * g
        new = w - feed.rate[axes] * m / (jnp.sqrt(v) + _TINY)
        return jnp.where(live[axes], new, w), m, v

    flat = [jax.tree.leaves(tree) for tree in (state.layers, state.first, state.second, gradient)]
    updated = zip(*(moved(*leaves) for leaves in zip(*flat, strict=True)), strict=True)
    form = jax.tree.structure(state.layers)
    layers, first, second = (jax.tree.unflatten(form, leaves) for leaves in updated)

    total = state.loss + loss * feed.count
    ends = live & (feed.size > 0)
    mean = total / jnp.maximum(feed.size, 1)
    idle = jnp.where(ends, jnp.where(mean > state.best - _TOLERANCE, state.idle + 1, 0), state.idle)
    code = jnp.where(ends & feed.limit, codes.MAX_TRIPS, state.code)
    code = jnp.where(ends & (idle > _PATIENCE), codes.CONVERGED, code)
    best = jnp.where(ends, jnp.minimum(state.best, mean), state.best)
    return _State(layers, first, second, jnp.where(ends, 0, total), best, idle, code)


def _backward(layers: Layers, rows, labels, counts, count, decay):
    """Returns the mean loss of a batch and its gradient, per fit."""
    product = functools.partial(jnp.einsum, precision="highest")
    inputs = [rows]
    for w, b in layers:
        out = product("lni,loi->lno", inputs[-1], w) + b[:, None, :]
        inputs.append(jax.nn.relu(out))
    p = jax.nn.sigmoid(out[:, :, 0])
    clipped = jnp.clip(p, _EDGE, 1 - _EDGE)
    likely = jnp.where(labels > 0, jnp.log(clipped), jnp.log1p(-clipped))
    squares = sum((w * w).sum(axis=(1, 2)) for w, _ in layers)
    loss = ((0.5 * decay) * squares - (counts * likely).sum(axis=1)) / count

    delta, gradient = (counts * (p - labels))[:, :, None], []
    for (w, _), z in zip(reversed(layers), reversed(inputs[:-1]), strict=True):
        of_w = product("lno,lni->loi", delta, z) + decay * w
        gradient.append((of_w / count[:, None, None], delta.sum(axis=1) / count[:, None]))
        delta = product("lno,loi->lni", delta, w) * (z > 0) if z is not rows else delta
    return loss, tuple(reversed(gradient))

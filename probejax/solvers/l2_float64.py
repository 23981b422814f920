"""L2 logistic regression in float64, many lanes at once; `newton` holds the mathematics of one.

A lane walks its own path from strong to weak regularisation inside one flat loop: it starts on the
next strength in the step after it converged on the last, so no lane waits at a strength.

Where lanes have fewer rows than columns, all they need of the features is their inner products,
which are computed once for all lanes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from probejax import sizes
from probejax.solvers import codes, newton, tables
from probejax.solvers.codes import Solution
from probejax.solvers.engine import each
from probejax.solvers.spread import over_lanes

_FEW = 2  # lanes that go on with float64 factors together: mostly there are not many
_SHARE = 0.5  # of the tolerance; the rest is for rounding w to float32
_FOLD = 13 / 16  # of the rows, that a fold has at most
_GRAM_BLOCK = 512  # rows below which both halves of their products are computed
MOST_SHARED = 4  # times a lane's rows: the products of more are not made for all lanes at once


class Lanes(NamedTuple):
    """The rows of problems.

    Attributes:
        rows: indices into the features; padding may hold any.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
    """

    rows: Int[np.ndarray, "L n"]
    mask: Bool[np.ndarray, "L n"]
    y: Int[np.ndarray, "L n"]


class Limits(NamedTuple):
    """What ends a walk, and what is wanted of it.

    Attributes:
        tolerances: relative duality gap that will do at each strength.
        max_trips: Newton steps per strength.
        batch: lanes solved together; None chooses by the size of their systems.
        keep: the strengths whose solutions are wanted.
        folds: whether lanes with fewer rows, such as folds, go without the others.
    """

    tolerances: tuple[float, ...]
    max_trips: int
    batch: int | None
    keep: slice
    folds: bool


class Products(NamedTuple):
    """Inner products of rows.

    Attributes:
        gram: float64, of the rows in use; None where lanes have no use for it, or too many rows are
            in use.
        place: [N], where in `gram` each of these rows is.
    """

    gram: Float[np.ndarray, "U U"] | None
    place: Int[np.ndarray, " N"]


def products(
    x: Float[np.ndarray, "N d"], rows: Int[np.ndarray, "L n"], mask: Bool[np.ndarray, "L n"]
) -> Products:
    """Makes the inner products that lanes with such rows share."""
    n, d = rows.shape[1], x.shape[1]
    place = np.zeros(len(x), int)
    used = np.unique(np.where(mask, rows, 0))
    if _form(n, d) == newton.FEATURES or len(used) > MOST_SHARED * n:
        return Products(None, place)
    place[used] = np.arange(len(used))
    size = sizes.up(len(used), sizes.SHARED)
    with jax.enable_x64(True):
        gram = np.asarray(_gram(x[np.pad(used, (0, size - len(used)))]))
    return Products(gram, place)


def _form(n: int, d: int) -> newton.Form:
    return newton.FEATURES if d < n else newton.SAMPLES


@jax.jit
def _gram(x):
    return _half(x.astype(jnp.float64))


@over_lanes
def _grams(x):
    return _half(x.astype(jnp.float64))


def _half(x):
    """Returns x x', of which only one half is computed."""
    if x.shape[-2] <= _GRAM_BLOCK:
        return jnp.einsum("...id,...jd->...ij", x, x)
    middle = x.shape[-2] // 2
    first, last = x[..., :middle, :], x[..., middle:, :]
    beside = jnp.einsum("...id,...jd->...ij", first, last)
    top = jnp.concatenate([_half(first), beside], -1)
    return jnp.concatenate(
        [top, jnp.concatenate([jnp.swapaxes(beside, -1, -2), _half(last)], -1)], -2
    )


def solve(
    x: Float[np.ndarray, "N d"],
    shared: Products,
    lanes: Lanes,
    strengths: Float[np.ndarray, "L P"],
    limits: Limits,
) -> Solution:
    """Walks every lane along its rising strengths, and certifies those to keep, [L, K, ...].

    The code of a solution says whether its lane could be fitted, not whether the gap will do.
    """
    width = max(1, int(_FOLD * lanes.rows.shape[1]))
    fold = limits.folds & (lanes.mask.sum(axis=1) <= width)
    places, paths = [], []
    for part, columns in ((np.flatnonzero(fold), width), (np.flatnonzero(~fold), None)):
        if len(part):
            some = _narrow(Lanes(*(array[part] for array in lanes)), columns)
            paths.append(_solved(x, shared, some, strengths[part], limits))
            places.append(part)
    back = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *paths)


def _solved(x, shared: Products, lanes: Lanes, strengths, limits: Limits) -> Solution:
    """Solves in the form with the smaller system, and in feature space what is still uncertified.

    In sample space a solution is not unique where rows are of low rank. Where their labels also
    contradict each other, rounding adds up in what nothing determines.
    """
    n, d = lanes.rows.shape[1], x.shape[1]
    form, batch = _form(n, d), limits.batch or sizes.width(n * min(n, d))
    found = _walked(x, shared, lanes, strengths, limits, form, batch)
    wanted = np.array(limits.tolerances)[limits.keep]
    left = np.flatnonzero(((found.gap > wanted) & (found.code == codes.CONVERGED)).any(axis=1))
    if form == newton.FEATURES or not len(left):
        return found
    rest = Lanes(*(array[left] for array in lanes))
    other = _walked(x, shared, rest, strengths[left], limits, newton.FEATURES, 1)
    better = other.gap < found.gap[left]

    def put(old, new):
        place = better.reshape(better.shape + (1,) * (new.ndim - 2))
        old[left] = np.where(place, new, old[left])
        return old

    return jax.tree.map(put, found, other)


def _walked(x, shared: Products, lanes: Lanes, strengths, limits: Limits, form, batch) -> Solution:
    """Runs all lanes, a batch at a time; float64 factors take over where float32 ones fail."""
    n, d = lanes.rows.shape[1], x.shape[1]
    enough = (np.array(limits.tolerances) * _SHARE, limits.max_trips)
    every = (*lanes, strengths)
    load = lambda rows, *others: (_data(form, x, shared, rows), *others)
    walk = lambda lanes, batch, precision: each(
        _walk, lanes, batch, form, precision, enough, load=load
    )
    with jax.enable_x64(True):
        states = walk((*every, None), batch, "float32")
        left = np.flatnonzero(states.stage < strengths.shape[1])
        if len(left):
            rest = jax.tree.map(lambda leaf: leaf[left], (*every, states))
            rest = walk(rest, min(batch, _FEW), "float64")
            jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), states, rest)
        own = lambda rows, *others: (tables.rows(x, rows), *others)
        kept = {name: leaf[:, limits.keep] for name, leaf in states.path.items()}
        wanted = (*lanes, strengths[:, limits.keep], kept)
        return each(_collect, wanted, sizes.width(n * d), form, load=own)


def _narrow(lanes: Lanes, width: int | None) -> Lanes:
    """Leaves out columns beyond `width`, after moving what counts to the front."""
    first = np.argsort(~lanes.mask, axis=1, kind="stable")[:, :width]
    return Lanes(*(np.take_along_axis(array, first, 1) for array in lanes))


def _data(form, x, shared: Products, rows):
    """Returns what the form needs of the lanes' rows: [L, n, d], or inner products [L, n, n]."""
    if form == newton.FEATURES:
        return tables.rows(x, rows)
    if shared.gram is None:
        return _grams(tables.rows(x, rows))
    return tables.squares(shared.gram, shared.place[rows])


def _judge(finite, mask, y):
    """Returns labels +-1, 0 on rows that do not count, and the code unless a lane can be fitted."""
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    usable = finite & (t > 0).any() & (t < 0).any()
    bad = jnp.where(finite, codes.DEGENERATE, codes.NON_FINITE)
    return t, jnp.where(usable, codes.CONVERGED, bad)


def _centred(x, mask, y):
    """Returns a lane's features, float64, centred, 0 on rows that do not count."""
    mean, t, code = _mean(x, mask, y)
    counts = mask[:, None] & (code == codes.CONVERGED)
    return jnp.where(counts, x - mean[None, :], 0), t, code


def _mean(x, mask, y):
    """Returns the mean of the rows that count, 0 if there is none, and what `_judge` says."""
    total = jnp.where(mask[:, None], x, 0).sum(axis=0, dtype=jnp.float64)
    t, code = _judge(jnp.isfinite(total).all(), mask, y)
    mean = total / jnp.maximum(mask.sum(), 1)
    return jnp.where(code == codes.CONVERGED, mean, 0), t, code


def _centred_products(gram, mask, y):
    """Returns the inner products of a lane's centred features, 0 on rows that do not count."""
    counts = mask[:, None] & mask[None, :]
    total = jnp.where(counts, gram, 0).sum(axis=0)
    t, code = _judge(jnp.isfinite(total).all(), mask, y)
    size = jnp.maximum(mask.sum(), 1)
    mean = total / size
    gram = gram - mean[:, None] - mean[None, :] + mean.sum() / size
    return jnp.where(counts & (code == codes.CONVERGED), gram, 0), t, code


@over_lanes(static=("form", "precision"), shared=("limits",))
def _walk(data, mask, y, strengths, states, form, precision, limits):
    """Advances lanes to the end of their paths; in float32, or as far as that will carry them."""

    def lane(data, mask, y, strengths, state):
        if form == newton.FEATURES:
            x, t, code = _centred(data, mask, y)
            data = x.T
        else:
            data, t, code = _centred_products(data, mask, y)
        data = newton.Data(data, data.astype(precision))
        last = len(strengths)
        if state is None:
            state = newton.start(form, data, t, strengths, code == codes.CONVERGED)
        return jax.lax.while_loop(
            lambda state: newton.running(state, last, precision),
            lambda state: newton.trip(form, data, t, strengths, state, limits, precision),
            newton.fresh(state, precision),
        )

    if len(mask) > 1:
        return jax.vmap(lane)(data, mask, y, strengths, states)
    # Alone, a lane skips what it does not need; under vmap it would compute that and drop it.
    one = jax.tree.map(lambda leaf: leaf[0], (data, mask, y, strengths, states))
    return jax.tree.map(lambda leaf: leaf[None], lane(*one))


@over_lanes(static=("form",))
def _collect(x, mask, y, strengths, path, form) -> Solution:
    """Returns what the caller gets, and certifies that: weights rounded to float32.

    The bound is made of the weights before that, and of the features: scores that a walk has summed
    up step by step are no longer quite theirs.
    """

    def lane(x, mask, y, C, path):
        mean, *_ = _mean(x, mask, y)
        x, t, code = _centred(x, mask, y)
        balanced, pull = (jax.vmap(f, (None, 0, 0)) for f in (newton.balanced, newton.pull))
        w, b, duals, at_duals = path["u"], path["b"], [], []
        if form == newton.SAMPLES:  # the coefficients of the rows are nearly a dual point
            duals = [balanced(t, C, w)]
            w, *at_duals = jnp.split(jnp.concatenate([w, *duals]) @ x, 2)
        low = w.astype(jnp.float32)
        low_b = (b - low.astype(jnp.float64) @ mean).astype(jnp.float32)
        rounded = low.astype(jnp.float64)
        f, low_f = jnp.split(jnp.einsum("nd,pd->pn", x, jnp.concatenate([w, rounded])), 2)
        logits, low_logits = f + b[:, None], low_f + (low_b + rounded @ mean)[:, None]
        duals.append(balanced(t, C, pull(t, C, logits)))
        at_duals.append(duals[-1] @ x)

        losses = lambda logits: C * jax.vmap(newton.losses_at, (None, 0))(t, logits).sum(axis=1)
        squares = lambda w: 0.5 * (w * w).sum(axis=1)
        apart = [
            squares(w - there) + jax.vmap(newton.above, (None, 0, 0, 0))(t, C, logits, dual)
            for dual, there in zip(duals, at_duals, strict=True)
        ]
        bound = squares(w) + losses(logits) - functools.reduce(jnp.minimum, apart)
        value = squares(rounded) + losses(low_logits)
        usable = code == codes.CONVERGED
        gap = (value - bound) / value
        sound = jnp.isfinite(w).all(axis=1) & jnp.isfinite(value) & jnp.isfinite(gap)
        ended = jnp.where(usable & ~sound, codes.NON_FINITE, code)
        return Solution(
            low,
            low_b,
            jnp.where(usable, value, 0).astype(jnp.float32),
            jnp.where(usable & sound, gap, jnp.nan).astype(jnp.float32),
            ended.astype(jnp.int32),
            path["steps"].astype(jnp.int32),
        )

    return jax.vmap(lane)(x, mask, y, strengths, path)

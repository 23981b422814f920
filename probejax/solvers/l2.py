"""L2 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

`newton` holds the mathematics of one lane; here lanes meet in batches. A lane walks its own path
from strong to weak regularisation inside one flat loop: it starts on the next strength in the step
after it converged on the last, so no lane waits at a strength.

Lanes take rows of one feature matrix. Where they have fewer rows than columns, all they need of it
is its Gram matrix, which is computed once for all lanes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import inputs, sizes
from probejax.solvers import arithmetic, codes, newton, rotated, spread
from probejax.solvers.codes import Solution
from probejax.solvers.engine import each
from probejax.solvers.lanes import checked
from probejax.solvers.spread import over_lanes

_STAGES = 10  # of a path to a single strength
_DECADES = 10 / 9  # between two of them
_STRONGEST = 1e-5  # C at which it begins
_ROUGH = 1.0  # relative gap that will do on the way
_FEW = 2  # lanes that go on in float64 together: mostly there are not many
_FOR_FLOAT64 = 0.5  # share of the tolerance; the rest is for rounding w to float32
_FOLD = 13 / 16  # of the rows: on a path, lanes with no more, such as folds, go without the others
_GRAM_BLOCK = 512  # rows below which both of its halves are computed
MOST_SHARED = 4  # times a lane's rows: a Gram matrix of more rows is not made for all lanes at once


class Shared(NamedTuple):
    """Features that lanes take rows of.

    Attributes:
        x: [N, d].
        gram: float64, inner products of the rows in use; None where lanes have no use for it, or
            too many rows are in use.
        place: [N], where in `gram` each of these rows is.
        turned: the rows in coordinates for float32; None where the loops are float64.
    """

    x: Float[np.ndarray, "N d"]
    gram: Float[np.ndarray, "U U"] | None
    place: Int[np.ndarray, " N"]
    turned: rotated.Coordinates | None = None


def share(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
) -> Shared:
    """Prepares features for calls whose lanes take n of these rows: what they share is done once.

    Args:
        x: the features, best roughly centred.
        rows: indices into x.
        mask: True where `rows` is a real row.

    Raises:
        ValueError: a real row does not exist.
    """
    rows = inputs.within(rows, np.asarray(mask), len(x))
    x, place = np.asarray(x), np.zeros(len(x), int)
    if arithmetic.chosen() == "float32":
        mask = np.asarray(mask, bool)
        return Shared(x, None, place, rotated.coordinates(x, rows, mask))
    n, d = rows.shape[1], x.shape[1]
    used = np.unique(np.where(mask, rows, 0))
    if _form(n, d) == newton.FEATURES or len(used) > MOST_SHARED * n:
        return Shared(x, None, place)
    place[used] = np.arange(len(used))
    size = sizes.up(len(used), sizes.SHARED)
    with jax.enable_x64(True):
        gram = np.asarray(_gram(x[np.pad(used, (0, size - len(used)))]))
    return Shared(x, gram, place)


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


def solve_path(
    x: Float[Array | np.ndarray, "N d"] | Shared,
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at every strength in C.

    Args:
        x: the features all lanes take rows of, best roughly centred; or what `share` made of them.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        batch: lanes solved together; None chooses by the size of their systems.

    Returns:
        A solution with axes [L, P, ...].

    Raises:
        ValueError: a real row does not exist, a label of one is neither 0 nor 1, a strength is not
            positive and finite, or shapes differ.
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.asarray(C, np.float64)[order]
    tolerances = (tolerance,) * len(order)
    shared, (rows, mask, y) = _prepared(x, rows, mask, y, C)
    if shared.turned is not None:
        grid = np.tile(strengths, (len(rows), 1))
        some = (shared, (rows, mask, y), grid, tolerances, max_trips, batch, slice(None))
        return jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], _in_float32(*some))
    width = max(1, int(_FOLD * rows.shape[1]))
    fold = mask.sum(axis=1) <= width
    places, paths = [], []
    for part, columns in ((np.flatnonzero(fold), width), (np.flatnonzero(~fold), None)):
        if len(part):
            some = _narrow(rows[part], mask[part], y[part], columns)
            grid = np.tile(strengths, (len(part), 1))
            paths.append(_solve(shared, some, grid, tolerances, max_trips, batch, slice(None)))
            places.append(part)
    back = np.ix_(np.argsort(np.concatenate(places)), np.argsort(order))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *paths)


def solve(
    x: Float[Array | np.ndarray, "N d"] | Shared,
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`.

    It walks there on a path of a few decades each, whose earlier stages need not be exact.
    """
    C = np.asarray(C, np.float64)
    strengths = np.minimum(C, _STRONGEST)[:, None] * np.ones(_STAGES)
    strengths = np.maximum(C[:, None] * 10.0 ** (_DECADES * np.arange(1 - _STAGES, 1)), strengths)
    tolerances = (_ROUGH,) * (_STAGES - 1) + (tolerance,)
    order = np.argsort(C, kind="stable")  # lanes of one batch have paths of one length
    back = np.argsort(order)
    shared, lanes = _prepared(x, rows, mask, y, C)
    lanes = tuple(array[order] for array in lanes)
    last = slice(_STAGES - 1, None)
    run = _solve if shared.turned is None else _in_float32
    path = run(shared, lanes, strengths[order], tolerances, max_trips, batch, last)
    return jax.tree.map(lambda leaf: leaf[back, 0], path)


def _prepared(x, rows, mask, y, C) -> tuple[Shared, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns what lanes share, and the lanes as arrays of the host, where they are sorted."""
    mask, y = checked(mask, y, C, np.shape(rows))
    shared = x if isinstance(x, Shared) else share(x, rows, mask)
    return shared, (inputs.within(rows, mask, len(shared.x)), mask, y)


def _solve(shared: Shared, lanes, strengths, tolerances, max_trips, batch, keep: slice) -> Solution:
    """Runs all lanes, a batch at a time, and returns the stages to keep.

    Float64 factors take over where float32 ones fail.
    """
    lanes = (*lanes, strengths)
    n, d = lanes[0].shape[1], shared.x.shape[1]
    form = _form(n, d)
    limits = (np.array(tolerances) * _FOR_FLOAT64, max_trips)

    def walk(precision, rows, *others):
        return _walk(form, precision, limits, _data(form, shared, rows), *others)

    def collect(rows, *others):
        return _collect(form, shared.x[rows], *others)

    with jax.enable_x64(True):
        batch = batch or sizes.width(n * min(n, d))
        states = each(functools.partial(walk, "float32"), (*lanes, None), spread.whole(batch))
        left = np.flatnonzero(states.stage < strengths.shape[1])
        if len(left):
            rest = jax.tree.map(lambda leaf: leaf[left], (*lanes, states))
            few = spread.whole(min(batch, _FEW))
            rest = each(functools.partial(walk, "float64"), rest, few)
            jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), states, rest)
        found = each(collect, (*lanes, states.path), spread.whole(sizes.width(n * d)))
    found = jax.tree.map(lambda leaf: leaf[:, keep], found)
    done = np.where(found.gap <= np.array(tolerances[keep]), codes.CONVERGED, codes.MAX_TRIPS)
    code = np.where(found.code == codes.CONVERGED, done, found.code)
    return found._replace(code=code.astype(np.int32))


def _in_float32(shared: Shared, lanes, strengths, tolerances, max_trips, batch, keep) -> Solution:
    """Runs all lanes with float32 loops; those that this will not carry, in float64 on the host."""
    assert shared.turned is not None
    turned = shared.turned | rotated.coordinates(shared.x, *_without(lanes, shared.turned))
    found, left = rotated.solve(shared.x, turned, lanes, strengths, tolerances, keep)
    found = jax.tree.map(lambda leaf: leaf[:, keep], found)
    if len(left):
        rest = (tuple(part[left] for part in lanes), strengths[left])
        with arithmetic.on_host():
            plain = share(shared.x, *rest[0][:2])
            better = _solve(plain, *rest, tolerances, max_trips, batch, keep)
        jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), found, better)
    done = np.where(found.gap <= np.array(tolerances[keep]), codes.CONVERGED, codes.MAX_TRIPS)
    code = np.where(found.code == codes.CONVERGED, done, found.code)
    types = (np.float32, np.float32, np.float32, np.float32, np.int32, np.int32)
    leaves = (*found[:4], code, found.trips)
    return Solution(*(leaf.astype(kind) for leaf, kind in zip(leaves, types, strict=True)))


def _without(lanes, turned):
    """Returns the rows and masks of lanes whose rows have no coordinates yet."""
    rows, mask, _ = lanes
    new = [lane for lane, line in enumerate(rows) if line.tobytes() not in turned]
    return rows[new], mask[new]


def _narrow(rows, mask, y, width):
    """Leaves out columns beyond `width`, after moving what counts to the front."""
    first = np.argsort(~mask, axis=1, kind="stable")[:, :width]
    return tuple(np.take_along_axis(array, first, 1) for array in (rows, mask, y))


def _data(form, shared: Shared, rows):
    """Returns what the form needs of the lanes' rows: [L, n, d], or inner products [L, n, n]."""
    if form == newton.FEATURES:
        return shared.x[rows]
    if shared.gram is None:
        return _grams(shared.x[rows])
    place = shared.place[rows]
    return shared.gram[place[:, :, None], place[:, None, :]]


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
def _walk(form, precision, limits, data, mask, y, strengths, states):
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
def _collect(form, x, mask, y, strengths, path) -> Solution:
    """Returns what the caller gets, and certifies that: weights rounded to float32."""

    def lane(x, mask, y, strengths, path):
        mean, t, code = _mean(x, mask, y)
        f32, f64 = jnp.float32, jnp.float64
        x = jnp.where(mask[:, None] & (code == codes.CONVERGED), x, 0).astype(f64)
        w = path["u"]
        if form == newton.SAMPLES:
            w = w @ x - w.sum(axis=1)[:, None] * mean[None, :]
        w = w.astype(f32).astype(f64)
        b = (path["b"] - w @ mean).astype(f32).astype(f64)
        margins = t[None, :] * (jnp.einsum("pd,nd->pn", w, x) + b[:, None])
        losses = jnp.where(t[None, :] != 0, jax.nn.softplus(-margins), 0).sum(axis=1)
        value = 0.5 * (w * w).sum(axis=1) + strengths * losses
        usable = code == codes.CONVERGED
        gap = (value - path["bound"]) / value
        sound = jnp.isfinite(w).all(axis=1) & jnp.isfinite(value) & jnp.isfinite(gap)
        ended = jnp.where(usable & ~sound, codes.NON_FINITE, code)
        return Solution(
            w.astype(f32),
            b.astype(f32),
            jnp.where(usable, value, 0).astype(f32),
            jnp.where(usable & sound, gap, jnp.nan).astype(f32),
            ended.astype(jnp.int32),
            path["steps"].astype(jnp.int32),
        )

    return jax.vmap(lane)(x, mask, y, strengths, path)

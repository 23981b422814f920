"""L2 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

`newton` holds the mathematics of one lane; here lanes meet in batches. A lane walks its own path
from strong to weak regularisation inside one flat loop: it starts on the next strength in the trip
after it converged on the last, so no lane waits at a strength.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import codes, newton
from probejax.solvers.batches import in_batches
from probejax.solvers.codes import Solution

_STAGES = 10  # of a path to a single strength
_DECADES = 10 / 9  # between two of them
_STRONGEST = 1e-5  # C at which it begins
_ROUGH = 1.0  # relative gap that will do on the way
_FEW = 2  # lanes that go on in float64 together: mostly there are not many
_FOR_FLOAT64 = 0.5  # share of the tolerance; the rest is for rounding w to float32


def solve_path(
    x: Float[Array | np.ndarray, "N d"],
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
        x: the features all lanes share, best roughly centred.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        batch: lanes solved together; None chooses by the size of their systems.

    Returns:
        A solution with axes [L, P, ...].
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.tile(np.asarray(C, np.float64)[order], (len(rows), 1))
    tolerances = (tolerance,) * len(order)
    path = _solve(_gathered, x, (rows, mask, y), strengths, tolerances, max_trips, batch)
    back = np.argsort(order)
    return jax.tree.map(lambda leaf: leaf[:, back], path)


def solve(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at its own C, at the end of a path; arguments as for `solve_path`."""
    return _at(_gathered, x, (rows, mask, y), C, tolerance, max_trips, batch)


def solve_features(
    z: Float[Array | np.ndarray, "L n d"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at its own C on features `z` of its own; else like `solve`."""
    return _at(_own, None, (z, mask, y), C, tolerance, max_trips, batch)


def _gathered(x, rows):
    return x[rows]


def _own(_, z):
    return z


def _at(features, x, lanes, C, tolerance, max_trips, batch):
    """Solves at the end of a path of a few decades each, whose earlier stages need not be exact."""
    C = np.asarray(C, np.float64)
    strengths = np.minimum(C, _STRONGEST)[:, None] * np.ones(_STAGES)
    strengths = np.maximum(C[:, None] * 10.0 ** (_DECADES * np.arange(1 - _STAGES, 1)), strengths)
    tolerances = (_ROUGH,) * (_STAGES - 1) + (tolerance,)
    order = np.argsort(C, kind="stable")  # lanes of one batch have paths of one length
    back = np.argsort(order)
    lanes = tuple(np.asarray(array)[order] for array in lanes)
    path = _solve(features, x, lanes, strengths[order], tolerances, max_trips, batch)
    return jax.tree.map(lambda leaf: leaf[back, -1], path)


def _solve(features: Callable, x, lanes, strengths, tolerances, max_trips, batch) -> Solution:
    """Runs all lanes, a batch at a time; float64 factors take over where float32 ones fail."""
    lanes = (*(np.asarray(array) for array in lanes), strengths)
    n, d = lanes[1].shape[1], (lanes[0] if x is None else x).shape[-1]
    if batch is None:
        numbers = 2**21 if jax.default_backend() == "cpu" else 2**28
        batch = min(len(strengths), max(1, numbers // (n * min(n, d))))
    batch = 1 << (batch - 1).bit_length()  # few widths, so that few programs compile
    limits = (tuple(_FOR_FLOAT64 * each for each in tolerances), max_trips)
    with jax.enable_x64(True):
        x = None if x is None else jnp.asarray(x)
        walk = functools.partial(_walk, features, x, limits)
        states = in_batches(functools.partial(walk, "float32"), (*lanes, None), batch)
        left = np.flatnonzero(states.stage < strengths.shape[1])
        if len(left):
            rest = jax.tree.map(lambda leaf: leaf[left], (*lanes, states))
            rest = in_batches(functools.partial(walk, "float64"), rest, min(batch, _FEW))
            jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), states, rest)
        found = in_batches(functools.partial(_collect, features, x), (*lanes, states.path), batch)
    done = np.where(found.gap <= np.array(tolerances), codes.CONVERGED, codes.MAX_TRIPS)
    code = np.where(found.code == codes.CONVERGED, done, found.code)
    return found._replace(code=code.astype(np.int32))


class _Frame(NamedTuple):
    """What does not change about a lane."""

    x: Float[Array, "n d"]  # float64, centred, 0 on rows that do not count
    mean: Float[Array, " d"]
    t: Float[Array, " n"]  # labels +-1; 0 on rows that do not count
    code: Int[Array, ""]  # what it has unless it can be fitted


def _frame(x, mask, y) -> _Frame:
    x = jnp.where(mask[:, None], x, 0)
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    finite = jnp.isfinite(x).all()
    usable = finite & (t > 0).any() & (t < 0).any()
    bad = jnp.where(finite, codes.DEGENERATE, codes.NON_FINITE)
    x = jnp.where(usable, x, 0).astype(jnp.float64)
    mean = x.sum(axis=0) / jnp.maximum(mask.sum(), 1)
    x = jnp.where(mask[:, None], x - mean[None, :], 0)
    return _Frame(x, mean, t, jnp.where(usable, codes.CONVERGED, bad))


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _walk(features, shared, limits, precision, which, mask, y, strengths, states):
    """Advances lanes to the end of their paths; in float32, or as far as that will carry them."""

    def lane(which, mask, y, strengths, state):
        x, _, t, code = _frame(features(shared, which), mask, y)
        (n, d), last = x.shape, len(strengths)
        form, data = (newton.FEATURES, x.T) if d < n else (newton.SAMPLES, x @ x.T)
        if state is None:
            first = (strengths == strengths[0]).sum() - 1
            first = jnp.where(code == codes.CONVERGED, first, last)
            state = newton.start(first, last, min(n, d), n)
        return jax.lax.while_loop(
            lambda state: newton.running(state, last, precision),
            lambda state: newton.trip(form, data, t, strengths, state, limits, precision),
            newton.fresh(state, precision),
        )

    return jax.vmap(lane)(which, mask, y, strengths, states)


@functools.partial(jax.jit, static_argnums=0)
def _collect(features, shared, which, mask, y, strengths, path) -> Solution:
    """Returns what the caller gets, and certifies that: weights rounded to float32."""

    def lane(which, mask, y, strengths, path):
        x, mean, t, code = _frame(features(shared, which), mask, y)
        f32, f64 = jnp.float32, jnp.float64
        w = (path["u"] if x.shape[1] < x.shape[0] else path["u"] @ x).astype(f32).astype(f64)
        b = (path["b"] - w @ mean).astype(f32).astype(f64)
        margins = t[None, :] * (w @ x.T + (b + w @ mean)[:, None])
        losses = jnp.where(t[None, :] != 0, jax.nn.softplus(-margins), 0).sum(axis=1)
        value = 0.5 * (w * w).sum(axis=1) + strengths * losses
        usable = code == codes.CONVERGED
        gap = jnp.where(usable, (value - path["bound"]) / value, 0)
        return Solution(
            w.astype(f32),
            b.astype(f32),
            jnp.where(usable, value, 0).astype(f32),
            gap.astype(f32),
            jnp.full(len(strengths), code, jnp.int32),
            path["trips"].astype(jnp.int32),
        )

    return jax.vmap(lane)(which, mask, y, strengths, path)

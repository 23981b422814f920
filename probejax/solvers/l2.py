"""L2 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem over a subset of the rows of a shared feature matrix:

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

Newton's method in sample space: w = sum_i a_i x_i, so a step solves one n x n system. The dual point
alpha_i = t_i a_i makes w's own penalty cancel in the duality gap, which is then a sum of terms that
are never negative.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import codes


class Solution(NamedTuple):
    """Solutions per lane; a path has one more axis, the strengths, after the lanes.

    Attributes:
        w: weights.
        b: intercepts.
        objective: value of the objective at (w, b).
        gap: upper bound on (objective - minimum) / objective.
        code: one of `solvers.codes`.
        trips: Newton steps spent.
    """

    w: Float[Array, "*batch d"]
    b: Float[Array, "*batch"]
    objective: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    code: Int[Array, "*batch"]
    trips: Int[Array, "*batch"]


def solve_path(
    x: Float[Array, "N d"],
    rows: Int[Array, "L n"],
    mask: Bool[Array, "L n"],
    y: Int[Array, "L n"],
    C: Float[Array, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    chunk: int = 8,
) -> Solution:
    """Solves every lane at every strength in C.

    Args:
        x: the features all lanes share.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        chunk: lanes solved together.

    Returns:
        A solution with axes [L, P, ...].
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.broadcast_to(np.asarray(C, np.float64)[order], (rows.shape[0], len(order)))
    path = _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk)
    back = np.argsort(order)
    return jax.tree.map(lambda leaf: leaf[:, back], path)


def solve(
    x: Float[Array, "N d"],
    rows: Int[Array, "L n"],
    mask: Bool[Array, "L n"],
    y: Int[Array, "L n"],
    C: Float[Array, " L"],
    *,
    warm: tuple[Float[Array, "L d"], Float[Array, " L"]] | None = None,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    chunk: int = 8,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`, plus a start (w, b)."""
    del warm
    # strong to weak: the first strengths only warm-start the last
    top = np.asarray(C, np.float64)[:, None]
    strengths = np.minimum(top, np.logspace(-5, 5, 11)[None, :])
    strengths[:, -1] = top[:, 0]
    path = _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk)
    return jax.tree.map(lambda leaf: leaf[:, -1], path)


def _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk):
    pieces = []
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        for start in range(0, rows.shape[0], chunk):
            lanes = np.arange(start, start + chunk) % rows.shape[0]
            part = (np.asarray(a)[lanes] for a in (rows, mask, y, strengths))
            path = _solve_lanes(x, *part, tolerance, max_trips)
            pieces.append(jax.tree.map(lambda leaf: leaf[: rows.shape[0] - start], path))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)


@partial(jax.jit, static_argnames=("tolerance", "max_trips"))
def _solve_lanes(x, rows, mask, y, strengths, tolerance, max_trips):
    solve_one = partial(_solve_one, tolerance=tolerance, max_trips=max_trips)
    return jax.vmap(solve_one, in_axes=(None, 0, 0, 0, 0))(x, rows, mask, y, strengths)


def _solve_one(x, rows, mask, y, strengths, *, tolerance, max_trips):
    features = jnp.where(mask[:, None], x[rows], 0).astype(jnp.float64)
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    finite = jnp.isfinite(features).all()
    two_classes = (t > 0).any() & (t < 0).any()
    usable = finite & two_classes
    features = jnp.where(usable, features, 0)
    mean = features.sum(0) / jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask[:, None], features - mean[None, :], 0)
    gram = centred @ centred.T

    def step(carry, C):
        a, b, trips = _newton(gram, mask, t, C, *carry, tolerance, max_trips, usable)
        f = gram @ a + b
        margins = t * f
        losses = jnp.where(mask, jnp.logaddexp(0.0, -margins), 0)
        objective = jnp.where(usable, 0.5 * a @ (gram @ a) + C * losses.sum(), 0)
        gap = jnp.where(usable, _gap(gram, mask, t, C, a, b) / objective, 0)
        w = centred.T @ a
        code = jnp.where(gap <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
        code = jnp.where(two_classes, code, codes.DEGENERATE)
        code = jnp.where(finite, code, codes.NON_FINITE)
        f32 = jnp.float32
        out = Solution(
            w.astype(f32), (b - w @ mean).astype(f32), objective.astype(f32), gap.astype(f32),
            code.astype(jnp.int32), trips,
        )  # fmt: skip
        return (a, b), out

    start = (jnp.zeros(len(rows), jnp.float64), jnp.zeros((), jnp.float64))
    return jax.lax.scan(step, start, strengths)[1]


def _gap(gram, mask, t, C, a, b):
    """Duality gap of w = sum a_i x_i against the dual point t a; infinite where that is outside."""
    q = t * a / C
    m = t * (gram @ a + b)
    inside = jnp.where(mask, (q >= 0) & (q <= 1), True).all()
    q = jnp.clip(q, 1e-300, 1 - 1e-16)
    terms = jnp.logaddexp(0.0, -m) + q * m + q * jnp.log(q) + (1 - q) * jnp.log1p(-q)
    return jnp.where(inside, C * jnp.where(mask, terms, 0).sum(), jnp.inf)


def _newton(gram, mask, t, C, a, b, tolerance, max_trips, usable):
    n = len(t)

    def value(a, b):
        ga = gram @ a
        losses = jnp.where(mask, jnp.logaddexp(0.0, -t * (ga + b)), 0)
        return 0.5 * a @ ga + C * losses.sum()

    def direction(a, b):
        f = gram @ a + b
        p = jax.nn.sigmoid(-t * f)
        s = jnp.where(mask, jnp.sqrt(jnp.maximum(C * p * (1 - p), 1e-30)), 0)
        rhs = s * f + jnp.where(mask, t * jnp.sqrt(C * p / jnp.maximum(1 - p, 1e-30)), 0)
        factor = jnp.linalg.cholesky(jnp.eye(n) + s[:, None] * gram * s[None, :])
        u = jax.scipy.linalg.cho_solve((factor, True), jnp.stack([rhs, s], 1))
        b_new = (s @ u[:, 0]) / jnp.maximum(s @ u[:, 1], 1e-300)
        a_new = s * (u[:, 0] - b_new * u[:, 1])
        # The same dual point written so that rounding cannot move it out of [0, C].
        shift = t * (gram @ a_new + b_new - f)
        inside = t * C * p * (1 - (1 - p) * shift)
        return jnp.where(jnp.abs(shift) < 0.5, inside, a_new), b_new

    def body(state):
        a, b, step, best, trips, _ = state
        a_new, b_new = direction(a, b)
        trial = (a + step * (a_new - a), b + step * (b_new - b))
        v = value(*trial)
        good = v <= best * (1 + 1e-14)
        a, b = jax.tree.map(lambda new, old: jnp.where(good, new, old), trial, (a, b))
        step = jnp.where(good, jnp.minimum(1.0, 2 * step), step / 4)
        best = jnp.where(good, v, best)
        done = _gap(gram, mask, t, C, a, b) <= 0.5 * tolerance * best
        return a, b, step, best, trips + 1, done

    def unfinished(state):
        return ~state[5] & (state[4] < max_trips)

    start = (a, b, jnp.ones((), jnp.float64), value(a, b), jnp.zeros((), jnp.int32), ~usable)
    a, b, _, _, trips, _ = jax.lax.while_loop(unfinished, body, start)
    return a, b, trips

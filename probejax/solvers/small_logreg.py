"""L2 logistic regression where features are few: Newton's method from a start near the answer.

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (z_i.w + b))),   t_i = +-1,  b unpenalised.

For some hundred uncorrelated features at a moderate C float32 suffices to descend, and no path
through stronger regularisation is needed; the certificate is float64. `l2` is for the rest.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import arithmetic, codes
from probejax.solvers.codes import Solution
from probejax.solvers.engine import each
from probejax.solvers.lanes import checked
from probejax.solvers.spread import over_lanes

_NUMBERS, _LANES = 2**19, 16  # features and lanes that are solved together, at most
_SHARES = 0.5 ** np.arange(8)  # of a step, that the line search compares
_ENOUGH = 0.1  # of the tolerance, for what is measured before the last step
_TINY = 1e-30


class _State(NamedTuple):
    w: Array  # [L, k]
    b: Array  # [L]
    done: Array  # [L]
    trips: Array  # [L]


class Near(NamedTuple):
    """What is near the solutions.

    Attributes:
      w: weights.
      b: intercepts.
      scores: z.w + b of every row.
    """

    w: Float[Array | np.ndarray, "L k"]
    b: Float[Array | np.ndarray, " L"]
    scores: Float[Array | np.ndarray, "L n"]


def solve(
    z: Float[Array | np.ndarray, "L n k"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: float,
    *,
    leading: Int[np.ndarray, " L"] | None = None,
    tolerance: float = 1e-6,
    max_trips: int = 40,
) -> Solution:
    """Solves every lane and certifies what it found.

    Args:
      z: features of each lane's rows.
      mask: the rows that count.
      y: labels in {0, 1}.
      C: inverse regularisation strength of all lanes.
      leading: how many of its features a lane uses, the first ones; None is all.
      tolerance: relative duality gap at which a lane has converged.
      max_trips: limit of Newton steps.

    Raises:
      ValueError: a label that counts is neither 0 nor 1, C is not positive and finite, or shapes
        differ.
    """
    mask, y = checked(mask, y, C, np.shape(z)[:2])
    z, leading = np.asarray(z), _leading(z, leading)
    start = np.zeros((len(z), z.shape[2]), np.float32)
    lanes, width = (z, leading, mask, y), _width(z)
    limits = (C, tolerance, max_trips, True)
    near, trips = each(_descend, (*lanes, (start, start[:, 0])), width, *limits)
    with arithmetic.judging():
        return each(_certify, (*lanes, near, trips), width, C, tolerance)


def approach(
    z: Float[Array | np.ndarray, "L n k"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: float,
    start: tuple[Float[Array | np.ndarray, "L k"], Float[Array | np.ndarray, " L"]],
    *,
    leading: Int[np.ndarray, " L"] | None = None,
    tolerance: float = 1e-6,
    max_trips: int = 40,
) -> Near:
    """Goes from a start (w, b) to where a step gains little; other arguments as for `solve`."""
    mask, y = checked(mask, y, C, np.shape(z)[:2])
    lanes = (np.asarray(z), _leading(z, leading), mask, y, jax.tree.map(np.asarray, start))
    return each(_descend, lanes, _width(z), C, tolerance, max_trips, False)[0]


def _leading(z, leading):
    return np.full(len(z), z.shape[2], np.int32) if leading is None else leading.astype(np.int32)


def _width(z) -> int:
    """Returns how many lanes go together: as many as the cache holds."""
    return min(max(1, _NUMBERS // (z.shape[1] * z.shape[2])), _LANES)


@over_lanes(shared=("C", "tolerance", "max_trips", "dual"))
def _descend(z, leading, mask, y, start, C, tolerance, max_trips, dual) -> tuple[Near, Array]:
    """Makes Newton steps until every lane is done; also returns how many each took.

    Done means that a step gains little, or with `dual` that the duality gap is small. The gap is
    larger: near the solution it is half the squared gradient, the gain that over the curvature.
    """
    whole, (z, t) = z, _frame(z, leading, mask, y)
    usable = (t > 0).any(axis=1) & (t < 0).any(axis=1)
    going = lambda state: jnp.any(~state.done & (state.trips < max_trips))
    trip = lambda state: _trip(z, t, C, tolerance, dual, state)
    w, b = map(jnp.asarray, start)
    state = _State(w, b, ~usable, jnp.zeros(len(z), jnp.int32))
    state = jax.lax.while_loop(going, trip, state)
    w, b = jnp.where(usable[:, None], state.w, 0), jnp.where(usable, state.b, 0)
    return Near(w, b, _scores(whole, w) + b[:, None]), state.trips


def _frame(z, leading, mask, y):
    """Returns features and signs, both 0 on rows that do not count."""
    finite = jnp.isfinite(z).all(axis=2) & mask
    used = jnp.arange(z.shape[2])[None, None, :] < leading[:, None, None]
    z = jnp.where(finite[:, :, None] & used, z, 0)
    return z, jnp.where(mask, 2.0 * y - 1.0, 0.0)


def _trip(z, t, C, tolerance, dual, state: _State) -> _State:
    """Makes one Newton step in every lane that is not done."""
    w, b, done, trips = state
    f = _scores(z, w) + b[:, None]
    sigma = jax.nn.sigmoid(-t * f)
    pull, curvature = C * t * sigma, C * t * t * sigma * (1 - sigma)
    balance, total = pull.sum(axis=1), jnp.maximum(curvature.sum(axis=1), _TINY)
    forces = jnp.einsum("lnk,cln->clk", z, jnp.stack([pull, curvature]), precision="highest")
    centre = forces[1] / total[:, None]  # features less this are blind to the intercept
    side = forces[0] - w - balance[:, None] * centre
    dw = _solve_system(z, curvature, centre, side)
    db = balance / total - (centre * dw).sum(axis=1)
    gain = 0.5 * ((side * dw).sum(axis=1) + balance**2 / total)
    gain = jnp.where(dual, jnp.maximum(gain, 0.5 * ((forces[0] - w) ** 2).sum(axis=1)), gain)

    shares = jnp.asarray(_SHARES, z.dtype)[:, None]  # [S, 1]
    df = _scores(z, dw) + db[:, None]
    ahead = f[None] + shares[:, :, None] * df[None]
    losses = jnp.where(t[None] != 0, jax.nn.softplus(-t[None] * ahead), 0).sum(axis=2)
    moved = ((w[None] + shares[:, :, None] * dw[None]) ** 2).sum(axis=2)
    values = 0.5 * moved + C * losses  # [S, L]
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    share = jnp.where(done, 0, shares[jnp.argmin(values, axis=0), 0])
    close = gain <= _ENOUGH * tolerance * values.min(axis=0)
    return _State(
        w + share[:, None] * jnp.where(done[:, None], 0, dw),
        b + share * jnp.where(done, 0, db),
        done | close,
        trips + ~done,
    )


def _solve_system(z, curvature, centre, side):
    """Solves (I + sum_i curvature_i (z_i - centre) (z_i - centre)') dw = side.

    Systems are small: LAPACK's factor and triangular solves cost little, also to compile.
    """
    root = (z - centre[:, None, :]) * jnp.sqrt(curvature)[:, :, None]
    gram = jnp.einsum("lnk,lnm->lkm", root, root, precision="highest")
    size = jax.lax.rsqrt(1 + jnp.diagonal(gram, axis1=1, axis2=2))  # to a unit diagonal
    unit = jnp.eye(z.shape[2], dtype=z.dtype)[None] * (size * size)[:, :, None]
    factor = jax.lax.linalg.cholesky(gram * size[:, :, None] * size[:, None, :] + unit)
    solve = functools.partial(jax.lax.linalg.triangular_solve, factor, left_side=True, lower=True)
    half = solve((size * side)[:, :, None])
    return size * solve(half, transpose_a=True)[:, :, 0]


def _scores(z, w):
    return jnp.einsum("lnk,lk->ln", z, w, precision="highest")


@over_lanes(shared=("C", "tolerance"))
def _certify(z, leading, mask, y, near: Near, trips, C, tolerance) -> Solution:
    """Returns the solutions with their duality gaps, in float64.

    As in `newton`: the dual point is alpha = C sigmoid(-margin), made to balance between labels.
    """
    bad = (mask & ~jnp.isfinite(z).all(axis=2)).any(axis=1)
    z, t = _frame(z, leading, mask, y)
    w, b, _ = near
    z, v = z.astype(jnp.float64), w.astype(jnp.float64)
    margin = t * (_scores(z, v) + b[:, None])
    q = jnp.where(t != 0, jax.nn.sigmoid(-margin), 0)
    up, down = (jnp.where(t == sign, q, 0).sum(axis=1, keepdims=True) for sign in (1, -1))
    least = jnp.minimum(up, down)
    q = q * jnp.where(t > 0, least / jnp.maximum(up, _TINY), least / jnp.maximum(down, _TINY))
    rows = jnp.maximum(jax.nn.softplus(-margin) + q * margin + xlogy(q, q) + xlog1py(1 - q, -q), 0)
    losses = jnp.where(t != 0, rows, 0).sum(axis=1)
    apart = v - C * jnp.einsum("lnk,ln->lk", z, t * q, precision="highest")
    plain = jnp.where(t != 0, jax.nn.softplus(-margin), 0).sum(axis=1)
    value = 0.5 * (v * v).sum(axis=1) + C * plain
    gap = (0.5 * (apart * apart).sum(axis=1) + C * losses) / jnp.maximum(value, _TINY)
    usable = (t > 0).any(axis=1) & (t < 0).any(axis=1) & ~bad
    code = jnp.where(gap <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
    sound = jnp.isfinite(w).all(axis=1) & jnp.isfinite(gap)
    code = jnp.where(sound, code, codes.NON_FINITE)
    code = jnp.where(usable, code, jnp.where(bad, codes.NON_FINITE, codes.DEGENERATE))
    w, b = jnp.where(usable[:, None], w, 0), jnp.where(usable, b, 0)
    value = jnp.where(usable, value, 0).astype(jnp.float32)
    gap = jnp.where(code <= codes.MAX_TRIPS, gap, jnp.nan).astype(jnp.float32)
    return Solution(w, b, value, gap, code.astype(jnp.int32), trips)

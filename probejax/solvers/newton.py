"""Newton's method for one L2 logistic regression; `l2` runs many of them.

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

There are two forms of it, and the smaller system decides. In feature space the unknown is w and a
step solves with I + X' D X; in sample space w = X' a, the unknown is a and a step solves with
I + D^1/2 K D^1/2, K = X X' (Rasmussen and Williams 2006, section 3.4). Here u is w or a, and `data`
X' or K. D is the curvature of the losses, r their pull on the scores.

The factor is float32 (on labels that no plane separates C times the Gram matrix reaches 1e10 beside
the identity; the smaller system is the one that survives that), what it corrects is float64: so
rounding costs trips, not accuracy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, Int

from probejax.solvers import cholesky

_LENGTHS = 0.5 ** np.arange(14)  # shares of a step that the line search compares, all at once
_RIDGE = {"float32": 3e-6, "float64": 1e-14}  # least addition to a unit diagonal
_HOPELESS = 1e-5  # a ridge above the least: a float32 factor has failed
_PATIENCE = 12  # trips at one strength after which a lane goes on in float64
_TINY = 1e-300


class Point(NamedTuple):
    """A solution, or what is on its way to be one."""

    u: Float[Array, " r"]  # w in feature space, a in sample space
    a: Float[Array, " n"]  # a dual point, signed: w = X' a at the minimum
    f: Float[Array, " n"]  # scores without the intercept
    b: Float[Array, ""]


class State(NamedTuple):
    """Where a lane is on its path."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    trips: Int[Array, ""]  # spent on this strength
    point: Point
    last: Point  # solution at the strength before, to extrapolate from
    ridge: Float[Array, ""]
    path: dict[str, Array]  # what was found, one row per strength


class Form(NamedTuple):
    """What differs between feature space and sample space."""

    square: Callable  # (point, other) -> the inner product of the two weight vectors
    apart: Callable  # (data, point, [n, m] dual points) -> [m] squared distances of their weights
    move: Callable  # (data, point, r, D, ridge, precision) -> a Newton step, as a Point


def start(stage, count: int, r: int, n: int) -> State:
    """Returns the state of a lane at w = 0, before the strength numbered `stage` of `count`."""
    zero = jnp.zeros(())
    point = Point(jnp.zeros(r), jnp.zeros(n), jnp.zeros(n), zero)
    path = {"u": jnp.zeros((count, r)), "trips": jnp.zeros(count, int)}
    path |= {key: jnp.zeros(count) for key in ("b", "bound")}
    return State(stage, jnp.zeros((), int), point, point, zero, path)


def fresh(state: State, precision: str) -> State:
    """Returns the state as it goes on with factors of another precision."""
    return state._replace(ridge=jnp.full((), _RIDGE[precision]))


def running(state: State, count: int, precision: str):
    """Tells whether there are trips to make: in float32, only while its factors are good."""
    left = state.stage < count
    if precision == "float32":
        left &= (state.trips < _PATIENCE) & (state.ridge < _HOPELESS)
    return left


def trip(form: Form, data, t, strengths, state: State, limits, precision: str) -> State:
    """Makes one step, judges what came out of it, and passes to the next strength if it will do.

    Args:
        form: `FEATURES` or `SAMPLES`.
        data: X' [d, n], centred, or K [n, n]; float64, 0 on rows that do not count.
        t: labels +-1; 0 on rows that do not count.
        strengths: ascending values of C.
        state: where the lane is.
        limits: relative duality gap that will do at each strength; trips after which anything does.
        precision: of the factor, "float32" or "float64".
    """
    tolerances, max_trips = limits
    steps = len(strengths)
    here = jnp.minimum(state.stage, steps - 1)
    C = strengths[here]
    point, ridge = _step(form, data, t, C, state.point, state.ridge, precision)
    value = _objective(form, t, C, point)
    gap = _gap(form, data, t, C, point)
    trips = state.trips + 1
    over = (gap <= jnp.asarray(tolerances)[here] * value) | (trips >= max_trips)

    slot = jnp.where(over, state.stage, steps)  # past the end: dropped
    found = {"u": point.u, "b": point.b, "bound": value - gap, "trips": trips}
    path = {key: state.path[key].at[slot].set(found[key], mode="drop") for key in found}
    stage = jnp.minimum(state.stage + over, steps)
    ahead = _ahead(form, t, strengths[jnp.minimum(stage, steps - 1)], point, state.last, stage > 1)
    pick = lambda new, old: jnp.where(over, new, old)
    return State(
        stage=stage,
        trips=jnp.where(over, 0, trips),
        point=jax.tree.map(pick, ahead, point),
        last=jax.tree.map(pick, point, state.last),
        ridge=ridge,
        path=path,
    )


def _losses(t, f):
    return jnp.where(t != 0, jax.nn.softplus(-t * f), 0)


def _objective(form, t, C, point: Point):
    return 0.5 * form.square(point, point) + C * _losses(t, point.f + point.b).sum()


def _ahead(form, t, C, point: Point, last: Point, has_last):
    """Returns the better start at the next strength: the solution, or the line through two."""
    line = jax.tree.map(lambda new, old: 2 * new - old, point, last)
    better = has_last & (_objective(form, t, C, line) < _objective(form, t, C, point))
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), line, point)


def _step(form, data, t, C, point: Point, ridge, precision):
    """Takes one Newton step, at the best of a few lengths; also returns the next ridge."""
    sigma = jax.nn.sigmoid(-t * (point.f + point.b))
    pull, curvature = C * t * sigma, C * t**2 * sigma * (1 - sigma)
    step = form.move(data, point, pull, curvature, ridge, precision)
    squares = (form.square(point, point), form.square(point, step), form.square(step, step))
    shares = jnp.asarray(_LENGTHS)
    scores = (point.f + point.b)[None, :] + shares[:, None] * (step.f + step.b)[None, :]
    losses = _losses(t[None, :], scores).sum(axis=1)
    values = 0.5 * (squares[0] + 2 * shares * squares[1] + shares**2 * squares[2]) + C * losses
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    best = jnp.argmin(values)
    # A factor that broke down, or a step of no use, moves nothing: a larger ridge is the remedy.
    sound = values[best] <= _objective(form, t, C, point)
    share = shares[best]
    moved = jax.tree.map(lambda now, by: jnp.where(sound, now + share * by, now), point, step)
    ridge = jnp.where(sound, jnp.maximum(ridge / 2, _RIDGE[precision]), ridge * 5)
    return moved, ridge


def _gap(form, data, t, C, point: Point):
    """Returns how far the objective is above the dual objective at the better of two dual points.

    For alpha in [0, C] with sum t alpha = 0 the gap is 0.5 |w - X' t alpha|^2 plus, per row, a
    Fenchel-Young term, log(1 + e^-m) + q m + q log q + (1 - q) log(1 - q) with q = alpha / C: a sum
    of terms that are never negative, so that rounding cannot hide it.
    """
    margin = t * (point.f + point.b)

    def balance(alpha):
        up, down = jnp.where(t > 0, alpha, 0).sum(), jnp.where(t < 0, alpha, 0).sum()
        least = jnp.minimum(up, down)
        return alpha * jnp.where(
            t > 0, least / jnp.maximum(up, _TINY), least / jnp.maximum(down, _TINY)
        )

    by_dual = balance(jnp.clip(t * point.a, 0, C))
    by_slope = balance(C * t**2 * jax.nn.sigmoid(-margin))
    alphas = jnp.stack([by_dual, by_slope], axis=1)  # [n, 2]
    q = alphas / C
    entropy = xlogy(q, q) + xlog1py(1 - q, -q)
    rows = jnp.maximum(jax.nn.softplus(-margin)[:, None] + q * margin[:, None] + entropy, 0)
    losses = jnp.where(t[:, None] != 0, rows, 0).sum(axis=0)
    distance = form.apart(data, point, t[:, None] * alphas)
    return jnp.min(0.5 * jnp.maximum(distance, 0) + C * losses)


def _move_features(columns, point: Point, pull, curvature, ridge, precision) -> Point:
    forces = columns @ jnp.stack([pull, curvature], axis=1)
    total = jnp.maximum(curvature.sum(), _TINY)
    centre = forces[:, 1] / total  # columns without it are blind to the intercept
    root = ((columns - centre[:, None]) * jnp.sqrt(curvature)[None, :]).astype(precision)
    size = jax.lax.rsqrt(1 + jnp.sum(root * root, axis=1))  # to a unit diagonal
    factor = cholesky.factor_gram(root * size[:, None], size**2 + ridge.astype(precision))
    balance = pull.sum()
    side = forces[:, 0] - point.u - balance * centre
    dw = size * cholesky.solve(factor, size * side.astype(precision)).astype(jnp.float64)
    db = balance / total - centre @ dw
    df = dw @ columns
    return Point(dw, pull - curvature * (df + db) - point.a, df, db)


def _move_samples(gram, point: Point, pull, curvature, ridge, precision) -> Point:
    root = jnp.sqrt(curvature)
    size = jax.lax.rsqrt(1 + curvature * jnp.diagonal(gram))
    scale, rest = (root * size).astype(precision), (size**2 + ridge).astype(precision)
    system = gram.astype(precision) * scale[:, None] * scale[None, :]
    factor = cholesky.factor(system + jnp.diag(rest))
    through = lambda side: root * size * cholesky.solve(factor, (size * side).astype(precision))
    residual = point.a - pull
    from_residual = residual - through(root * (gram @ residual))
    from_intercept = through(root)
    db = (point.a.sum() - from_residual.sum()) / jnp.maximum(from_intercept.sum(), _TINY)
    da = -from_residual - db * from_intercept
    return Point(da, da, gram @ da, db)


def _apart_features(columns, point: Point, duals):
    return jnp.sum((point.u[:, None] - columns @ duals) ** 2, axis=0)


def _apart_samples(gram, point: Point, duals):
    apart = point.a[:, None] - duals
    return jnp.sum(apart * (gram @ apart), axis=0)


FEATURES = Form(lambda p, o: p.u @ o.u, _apart_features, _move_features)
SAMPLES = Form(lambda p, o: p.u @ o.f, _apart_samples, _move_samples)

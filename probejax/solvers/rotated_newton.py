"""Newton's method for one L2 logistic regression in float32; `rotated` runs many of them.

    minimise  0.5 |u|^2 + C sum_i log(1 + exp(-t_i (a_i.u + b))),   t_i = +-1,  b unpenalised.

The rows a_i must be in coordinates whose scales lie apart, such as principal axes: scaled to a unit
diagonal, their Hessian is one that float32 can factor, where in the coordinates of a language model
it is not.

What float32 loses is not the step but the gradient, a difference of large sums. So all is told as a
deviation from a base at which the gradient is known: what the deviation adds to it is exact to
float32's relative precision, however small. A walk along a path takes the point itself as the base
of each step, with a float32 gradient: that suffices where a plane separates the classes. `refine`
takes a base whose gradient was computed in float64, on the host: one or two rounds of it gain six
digits each.

A step solves (I + A' D~ A) du = -gradient, with D~ as in `newton`, by conjugate gradients that the
factor of the same matrix preconditions: it makes up for the ridge that keeps the factor definite.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax.solvers import cholesky

_SHARES = 0.5 ** np.arange(14)  # of a step, that the line search compares
_RIDGE = 3e-6  # least addition to a unit diagonal
_HOPELESS = 1e-2  # a ridge at which a lane gives up a strength
_ITERATIONS = 40  # of conjugate gradients, at most
_EXACT = 0.1  # error of a step, in its own norm, that will do
_STALLED = 0.5  # of the last gain: a full step after a full step that gains more is noise
_SMALL = 1e-2  # change of a margin below which a series is more exact than the formula
_TINY = 1e-30


class Base(NamedTuple):
    """A point whose gradient is known, and with it the objective in its neighbourhood."""

    margins: Float[Array | np.ndarray, "*P n"]  # t_i (a_i.u + b)
    slope: Float[Array | np.ndarray, "*P r"]  # gradient in u
    balance: Float[Array | np.ndarray, "*P"]  # gradient in b
    value: Float[Array | np.ndarray, "*P"]  # of the objective


class State(NamedTuple):
    """Where a lane is on its path."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    steps: Int[Array, ""]  # spent on this strength
    u: Float[Array, " r"]  # of a walk the point itself, of a refinement how far it is from the base
    b: Float[Array, ""]
    ridge: Float[Array, ""]
    gain: Float[Array, ""]  # of the last step
    share: Float[Array, ""]  # of it that was taken; 0 at first
    path: tuple[Array, ...]  # u, b and steps found, one row per strength


def walk(
    a: Float[Array, "n r"],
    t: Float[Array, " n"],
    strengths: Float[Array, " P"],
    limits: tuple[Float[Array, " P"], Int[Array, ""]],
) -> tuple[Array, ...]:
    """Returns the solutions (u, b) along a path of rising strengths, and the steps they took.

    Args:
        a: rows; 0 where they do not count.
        t: labels +-1; 0 on rows that do not count; a lane without two classes is not walked.
        strengths: values of C.
        limits: half the squared gradient that will do at each strength, as a share of the
            objective; steps after which anything does.
    """
    positive, negative = (t > 0).sum(), (t < 0).sum()
    odds = jnp.log(jnp.maximum(positive, 1) / jnp.maximum(negative, 1)).astype(a.dtype)

    def base_at(state):
        C = strengths[jnp.minimum(state.stage, len(strengths) - 1)]
        margins = t * (_scores(a, state.u) + state.b)
        pull = C * t * jax.nn.sigmoid(-margins)
        losses = jnp.where(t != 0, jax.nn.softplus(-margins), 0).sum()
        base = Base(margins, state.u - _back(a, pull), -pull.sum(), _half(state.u) + C * losses)
        return base, jnp.zeros_like(state.u), jnp.zeros_like(state.b)

    def trip(state):
        base, u, b = base_at(state)
        return _advance(a, t, strengths, state, base, u, b, limits, state.stage + 1, True)

    stage = jnp.where((positive > 0) & (negative > 0), 0, len(strengths))
    return _run(trip, len(strengths), _start(a, len(strengths), stage, odds))


def refine(
    a: Float[Array, "n r"],
    t: Float[Array, " n"],
    strengths: Float[Array, " P"],
    bases: Base,
    following: Int[Array, " P1"],
    limits: tuple[Float[Array, " P"], Int[Array, ""]],
) -> tuple[Array, ...]:
    """Returns how far the solutions are from their bases, (u, b), and the steps it took.

    Args:
        a: rows, as for `walk`.
        t: labels.
        strengths: values of C.
        bases: of every strength.
        following: the first strength to refine, then for each the one after it; P where there is
            none.
        limits: as for `walk`.
    """

    def trip(state):
        here = jnp.minimum(state.stage, len(strengths) - 1)
        base = jax.tree.map(lambda leaf: leaf[here], bases)
        after = following[here + 1]
        return _advance(a, t, strengths, state, base, state.u, state.b, limits, after, False)

    start = _start(a, len(strengths), following[0], jnp.zeros((), a.dtype))
    return _run(trip, len(strengths), start)


def _start(a, count, stage, b) -> State:
    zero, none = jnp.zeros((), a.dtype), jnp.zeros((), jnp.int32)
    u = jnp.zeros(a.shape[1], a.dtype)
    path = (jnp.zeros((count, len(u)), a.dtype), jnp.zeros(count, a.dtype), jnp.zeros(count, int))
    ridge = jnp.full((), _RIDGE, a.dtype)
    return State(stage, none, u, b, ridge, zero, zero, path)


def _run(trip, count, state: State):
    return jax.lax.while_loop(lambda state: state.stage < count, trip, state).path


def _advance(a, t, strengths, state: State, base: Base, u, b, limits, after, walks) -> State:
    """Makes a step from (u, b) beside a base, and passes to the next strength if it will do."""
    enough, most = limits
    count = len(strengths)
    here = jnp.minimum(state.stage, count - 1)
    du, db, share, gain, value, slope = _step(a, t, strengths[here], base, u, b, state.ridge)
    broken = ~jnp.isfinite(gain)
    du, db = jnp.where(broken, 0, share * du), jnp.where(broken, 0, share * db)
    gain, share = jnp.where(broken, 0, gain), jnp.where(broken, 0, share)
    point = (state.u + du, state.b + db)

    stalled = (state.share == 1) & (share == 1) & (gain > _STALLED * state.gain)
    idle = ~broken & (share == 0)
    steps = state.steps + 1
    over = (slope <= enough[here] * value) | stalled | idle | (steps >= most)
    over = over | (state.ridge > _HOPELESS)
    slot = jnp.where(over, here, count)  # past the end: dropped
    path = tuple(
        kept.at[slot].set(new, mode="drop")
        for kept, new in zip(state.path, (*point, steps), strict=True)
    )
    again = point if walks else (jnp.zeros_like(u), jnp.zeros_like(b))
    u, b = (jnp.where(over, new, old) for new, old in zip(again, point, strict=True))
    ridge = jnp.where(broken, state.ridge * 10, jnp.maximum(state.ridge / 2, _RIDGE))
    return State(
        stage=jnp.where(over, after, state.stage),
        steps=jnp.where(over, 0, steps),
        u=u,
        b=b,
        ridge=jnp.where(over, _RIDGE, ridge),
        gain=gain,
        share=jnp.where(over, 0, share),
        path=path,
    )


def _step(a, t, C, base: Base, u, b, ridge):
    """Returns a Newton step, the best share of it, its gain; value and half squared slope here."""
    counts = t != 0
    wrong, right = jax.nn.sigmoid(-base.margins), jax.nn.sigmoid(base.margins)
    moved = t * (_scores(a, u) + b)
    change = -C * t * _fall(wrong, right, moved)
    slope, balance = base.slope + u + _back(a, change), base.balance + change.sum()

    margins = base.margins + moved
    curvature = C * t * t * jax.nn.sigmoid(-margins) * jax.nn.sigmoid(margins)
    total = jnp.maximum(curvature.sum(), _TINY)
    centre = _back(a, curvature) / total
    root = (a - centre[None, :]) * jnp.sqrt(curvature)[:, None]
    du = _solve(root, balance * centre - slope, ridge)
    db = -balance / total - centre @ du

    ahead = t * (_scores(a, du) + db)
    squares = (u @ u, u @ du, du @ du)
    here, there = base.slope @ u + base.balance * b, base.slope @ du + base.balance * db

    def rise(share):
        """Returns the objective at a share of the step, less that at the base."""
        square = squares[0] + 2 * share * squares[1] + share**2 * squares[2]
        bend = jnp.where(counts, _bend(wrong, right, moved + share * ahead), 0).sum()
        return 0.5 * square + here + share * there + C * bend

    now = rise(jnp.zeros((), a.dtype))
    shares = jnp.asarray(_SHARES, a.dtype)
    rises = jax.vmap(rise)(shares)
    rises = jnp.where(jnp.isnan(rises), jnp.inf, rises)
    best = jnp.argmin(rises)
    gain = now - rises[best]
    share = jnp.where(gain > 0, shares[best], 0)
    gain = jnp.where(jnp.isfinite(du).all(), jnp.maximum(gain, 0), jnp.nan)
    return du, db, share, gain, base.value + now, _half(slope)


def _solve(root, side, ridge):
    """Solves (I + root' root) u = side."""
    size = jax.lax.rsqrt(1 + jnp.sum(root * root, axis=0))  # to a unit diagonal
    scaled = root * size[None, :]
    products = jnp.matmul(scaled.T, scaled, precision="highest")
    inverse = cholesky.inverse_factor(products + jnp.diag(size * size + ridge))
    precondition = lambda r: size * cholesky.solve_by_inverse(inverse, size * r)

    z = precondition(side)
    first = side @ z

    def going(carry):
        *_, error, count = carry
        return (error > _EXACT**2 * first) & (count < _ITERATIONS)

    def iterate(carry):
        u, residual, q, error, count = carry
        bent = q + _back(root, _scores(root, q))
        share = error / jnp.maximum(q @ bent, _TINY)
        residual = residual - share * bent
        z = precondition(residual)
        new = residual @ z
        return u + share * q, residual, z + new / jnp.maximum(error, _TINY) * q, new, count + 1

    none = jnp.zeros((), jnp.int32)
    u = jax.lax.while_loop(going, iterate, (jnp.zeros_like(side), side, z, first, none))[0]
    return jnp.where(first >= 0, u, jnp.nan)  # the factor broke down


def _fall(wrong, right, moved):
    """Returns sigmoid(-m - moved) - sigmoid(-m), from both sigmoids of the margin m."""
    growth = jnp.expm1(-moved)
    fall = wrong * right * growth / (1 + wrong * growth)
    return jnp.where(growth < 1e20, fall, right)


def _bend(wrong, right, moved):
    """Returns how far the loss at margin m + moved lies above its tangent at m."""
    growth = jnp.expm1(-moved)
    steep = jax.nn.softplus(jnp.log(jnp.maximum(wrong, _TINY)) - moved)
    far = jnp.where(moved < -30, steep, jnp.log1p(wrong * growth))
    near = 0.5 * wrong * right * moved**2 * (1 - (right - wrong) * moved / 3)
    return jnp.where(jnp.abs(moved) < _SMALL, near, far + wrong * moved)


def _half(u):
    return 0.5 * (u @ u)


def _scores(a, u):
    return jnp.matmul(a, u, precision="highest")


def _back(a, pull):
    return jnp.matmul(pull, a, precision="highest")

"""Interior point method for one L1 logistic regression; `l1` runs many of them.

Columns are scaled to unit size, x_j = cost_j z_j, which leaves the problem as it is once weight j
costs cost_j = 1 / size_j:

    minimise  sum_j cost_j |w_j| + C sum_i log(1 + exp(-t_i (x_i.w + b))).

Mehrotra's predictor-corrector method works on w = p - q with p, q >= 0, whose slacks are
up = cost - v and uq = cost + v; v is the pull of the data on the weights that the current dual
point allows (Koh, Kim and Boyd 2007 solve the same problem with a plain barrier). A trip costs one
weighted Gram matrix and one Cholesky factor. Those may be float32: the vectors they correct are
float64, so rounding costs trips, not accuracy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, Int

from probejax.solvers import cholesky

_LENGTHS = 0.5 ** np.arange(7)  # shares of a step that the line search looks at, all at once
_BOUNDARY = 0.99  # share of the way to the boundary that a step may go
_START = 0.1  # complementarity at the start of a strength, as a share of the objective
_FLOOR = 0.2  # complementarity stays above this share of what Newton's method has left to do
_SLACK = 0.03  # rise of the smoothed objective that passes, as a share of the complementarity
_RIDGE = {"float32": 1e-7, "float64": 1e-13}  # least addition to a unit diagonal
_FELL = 0.5  # of the least gap so far, a share that counts as less
_PATIENCE = 3  # trips without, after which float32 has seen what it can
_CENTRED = 3  # tolerances, a gap by complementarity
_NOISE = 1e-4  # a gap that it may not see through
_TINY = 1e-30  # within the range of float32, and so of the float64 that TPUs emulate


class Frame(NamedTuple):
    """What does not change about a lane, but for its features."""

    t: Float[Array, " n"]  # labels +-1; 0 on rows that do not count
    cost: Float[Array, " k"]
    strengths: Float[Array, " P"]  # ascending values of C


class Path(NamedTuple):
    """What was found, one row per strength; few arrays, because each is a write of its own."""

    vectors: Float[Array, "P 6 k"]  # the weights; and where they are from: w and the slacks
    numbers: Float[Array, "P 4"]  # intercept, objective, gap, trips


class Point(NamedTuple):
    """What the objective is made of at some weights, whatever C."""

    margins: Float[Array, " n"]
    norm: Float[Array, ""]  # what the weights cost
    loss: Float[Array, ""]  # of all rows, C left out

    def objective(self, C):
        """Returns the objective at C."""
        return self.norm + C * self.loss


class State(NamedTuple):
    """Where a lane is on its path."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    trips: Int[Array, ""]  # spent on this strength
    w: Float[Array, " k"]
    b: Float[Array, ""]
    point: Point  # there
    slack: Float[Array, "4 k"]  # p, q, up, uq
    ridge: Float[Array, ""]  # in units of the least
    decrement: Float[Array, ""]  # what Newton's method has left to do
    bound: Float[Array, ""]  # the highest lower bound of the minimum so far
    least: Float[Array, ""]  # gap at this strength so far
    idle: Int[Array, ""]  # trips since it fell much
    path: Path


class _Model(NamedTuple):
    """The Newton model of one trip."""

    curvature: Float[Array, " n"]
    force: Float[Array, " k"]  # of the loss on the weights, once the intercept has given way
    balance: Float[Array, ""]  # of the loss on the intercept
    unit: Float[Array, ""]  # 1 / the curvature of all rows
    centre: Float[Array, " k"]  # columns without it are blind to the intercept, which eliminates it
    diagonal: Float[Array, " k"]
    give: Float[Array, " k"]  # how far a weight moves for a unit of its v
    solve: Callable


def start(frame, stage, w, b, margins) -> State:
    """Returns the state of a lane that starts its path at (w, b)."""
    steps, k, zero = len(frame.strengths), len(w), jnp.zeros(())
    path = Path(jnp.zeros((steps, 6, k)), jnp.zeros((steps, 4)))
    C = frame.strengths[jnp.minimum(stage, steps - 1)]
    point = _point(frame, w, margins)
    slack = _central(frame, w, point.objective(C))
    none, ridge, least = jnp.zeros((), int), jnp.full((), 10.0), jnp.full((), jnp.inf)
    return State(stage, none, w, b, point, slack, ridge, zero, zero, least, none, path)


def trip(x, frame, state, *, limits, precision) -> State:
    """Makes one step, judges what came out of it, and passes to the next strength if it will do.

    Args:
        x: scaled columns, [n, k], 0 on rows that do not count.
        frame: the lane.
        state: where it is.
        limits: relative duality gap that will do; trips after which anything does.
        precision: of the Gram matrix and its factor, "float32" or "float64".
    """
    strengths = frame.strengths
    tolerance, max_trips = limits
    steps = len(strengths)
    C = strengths[jnp.minimum(state.stage, steps - 1)]
    model = _model(x, frame, C, state, precision)
    state = _step(x, frame, C, state, model, tolerance)

    # One pass over the rows for the weights in hand and both that a caller may get of them.
    w, b = _roundings(frame, state, model)
    points = _at(x, frame, jnp.stack([*w, state.w]), jnp.where(jnp.arange(3) < 2, b, state.b))
    w, value = _better(C, w, points, tolerance)
    state = state._replace(point=jax.tree.map(lambda leaf: leaf[2], points))
    pulls, decrement = _newton_dual(x, frame, C, state, model)
    bound = _dual_value(x, frame, C, pulls)
    bound = jnp.where(bound > state.bound, bound, state.bound)  # and never NaN
    gap = (value - bound) / value
    trips = state.trips + 1
    over = (gap <= tolerance) | (trips >= max_trips)
    idle = jnp.where(gap < _FELL * state.least, 0, state.idle + 1)
    least = jnp.fmin(gap, state.least)
    if x.dtype == jnp.float32:  # whose gaps are no smaller than their noise; `judge` will see
        centred = _complementarity(state.slack) <= _CENTRED * tolerance * value
        seen = (least < _NOISE) | (decrement <= tolerance * value)
        stuck = (idle >= _PATIENCE) & (centred | (idle >= 3 * _PATIENCE)) & seen
        over = (over & centred) | stuck | (trips >= max_trips)

    here = (jnp.arange(steps) == state.stage) & over
    vectors = jnp.concatenate([jnp.stack([w, state.w]), state.slack])
    numbers = jnp.stack([b, value, gap, trips.astype(x.dtype)])
    path = Path(  # every slot is written: on a GPU a scatter copies the path first
        jnp.where(here[:, None, None], vectors[None], state.path.vectors),
        jnp.where(here[:, None], numbers[None], state.path.numbers),
    )
    stage = jnp.minimum(state.stage + over, steps)
    C = strengths[jnp.minimum(stage, steps - 1)]
    fresh = {"slack": _central(frame, state.w, state.point.objective(C))}
    fresh |= {"trips": 0, "decrement": 0.0, "bound": 0.0, "least": jnp.inf, "idle": 0}
    state = state._replace(trips=trips, decrement=decrement, bound=bound, least=least, idle=idle)
    reset = {key: jnp.where(over, new, getattr(state, key)) for key, new in fresh.items()}
    return state._replace(stage=stage, path=path, **reset)


def judge(x, frame, path, tolerance) -> Path:
    """Judges what a walk in float32 found, in the precision of x: one row per strength.

    Returns:
        The path with weights, intercepts, objectives and gaps of that precision.
    """
    zero = jnp.zeros(())

    def one(C, found):
        w, b, slack = found.vectors[1], found.numbers[0], found.vectors[2:]
        state = State(
            **dict.fromkeys(("decrement", "bound", "least"), zero),
            **dict.fromkeys(("stage", "trips", "idle"), jnp.zeros((), int)),
            w=w,
            b=b,
            point=_point(frame, w, frame.t * (x @ w + b)),
            slack=slack,
            ridge=jnp.ones(()),
            path=found,
        )
        model = _model(x, frame, C, state, x.dtype.name)
        w, b = _roundings(frame, state, model)
        w, value = _better(C, w, _at(x, frame, w, jnp.stack([b, b])), tolerance)
        pulls, _ = _newton_dual(x, frame, C, state, model)
        gap = (value - _dual_value(x, frame, C, pulls)) / value
        numbers = jnp.stack([b, value, gap, found.numbers[3]])
        return Path(found.vectors.at[0].set(w), numbers)

    path = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, zero.dtype)), path)
    return jax.vmap(one)(frame.strengths, path)


def _point(frame, w, margins) -> Point:
    return Point(margins, jnp.abs(w) @ frame.cost, jax.nn.softplus(-margins) @ frame.t**2)


def _at(x, frame, w, b) -> Point:
    """Returns what the objective is made of at each of some weights [m, k] and intercepts [m]."""
    one = lambda w, b: _point(frame, w, frame.t * (x @ w + b))
    return jax.vmap(one)(w, b)


def _complementarity(slack):
    return (slack[:2] * slack[2:]).sum()


def _central(frame, w, objective):
    """Returns slacks with p up = q uq = mu, p - q = w, up + uq = 2 cost, for a mid mu."""
    cost = frame.cost
    mu = _START * objective / (2 * len(w))
    root = mu + jnp.sqrt(mu**2 + (cost * w) ** 2)
    large = cost + cost**2 * jnp.abs(w) / root
    small = 2 * mu * cost**2 / (root * large)  # the same with a minus, without cancellation
    short = jnp.asarray([[True], [False]]) == (w > 0)[None, :]
    duals = jnp.where(short, small[None, :], large[None, :])
    return jnp.concatenate([mu / duals, duals])


def _model(x, frame, C, state, precision):
    t, margins = frame.t, state.point.margins
    pulls = C * t**2 * jax.nn.sigmoid(-margins)
    curvature = pulls * jax.nn.sigmoid(margins)
    sums = jnp.stack([curvature, t * pulls])
    total, balance = sums.sum(1)
    unit = 1 / jnp.maximum(total, _TINY)
    centre, force = sums @ x
    centre = centre * unit
    root = (jnp.sqrt(curvature)[:, None] * (x - centre[None, :])).astype(precision)
    hessian = jnp.matmul(root.T, root, precision="highest")
    diagonal = jnp.diagonal(hessian).astype(x.dtype)
    give = (state.slack[:2] / state.slack[2:]).sum(0)
    extra = 1 / give + _RIDGE[precision] * state.ridge * diagonal
    size = jax.lax.rsqrt(diagonal + extra)  # to a unit diagonal
    scale, rest = size.astype(precision), (extra * size**2).astype(precision)
    apply = cholesky.solver(hessian * scale[:, None] * scale[None, :] + jnp.diag(rest))
    solve = lambda r: size * apply((size * r).astype(precision))
    force = force - balance * centre
    return _Model(curvature, force, balance, unit, centre, diagonal, give, solve)


def _step(x, frame, C, state, model, tolerance):
    """Moves the state by Mehrotra's predictor and corrector."""
    w, slack = state.w, state.slack
    sign = jnp.asarray([[1.0], [-1.0]], x.dtype)

    def direction(target):
        """Solves the linearised conditions for complementarities (p up, q uq) = target."""
        short = target / slack[2:] - slack[:2]
        e = short[0] - short[1] + (slack[0] - slack[1] - w)
        dw = model.solve((slack[2] - slack[3]) / 2 + model.force + e / model.give)
        dv = sign * ((dw - e) / model.give)[None, :]
        return dw, jnp.concatenate([short + slack[:2] * dv / slack[2:], -dv])

    def reach(change):
        """Returns how far the primal and the dual may go before they leave their domain.

        Nowhere where a change is no number.
        """
        down = change < 0
        ratio = jnp.where(down, slack / jnp.where(down, -change, 1), jnp.inf)
        return jnp.where(jnp.isfinite(change), ratio, 0).reshape(2, -1).min(1)

    comp = _complementarity(slack)
    _, change = direction(jnp.zeros((2, 1), x.dtype))
    full = jnp.minimum(1, reach(change))
    affine = _complementarity(slack + jnp.repeat(full, 2)[:, None] * change)
    floor = _FLOOR * jnp.maximum(state.decrement, tolerance * state.point.objective(C))
    mu = jnp.clip(jnp.maximum((affine / comp) ** 3, floor / comp), 0, 1) * comp / (2 * len(w))
    # The second-order term presumes a full step: it counts as far as the predictor reached.
    dw, change = direction(mu - full[0] * full[1] * change[:2] * change[2:])
    lengths = jnp.minimum(1, _BOUNDARY * reach(change))
    db = model.balance * model.unit - model.centre @ dw
    share = _search(x, frame, C, mu, state, lengths[0] * dw, lengths[0] * db, _SLACK * comp)

    # A factor that broke down, or a step of no use, moves nothing: a larger ridge is the remedy.
    sound = (lengths[0] * lengths[1] > 0) & (share > 0)
    move = lambda a, da, length: a + jnp.where(sound, share * length * da, 0)
    return state._replace(
        w=move(w, dw, lengths[0]),
        b=move(state.b, db, lengths[0]),
        slack=move(slack, change, jnp.repeat(lengths, 2)[:, None]),
        ridge=jnp.where(sound, jnp.maximum(state.ridge / 3, 1), state.ridge * 100),
    )


def _search(x, frame, C, mu, state, dw, db, slack):
    """Returns the longest share of a step after which the smoothed objective has not risen much.

    Only curvature that the Newton model does not see cuts a step: a row that fitted so well that it
    weighed nothing, and no longer does. The smoothing is that of the barrier at this mu.
    """
    t, cost, point = frame.t, frame.cost, state.point
    shares, shift = jnp.asarray((*_LENGTHS, 0), x.dtype), t * (x @ dw + db)
    share = shares[:, None]
    root = jnp.sqrt(mu**2 + ((cost * state.w)[None, :] + share * (cost * dw)[None, :]) ** 2)
    smooth = (root - mu * jnp.log(mu + root)).sum(1)
    losses = jax.nn.softplus(-point.margins[None, :] - share * shift[None, :]) @ t**2
    level = smooth + C * losses
    rise = level[:-1] - level[-1]
    fine = rise <= slack + 1e-6 * point.objective(C)
    return jnp.where(fine, shares[:-1], 0).max()


def _newton_dual(x, frame, C, state, model):
    """Returns the dual half of the next Newton step, and the decrement of that step.

    A Newton step meets linear constraints, such as the dual's, exactly; one refinement makes up for
    the rounding of the factor.
    """
    t, half = frame.t, (state.slack[2] - state.slack[3]) / 2
    pulls = C * t**2 * jax.nn.sigmoid(-state.point.margins)
    decrements = []
    for _ in range(2):
        balance = t @ pulls
        residual = half + (t * pulls) @ x - balance * model.centre
        dw = model.solve(residual)
        half = half - dw / model.give
        decrements.append(residual @ dw + balance**2 * model.unit)
        pulls = pulls - model.curvature * t * (x @ dw - model.centre @ dw + balance * model.unit)
    return jnp.clip(pulls, 0, C * t**2), decrements[0]


def _dual_value(x, frame, C, pulls):
    """Returns a lower bound on the minimum from pulls that nearly meet the dual's constraints.

    The dual maximises the entropy C sum_i h(a_i / C) over 0 <= a_i <= C with sum_i t_i a_i = 0 and
    |sum_i t_i a_i x_ij| <= cost_j (Koh, Kim and Boyd 2007, section 2.3); shrinking one class, then
    both, meets them exactly.
    """
    t, cost, _ = frame
    positive, negative = jnp.where(jnp.stack([t > 0, t < 0]), pulls[None, :], 0).sum(1)
    pulls = pulls * jnp.minimum(1, jnp.where(t > 0, negative / positive, positive / negative))
    share = pulls / jnp.maximum(1, jnp.max(jnp.abs((t * pulls) @ x) / cost)) / C
    return -C * (xlogy(share, share) + xlog1py(1 - share, -share)).sum()


def _roundings(frame, state, model):
    """Returns what a caller may get, float32: weights with exact zeros, all of them, the intercept.

    A weight is pinned to zero where its own term in the matrix outweighs the data's; not if that
    costs, as where its column alone bends the loss of a row that fits too well to show it.
    """
    pinned = model.give * model.diagonal < 1
    w = jnp.stack([jnp.where(pinned, 0, state.w), state.w])
    w = (w * frame.cost[None, :]).astype(jnp.float32) / frame.cost[None, :]
    return w, state.b.astype(jnp.float32).astype(state.b.dtype)


def _better(C, w, points, tolerance):
    """Returns the weights that a caller gets of both, and the objective there."""
    value = points.objective(C)
    plain = value[1] < value[0] * (1 - 0.1 * tolerance)
    return jnp.where(plain, w[1], w[0]), jnp.where(plain, value[1], value[0])

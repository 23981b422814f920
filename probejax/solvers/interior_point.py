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
from jax.scipy.linalg import cho_solve
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, Int

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

    vectors: Float[Array, "P 6 k"]  # the weights; and where they are from: w, p, q, up, uq
    numbers: Float[Array, "P 4"]  # intercept, objective, gap, trips


class State(NamedTuple):
    """Where a lane is on its path."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    trips: Int[Array, ""]  # spent on this strength
    w: Float[Array, " k"]
    b: Float[Array, ""]
    p: Float[Array, " k"]
    q: Float[Array, " k"]
    up: Float[Array, " k"]
    uq: Float[Array, " k"]
    ridge: Float[Array, ""]  # in units of the least
    decrement: Float[Array, ""]  # what Newton's method has left to do
    bound: Float[Array, ""]  # the highest lower bound of the minimum so far
    least: Float[Array, ""]  # gap at this strength so far
    idle: Int[Array, ""]  # trips since it fell much
    path: Path


class _Model(NamedTuple):
    """The Newton model of one trip."""

    centre: Float[Array, " k"]  # columns without it are blind to the intercept, which eliminates it
    curvature: Float[Array, " n"]
    total: Float[Array, ""]
    diagonal: Float[Array, " k"]
    give: Float[Array, " k"]  # how far a weight moves for a unit of its v
    solve: Callable


def start(frame, stage, w, b, margins) -> State:
    """Returns the state of a lane that starts its path at (w, b)."""
    steps, k, zero = len(frame.strengths), len(w), jnp.zeros(())
    path = Path(jnp.zeros((steps, 6, k)), jnp.zeros((steps, 4)))
    C = frame.strengths[jnp.minimum(stage, steps - 1)]
    central = _central(frame, C, w, margins)
    none, ridge, least = jnp.zeros((), int), jnp.full((), 10.0), jnp.full((), jnp.inf)
    return State(stage, none, w, b, *central, ridge, zero, zero, least, none, path)


def trip(x, frame, state, *, limits, precision) -> State:
    """Makes one step, judges what came out of it, and passes to the next strength if it will do.

    Args:
        x: scaled columns, [n, k], 0 on rows that do not count.
        frame: the lane.
        state: where it is.
        limits: relative duality gap that will do; trips after which anything does.
        precision: of the Gram matrix and its factor, "float32" or "float64".
    """
    t, strengths = frame.t, frame.strengths
    tolerance, max_trips = limits
    steps = len(strengths)
    C = strengths[jnp.minimum(state.stage, steps - 1)]
    margins = t * (x @ state.w + state.b)
    model = _model(x, frame, C, state, margins, precision)
    state = _step(x, frame, C, state, margins, model, tolerance)

    margins = t * (x @ state.w + state.b)
    pulls, decrement = _newton_dual(x, frame, C, state, margins, model)
    bound = _dual_value(x, frame, C, pulls)
    bound = jnp.where(bound > state.bound, bound, state.bound)  # and never NaN
    w, b, value = _rounded(x, frame, C, state, model, tolerance)
    gap = (value - bound) / value
    trips = state.trips + 1
    over = (gap <= tolerance) | (trips >= max_trips)
    idle = jnp.where(gap < _FELL * state.least, 0, state.idle + 1)
    least = jnp.fmin(gap, state.least)
    if x.dtype == jnp.float32:  # whose gaps are no smaller than their noise; `judge` will see
        complementarity = state.p @ state.up + state.q @ state.uq
        centred = complementarity <= _CENTRED * tolerance * value
        stuck = (idle >= _PATIENCE) & (centred | (idle >= 3 * _PATIENCE)) & (least < _NOISE)
        over = (over & centred) | stuck | (trips >= max_trips)

    slot = jnp.where(over, state.stage, steps)  # past the end: dropped
    vectors = jnp.stack([w, state.w, state.p, state.q, state.up, state.uq])
    found = Path(vectors, jnp.stack([b, value, gap, trips.astype(x.dtype)]))
    path = jax.tree.map(lambda old, new: old.at[slot].set(new, mode="drop"), state.path, found)
    stage = jnp.minimum(state.stage + over, steps)
    central = _central(frame, strengths[jnp.minimum(stage, steps - 1)], state.w, margins)
    fresh = dict(zip(("p", "q", "up", "uq"), central, strict=True))
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
        state = State(
            **dict(zip(("w", "p", "q", "up", "uq"), found.vectors[1:], strict=True)),
            **dict.fromkeys(("decrement", "bound", "least"), zero),
            **dict.fromkeys(("stage", "trips", "idle"), jnp.zeros((), int)),
            b=found.numbers[0],
            ridge=jnp.ones(()),
            path=found,
        )
        margins = frame.t * (x @ state.w + state.b)
        model = _model(x, frame, C, state, margins, x.dtype.name)
        pulls, _ = _newton_dual(x, frame, C, state, margins, model)
        w, b, value = _rounded(x, frame, C, state, model, tolerance)
        gap = (value - _dual_value(x, frame, C, pulls)) / value
        numbers = jnp.stack([b, value, gap, found.numbers[3]])
        return Path(found.vectors.at[0].set(w), numbers)

    path = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, zero.dtype)), path)
    return jax.vmap(one)(frame.strengths, path)


def _objective(frame, C, w, margins):
    return frame.cost @ jnp.abs(w) + C * (frame.t**2 @ jax.nn.softplus(-margins))


def _central(frame, C, w, margins):
    """Returns (p, q, up, uq) with p up = q uq = mu, p - q = w, up + uq = 2 cost, for a mid mu."""
    cost = frame.cost
    mu = _START * _objective(frame, C, w, margins) / (2 * len(w))
    root = mu + jnp.sqrt(mu**2 + (cost * w) ** 2)
    large = cost + cost**2 * jnp.abs(w) / root
    small = 2 * mu * cost**2 / (root * large)  # the same with a minus, without cancellation
    up, uq = jnp.where(w > 0, small, large), jnp.where(w > 0, large, small)
    return mu / up, mu / uq, up, uq


def _model(x, frame, C, state, margins, precision):
    curvature = C * frame.t**2 * jax.nn.sigmoid(-margins) * jax.nn.sigmoid(margins)
    total = jnp.maximum(curvature.sum(), _TINY)
    centre = curvature @ x / total
    root = (jnp.sqrt(curvature)[:, None] * (x - centre[None, :])).astype(precision)
    hessian = jnp.matmul(root.T, root, precision="highest")
    diagonal = jnp.diagonal(hessian).astype(x.dtype)
    give = state.p / state.up + state.q / state.uq
    extra = 1 / give + _RIDGE[precision] * state.ridge * diagonal
    size = jax.lax.rsqrt(diagonal + extra)  # to a unit diagonal
    scale, rest = size.astype(precision), (extra * size**2).astype(precision)
    factor = jnp.linalg.cholesky(hessian * scale[:, None] * scale[None, :] + jnp.diag(rest))
    solve = lambda r: size * cho_solve((factor, True), (size * r).astype(precision))
    return _Model(centre, curvature, total, diagonal, give, solve)


def _step(x, frame, C, state, margins, model, tolerance):
    """Moves the state by Mehrotra's predictor and corrector."""
    w, p, q, up, uq = state.w, state.p, state.q, state.up, state.uq
    pulls = C * frame.t * jax.nn.sigmoid(-margins)
    balance = pulls.sum()
    force = pulls @ x - balance * model.centre

    def direction(cp, cq):
        """Solves the linearised conditions for complementarities p up = cp, q uq = cq."""
        ep, eq = cp / up - p, cq / uq - q
        e = ep - eq + (p - q - w)
        dw = model.solve((up - uq) / 2 + force + e / model.give)
        dv = (dw - e) / model.give
        return dw, dv, ep + p * dv / up, eq - q * dv / uq

    def reach(dv, dp, dq):
        """Returns how far the primal and the dual may go before they leave their domain."""
        ratio = lambda a, d: jnp.min(jnp.where(d < 0, a / jnp.where(d < 0, -d, 1), jnp.inf))
        return jnp.minimum(ratio(p, dp), ratio(q, dq)), jnp.minimum(ratio(up, -dv), ratio(uq, dv))

    comp = p @ up + q @ uq
    _, dv, dp, dq = direction(0, 0)
    primal, dual = (jnp.minimum(1, r) for r in reach(dv, dp, dq))
    affine = (p + primal * dp) @ (up - dual * dv) + (q + primal * dq) @ (uq + dual * dv)
    floor = _FLOOR * jnp.maximum(state.decrement, tolerance * _objective(frame, C, w, margins))
    mu = jnp.clip(jnp.maximum((affine / comp) ** 3, floor / comp), 0, 1) * comp / (2 * len(w))
    # The second-order term presumes a full step: it counts as far as the predictor reached.
    bend = primal * dual * dv
    dw, dv, dp, dq = direction(mu + bend * dp, mu - bend * dq)
    primal, dual = (jnp.minimum(1, _BOUNDARY * r) for r in reach(dv, dp, dq))
    db = balance / model.total - model.centre @ dw
    share = _search(x, frame, C, mu, w, margins, primal * dw, primal * db, _SLACK * comp)

    # A factor that broke down, or a step of no use, moves nothing: a larger ridge is the remedy.
    sound = jnp.isfinite(dw).all() & jnp.isfinite(dv).all() & (share > 0)
    move = lambda a, da, length: a + jnp.where(sound, share * length * da, 0)
    return state._replace(
        w=move(w, dw, primal),
        b=move(state.b, db, primal),
        p=move(p, dp, primal),
        q=move(q, dq, primal),
        up=move(up, -dv, dual),
        uq=move(uq, dv, dual),
        ridge=jnp.where(sound, jnp.maximum(state.ridge / 3, 1), state.ridge * 100),
    )


def _search(x, frame, C, mu, w, margins, dw, db, slack):
    """Returns the longest share of a step after which the smoothed objective has not risen much.

    Only curvature that the Newton model does not see cuts a step: a row that fitted so well that it
    weighed nothing, and no longer does. The smoothing is that of the barrier at this mu.
    """
    t, cost = frame.t, frame.cost
    shares, shift = jnp.asarray(_LENGTHS, x.dtype), t * (x @ dw + db)

    def smooth(w):
        root = jnp.sqrt(mu**2 + (cost * w) ** 2)
        return (root - mu * jnp.log(mu + root)).sum()

    losses = jax.nn.softplus(-margins[None, :] - shares[:, None] * shift[None, :])
    rise = C * (losses - jax.nn.softplus(-margins)[None, :]) @ t**2
    rise = rise + jax.vmap(smooth)(w[None, :] + shares[:, None] * dw[None, :]) - smooth(w)
    fine = rise <= slack + 1e-6 * _objective(frame, C, w, margins)
    return jnp.where(fine.any(), shares[jnp.argmax(fine)], 0)


def _newton_dual(x, frame, C, state, margins, model):
    """Returns the dual half of the next Newton step, and the decrement of that step.

    A Newton step meets linear constraints, such as the dual's, exactly; one refinement makes up for
    the rounding of the factor.
    """
    t, half = frame.t, (state.up - state.uq) / 2
    pulls = C * t**2 * jax.nn.sigmoid(-margins)
    decrements = []
    for _ in range(2):
        balance = t @ pulls
        residual = half + (t * pulls) @ x - balance * model.centre
        dw = model.solve(residual)
        half = half - dw / model.give
        decrements.append(residual @ dw + balance**2 / model.total)
        pulls = pulls - model.curvature * t * (x @ dw - model.centre @ dw + balance / model.total)
    return jnp.clip(pulls, 0, C * t**2), decrements[0]


def _dual_value(x, frame, C, pulls):
    """Returns a lower bound on the minimum from pulls that nearly meet the dual's constraints.

    The dual maximises the entropy C sum_i h(a_i / C) over 0 <= a_i <= C with sum_i t_i a_i = 0 and
    |sum_i t_i a_i x_ij| <= cost_j (Koh, Kim and Boyd 2007, section 2.3); shrinking one class, then
    both, meets them exactly.
    """
    t, cost, _ = frame
    positive, negative = jnp.where(t > 0, pulls, 0).sum(), jnp.where(t < 0, pulls, 0).sum()
    pulls = pulls * jnp.minimum(1, jnp.where(t > 0, negative / positive, positive / negative))
    share = pulls / jnp.maximum(1, jnp.max(jnp.abs((t * pulls) @ x) / cost)) / C
    return -C * (xlogy(share, share) + xlog1py(1 - share, -share)).sum()


def _rounded(x, frame, C, state, model, tolerance):
    """Returns what a caller gets: float32 weights with exact zeros, and the objective there."""
    # A weight is pinned to zero where its own term in the matrix outweighs the data's; not if that
    # costs, as where its column alone bends the loss of a row that fits too well to show it.
    pinned = model.give * model.diagonal < 1
    w = jnp.stack([jnp.where(pinned, 0, state.w), state.w])
    w = (w * frame.cost[None, :]).astype(jnp.float32) / frame.cost[None, :]
    b = state.b.astype(jnp.float32).astype(x.dtype)
    margins = frame.t[None, :] * (w @ x.T + b)
    sparse, dense = (_objective(frame, C, w[i], margins[i]) for i in range(2))
    plain = dense < sparse * (1 - 0.1 * tolerance)
    return jnp.where(plain, w[1], w[0]), b, jnp.where(plain, dense, sparse)

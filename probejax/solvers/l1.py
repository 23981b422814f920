"""L1 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  |w|_1 + C sum_i log(1 + exp(-t_i (z_i.w + b))),   t_i = +-1,  b unpenalised.

Columns are centred and scaled to unit deviation, which leaves the problem as it is once weight j
costs lambda_j = 1 / deviation_j instead of 1. Mehrotra's predictor-corrector interior point method
then works on w = p - q with p, q >= 0 and their slacks yp = lambda + v, yq = lambda - v, where v is
the wanted gradient of the loss (Koh, Kim and Boyd 2007 solve the same problem by a barrier alone).
A trip costs one weighted Gram matrix of the columns and one Cholesky factor.

A lane walks its own path from strong to weak regularisation inside one flat loop: it starts the
next strength in the trip after it converged at the last, so lanes need about the same trips in all.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jax.scipy.special import xlog1py, xlogy
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import codes
from probejax.solvers.codes import Solution

_TAUS = 0.5 ** np.arange(7)  # step lengths that the line search looks at, all at once
_BOUNDARY = 0.99  # share of the way to the boundary that a step may go
_START = 0.1  # complementarity at the start of a strength, as a share of the objective
_FLOOR = 0.2
_SLACK = 0.03
_DAMPING = 1e-13  # of the diagonal, against columns that repeat each other
_SHRINK = 4  # the batch shrinks by this factor when that many lanes are done


def solve_path(
    z: Float[Array, "L n k"],
    mask: Bool[Array, "L n"],
    y: Int[Array, "L n"],
    C: Float[Array, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    mesh: Mesh | None = None,
) -> Solution:
    """Solves every lane at every strength in C.

    Args:
        z: features, at any scale.
        mask: True on the rows that count; the others may hold anything.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        mesh: devices over which the lanes are spread; None is one device.

    Returns:
        A solution with axes [L, P, ...].
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.broadcast_to(np.asarray(C, np.float64)[order], (len(y), len(order)))
    path = _solve(z, mask, y, strengths, None, tolerance, max_trips, mesh)
    back = np.argsort(order)
    return jax.tree.map(lambda leaf: leaf[:, back], path)


def solve(
    z: Float[Array, "L n k"],
    mask: Bool[Array, "L n"],
    y: Int[Array, "L n"],
    C: Float[Array, " L"],
    *,
    warm: tuple[Float[Array, "L k"], Float[Array, " L"]] | None = None,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    mesh: Mesh | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`, plus a start (w, b)."""
    strengths = np.asarray(C, np.float64)[:, None]
    path = _solve(z, mask, y, strengths, warm, tolerance, max_trips, mesh)
    return jax.tree.map(lambda leaf: leaf[:, 0], path)


class _Problem(NamedTuple):
    """One lane in centred and scaled columns; t is 0 on rows that do not count."""

    x: Float[Array, "n k"]
    t: Float[Array, " n"]
    cost: Float[Array, " k"]
    strengths: Float[Array, " P"]


class _State(NamedTuple):
    """Where one lane is on its path, and what it has found (`path_*`)."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    trips: Int[Array, ""]
    w: Float[Array, " k"]
    b: Float[Array, ""]
    p: Float[Array, " k"]
    q: Float[Array, " k"]
    yp: Float[Array, " k"]
    yq: Float[Array, " k"]
    decrement: Float[Array, ""]  # what the next Newton step still promises
    path_w: Float[Array, "P k"]
    path_b: Float[Array, " P"]
    path_value: Float[Array, " P"]
    path_gap: Float[Array, " P"]
    path_trips: Int[Array, " P"]


def _solve(z, mask, y, strengths, warm, tolerance, max_trips, mesh):
    lanes, _, k = z.shape
    with jax.enable_x64(True):
        z, mask, y = jnp.asarray(z, jnp.float32), jnp.asarray(mask), jnp.asarray(y)
        if warm is None:
            warm = (jnp.zeros((lanes, k)), jnp.full(lanes, jnp.nan))
        problems, states, frame = _prepare(z, mask, y, jnp.asarray(strengths), warm)
        states = _walk(problems, states, tolerance, max_trips, mesh)
        return _collect(states, frame, jnp.full(lanes, tolerance))


def _walk(problems, states, tolerance, max_trips, mesh):
    """Runs all lanes to the end of their paths; done lanes leave the batch in between.

    The widths of the batch depend on the number of lanes alone, so that other data of the same
    shape compile nothing.
    """
    devices = 1 if mesh is None else mesh.size
    lanes = np.arange(len(states.stage))
    width = len(lanes)
    while True:
        width = -(-width // devices) * devices
        spare = width // (_SHRINK * devices) if width > 4 * devices else 0
        batch = np.resize(lanes, width) if len(lanes) else np.zeros(width, int)
        states, stage = _run(problems, states, batch, spare, tolerance, max_trips, mesh)
        if spare == 0:
            return states
        lanes = np.flatnonzero(np.asarray(stage) < problems.strengths.shape[1])
        width = spare * devices


@partial(jax.jit, static_argnames=("max_trips", "mesh"))
def _run(problems, states, batch, spare, tolerance, max_trips, mesh):
    """Advances the lanes in `batch` until at most `spare` per device are not done."""
    trip = partial(_trip, tolerance=tolerance, max_trips=max_trips)

    def loop(problems, states):
        def busy(states):
            return (states.stage < problems.strengths.shape[1]).sum() > spare

        return jax.lax.while_loop(busy, lambda states: jax.vmap(trip)(problems, states), states)

    if mesh is not None:
        spec = PartitionSpec(mesh.axis_names)
        loop = jax.shard_map(loop, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    take = partial(jax.tree.map, lambda leaf: leaf[batch])
    moved = loop(take(problems), take(states))
    states = jax.tree.map(lambda leaf, new: leaf.at[batch].set(new), states, moved)
    return states, states.stage


@jax.jit
@jax.vmap
def _prepare(z, mask, y, strengths, warm):
    z = jnp.where(mask[:, None], z, 0).astype(jnp.float64)
    finite = jnp.isfinite(z).all()
    z = jnp.where(finite, z, 0)
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    positive, negative = (t > 0).sum(), (t < 0).sum()
    usable = finite & (positive > 0) & (negative > 0)
    rows = jnp.maximum(mask.sum(), 1)
    scale = jnp.sqrt((z * z).sum(0) / rows)
    scale = jnp.where(scale > 0, scale, 1)
    problem = _Problem(z / scale[None, :], t, 1 / scale, strengths)

    odds = jnp.log(jnp.maximum(positive, 1) / jnp.maximum(negative, 1))
    w = warm[0] * scale
    b = jnp.where(jnp.isnan(warm[1]), odds, warm[1])
    steps, k = len(strengths), z.shape[1]
    state = _State(
        jnp.where(usable, 0, steps), jnp.zeros((), int), w, b, *_central(problem, strengths[0], w, b), jnp.zeros(()),
        jnp.zeros((steps, k)), *(jnp.zeros(steps),) * 3, jnp.zeros(steps, int),
    )  # fmt: skip
    code = jnp.where(finite, jnp.where(usable, codes.CONVERGED, codes.DEGENERATE), codes.NON_FINITE)
    return problem, state, (scale, code)


def _objective(problem, C, w, margins):
    return problem.cost @ jnp.abs(w) + C * (problem.t**2 @ jax.nn.softplus(-margins))


def _central(problem, C, w, b):
    """Returns (p, q, yp, yq) with p yp = q yq = mu, p - q = w, yp + yq = 2 cost, for a mid mu."""
    cost = problem.cost
    margins = problem.t * (problem.x @ w + b)
    mu = _START * _objective(problem, C, w, margins) / (2 * len(w))
    root = mu + jnp.sqrt(mu**2 + (cost * w) ** 2)
    v = cost**2 * w / root  # minus the gradient that balances the penalty, smoothed by mu
    large = cost + jnp.abs(v)
    small = 2 * mu * cost**2 / (root * large)  # cost - |v| without cancellation
    yp, yq = jnp.where(w > 0, small, large), jnp.where(w > 0, large, small)
    return mu / yp, mu / yq, yp, yq


def _trip(problem, state, *, tolerance, max_trips):
    """One predictor-corrector step of one lane, and the passage to its next strength."""
    x, t, cost, strengths = problem
    w, b, p, q, yp, yq = state[2:8]
    steps, k = state.path_w.shape
    C = strengths[jnp.minimum(state.stage, steps - 1)]

    margins = t * (x @ w + b)
    curvature = C * t**2 * jax.nn.sigmoid(-margins) * jax.nn.sigmoid(margins)
    total = jnp.maximum(curvature.sum(), 1e-300)
    # Columns without their weighted mean are blind to the intercept, which eliminates it.
    centre = curvature @ x / total
    x = x - centre[None, :]
    root = jnp.sqrt(curvature)[:, None] * x
    hessian = root.T @ root
    diagonal = jnp.diagonal(hessian)
    give = p / yp + q / yq  # how far a weight moves for a unit of its v
    matrix = hessian + jnp.diag(1 / give + _DAMPING * diagonal)
    factor = (jnp.linalg.cholesky(matrix), True)

    def pull(margins):
        """Returns minus the gradient of the loss, for the weights and for the intercept."""
        pulls = C * t * jax.nn.sigmoid(-margins)
        return pulls @ x, pulls.sum()

    force, balance = pull(margins)

    def direction(cp, cq):
        """Solves the linearised conditions for complementarities p yp = cp, q yq = cq."""
        ep, eq = cp / yp - p, cq / yq - q
        e = ep - eq + (p - q - w)
        dw = cho_solve(factor, (yp - yq) / 2 + force + e / give)
        dv = (e - dw) / give
        return dw, dv, ep - p * dv / yp, eq + q * dv / yq

    def reach(dv, dp, dq):
        """Returns how far the primal and the dual may go, at most 1."""
        ratio = lambda a, d: jnp.min(jnp.where(d < 0, a / jnp.where(d < 0, -d, 1), jnp.inf))
        primal = jnp.minimum(ratio(p, dp), ratio(q, dq))
        dual = jnp.minimum(ratio(yp, dv), ratio(yq, -dv))
        return jnp.minimum(primal, 1 / _BOUNDARY), jnp.minimum(dual, 1 / _BOUNDARY)

    comp = p @ yp + q @ yq
    _, dv, dp, dq = direction(0, 0)
    primal, dual = (jnp.minimum(1, r) for r in reach(dv, dp, dq))
    affine = (p + primal * dp) @ (yp + dual * dv) + (q + primal * dq) @ (yq - dual * dv)
    objective = _objective(problem, C, w, margins)
    floor = _FLOOR * jnp.maximum(state.decrement, tolerance * objective)
    mu = jnp.clip(jnp.maximum((affine / comp) ** 3, floor / comp), 0, 1) * comp / (2 * k)
    # The second-order term presumes a full step: it counts only as far as the predictor reached.
    bend = primal * dual * dv
    dw, dv, dp, dq = direction(mu - bend * dp, mu + bend * dq)
    primal, dual = (_BOUNDARY * r for r in reach(dv, dp, dq))

    # Smoothed objective along the step; only a clear rise, from curvature unseen here, cuts it.
    taus = jnp.asarray(_TAUS)[:, None] * primal
    root = lambda w: jnp.sqrt(mu**2 + (cost * w) ** 2)
    smooth = lambda w: (root(w) - mu * jnp.log(mu + root(w))).sum()
    shift = taus * (t * (x @ dw + balance / total))[None, :]
    rise = jax.nn.softplus(-margins[None, :] - shift) - jax.nn.softplus(-margins)[None, :]
    rise = C * rise @ t**2 + jax.vmap(smooth)(w[None, :] + taus * dw[None, :]) - smooth(w)
    fine = rise <= _SLACK * comp + 1e-6 * objective
    tau = jnp.where(fine.any(), jnp.asarray(_TAUS)[jnp.argmax(fine)], _TAUS[-1])
    primal, dual = tau * primal, tau * dual

    w, b = w + primal * dw, b + primal * (balance / total - centre @ dw)
    p, q, yp, yq = p + primal * dp, q + primal * dq, yp + dual * dv, yq - dual * dv
    margins = t * (problem.x @ w + b)
    force, balance = pull(margins)
    step = cho_solve(factor, (yp - yq) / 2 + force)
    decrement = ((yp - yq) / 2 + force) @ step + balance**2 / total
    pulls = C * t**2 * jax.nn.sigmoid(-margins) - curvature * t * (x @ step + balance / total)
    bound = _dual_value(problem, C, jnp.clip(pulls, 0, C * t**2))

    # A weight is zero where its own term in the matrix outweighs the data's. What is judged is what
    # is returned: the rounded numbers.
    found = jnp.where(give * diagonal > 1, w, 0)
    found = jnp.float32(found * cost) / cost
    found_b = jnp.float32(b)
    value = _objective(problem, C, found, t * (problem.x @ found + found_b))
    gap = (value - bound) / value
    trips = state.trips + 1
    over = (gap <= tolerance) | (trips >= max_trips)

    slot = jnp.where(over, state.stage, steps)  # past the end: dropped
    stage = jnp.minimum(state.stage + over, steps)
    fresh = _central(problem, strengths[jnp.minimum(stage, steps - 1)], w, b)
    return _State(
        stage, jnp.where(over, 0, trips), w, b,
        *(jnp.where(over, new, old) for new, old in zip(fresh, (p, q, yp, yq), strict=True)),
        jnp.where(over, 0, decrement),
        state.path_w.at[slot].set(found, mode="drop"),
        state.path_b.at[slot].set(found_b, mode="drop"),
        state.path_value.at[slot].set(value, mode="drop"),
        state.path_gap.at[slot].set(gap, mode="drop"),
        state.path_trips.at[slot].set(trips, mode="drop"),
    )  # fmt: skip


def _dual_value(problem, C, pulls):
    """Returns a lower bound on the minimum from residuals that nearly meet the dual's constraints.

    The dual is to maximise the entropy C sum_i h(a_i / C) over 0 <= a_i <= C with sum_i t_i a_i = 0
    and |sum_i t_i a_i x_ij| <= cost_j (Koh, Kim and Boyd 2007, section 2.3).
    """
    x, t, cost, _ = problem
    positive, negative = jnp.where(t > 0, pulls, 0).sum(), jnp.where(t < 0, pulls, 0).sum()
    pulls = pulls * jnp.minimum(1, jnp.where(t > 0, negative / positive, positive / negative))
    share = pulls / jnp.maximum(1, jnp.max(jnp.abs((t * pulls) @ x) / cost)) / C
    return -C * (xlogy(share, share) + xlog1py(1 - share, -share)).sum()


@jax.jit
@jax.vmap
def _collect(states, frame, tolerance):
    scale, code = frame
    done = jnp.where(states.path_gap <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
    code = jnp.where(code == codes.CONVERGED, done, code)
    found = (states.path_w / scale[None, :], states.path_b, states.path_value, states.path_gap)
    found = (leaf.astype(jnp.float32) for leaf in found)
    return Solution(*found, code.astype(jnp.int32), states.path_trips.astype(jnp.int32))

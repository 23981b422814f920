"""L1 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  |w|_1 + C sum_i log(1 + exp(-t_i (z_i.w + b))),   t_i = +-1,  b unpenalised.

Columns are scaled to unit size, which leaves the problem as it is once weight j costs 1 / size_j.
Mehrotra's predictor-corrector interior point method then works on w = p - q with p, q >= 0, whose
slacks are up = cost - v and uq = cost + v; v is the pull of the data on the weights that the
current dual point allows (Koh, Kim and Boyd 2007 solve the same problem with a plain barrier). A
trip costs one weighted Gram matrix and one Cholesky factor, both in float32; the vectors they
correct are float64, so their rounding costs trips, not accuracy.

A lane walks its own path from strong to weak regularisation inside one flat loop: the trip after it
converged at one strength is its first at the next. So lanes need about the same number of trips in
all, and a batch of few strides through many: a slot whose lane is done takes the next one.
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

_LENGTHS = 0.5 ** np.arange(7)  # shares of a step that the line search looks at, all at once
_BOUNDARY = 0.99  # share of the way to the boundary that a step may go
_START = 0.1  # complementarity at the start of a strength, as a share of the objective
_FLOOR = 0.2  # complementarity stays above this share of what Newton's method has left to do
_SLACK = 0.03  # rise of the smoothed objective that passes, as a share of the complementarity
_RIDGE = (1e-7, 1e-6)  # least and first addition to the unit diagonal of the matrix


def solve_path(
    z: Float[Array, "L n k"],
    mask: Bool[Array, "L n"],
    y: Int[Array, "L n"],
    C: Float[Array, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch_bytes: int | None = None,
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
        batch_bytes: memory of the batch on one device, which sets how many lanes are in hand at any
            time; None is 4 MiB on a CPU, where they should fit its cache, else 1 GiB.
        mesh: devices over which the batch is spread; None is one device.

    Returns:
        A solution with axes [L, P, ...].
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.broadcast_to(np.asarray(C, np.float64)[order], (len(y), len(order)))
    path = _solve(z, mask, y, strengths, None, tolerance, max_trips, batch_bytes, mesh)
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
    batch_bytes: int | None = None,
    mesh: Mesh | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`, plus a start (w, b)."""
    strengths = np.asarray(C, np.float64)[:, None]
    path = _solve(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes, mesh)
    return jax.tree.map(lambda leaf: leaf[:, 0], path)


class _Frame(NamedTuple):
    """What does not change about one lane, but for its features.

    Columns z_j enter as x_j = cost_j z_j, of unit size, and cost_j |w_j| is what a weight costs.
    """

    t: Float[Array, " n"]  # labels +-1; 0 on rows that do not count
    cost: Float[Array, " k"]
    strengths: Float[Array, " P"]


class _State(NamedTuple):
    """Where one lane is on its path, and what it has found (the last five)."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    trips: Int[Array, ""]  # spent on this strength
    w: Float[Array, " k"]
    b: Float[Array, ""]
    p: Float[Array, " k"]
    q: Float[Array, " k"]
    up: Float[Array, " k"]
    uq: Float[Array, " k"]
    ridge: Float[Array, ""]
    decrement: Float[Array, ""]  # what Newton's method has left to do
    path_w: Float[Array, "P k"]
    path_b: Float[Array, " P"]
    path_value: Float[Array, " P"]
    path_gap: Float[Array, " P"]
    path_trips: Int[Array, " P"]


def _solve(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes, mesh):
    lanes, _, k = z.shape
    with jax.enable_x64(True):
        z, mask, y = jnp.asarray(z, jnp.float32), jnp.asarray(mask), jnp.asarray(y)
        if warm is None:
            warm = (jnp.zeros((lanes, k)), jnp.full(lanes, jnp.nan))
        frames, states, code = _prepare(z, mask, y, jnp.asarray(strengths), warm)
        states = _walk(z, frames, states, tolerance, max_trips, batch_bytes, mesh)
        return _collect(states, frames.cost, code, jnp.full(lanes, tolerance))


@jax.jit
@jax.vmap
def _prepare(z, mask, y, strengths, warm):
    z = jnp.where(mask[:, None], z, 0).astype(jnp.float64)
    finite = jnp.isfinite(z).all()
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    positive, negative = (t > 0).sum(), (t < 0).sum()
    usable = finite & (positive > 0) & (negative > 0)
    code = jnp.where(finite, jnp.where(usable, codes.CONVERGED, codes.DEGENERATE), codes.NON_FINITE)
    t, z = jnp.where(usable, t, 0), jnp.where(usable, z, 0)
    size = jnp.sqrt((z * z).sum(0) / jnp.maximum(mask.sum(), 1))
    frame = _Frame(t, 1 / jnp.where(size > 0, size, 1), strengths)

    odds = jnp.log(jnp.maximum(positive, 1) / jnp.maximum(negative, 1))
    w, b = warm[0] / frame.cost, jnp.where(jnp.isnan(warm[1]), odds, warm[1])
    steps, k = len(strengths), z.shape[1]
    state = _State(
        jnp.where(usable, 0, steps), jnp.zeros((), int), w, b,
        *_central(frame, strengths[0], w, t * (z @ warm[0] + b)),
        jnp.full((), _RIDGE[1]), jnp.zeros(()),
        jnp.zeros((steps, k)), *(jnp.zeros(steps),) * 3, jnp.zeros(steps, int),
    )  # fmt: skip
    return frame, state, code


def _walk(z, frames, states, tolerance, max_trips, batch_bytes, mesh):
    """Runs all lanes to the end of their paths, a batch at a time."""
    lanes, n, k = z.shape
    steps = frames.strengths.shape[1]
    devices = 1 if mesh is None else mesh.size
    if batch_bytes is None:
        batch_bytes = 2**22 if jax.default_backend() == "cpu" else 2**30
    width = max(1, batch_bytes // (12 * n * k + 8 * k * k))  # x in both precisions, two matrices
    width = min(width, -(-lanes // devices))
    width = devices << (width - 1).bit_length()
    busy, waiting = np.arange(0), np.arange(lanes)
    while len(busy) + len(waiting):
        joining = width - len(busy)
        busy, waiting = np.append(busy, waiting[:joining]), waiting[joining:]
        slots = np.resize(busy, width)  # spare slots repeat a lane
        rest = width - max(devices, width // 4) if len(waiting) else 0
        batch = _take((z, frames, states), slots)
        moved = _advance(*batch, rest // devices, tolerance, max_trips, mesh)
        states = _put(states, slots, moved)
        busy = busy[np.asarray(moved.stage)[: len(busy)] < steps]
    return states


@jax.jit
def _take(tree, slots):
    return jax.tree.map(lambda leaf: leaf[slots], tree)


@partial(jax.jit, donate_argnames="states")
def _put(states, slots, moved):
    return jax.tree.map(lambda leaf, new: leaf.at[slots].set(new), states, moved)


@partial(jax.jit, static_argnames="mesh")
def _advance(z, frames, states, rest, tolerance, max_trips, mesh):
    """Advances a batch until at most `rest` of its lanes per device are not done."""

    def loop(z, frames, states, rest, tolerance, max_trips):
        # In float64 from here on; rows that do not count may hold anything.
        x = jnp.where(frames.t[:, :, None] != 0, z, 0) * frames.cost[:, None, :]
        trip = jax.vmap(partial(_trip, tolerance=tolerance, max_trips=max_trips))
        unfinished = lambda states: (states.stage < frames.strengths.shape[1]).sum() > rest
        return jax.lax.while_loop(unfinished, lambda states: trip(x, frames, states), states)

    if mesh is not None:
        lane, none = PartitionSpec(mesh.axis_names), PartitionSpec()
        specs = (lane,) * 3 + (none,) * 3
        loop = jax.shard_map(loop, mesh=mesh, in_specs=specs, out_specs=lane, check_vma=False)
    return loop(z, frames, states, rest, tolerance, max_trips)


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


def _trip(x, frame, state, *, tolerance, max_trips):
    """One predictor-corrector step of one lane, and its passage to the next strength."""
    t, cost, strengths = frame
    w, b, p, q, up, uq = state[2:8]
    steps, k = state.path_w.shape
    C = strengths[jnp.minimum(state.stage, steps - 1)]
    margins = t * (x @ w + b)
    objective = _objective(frame, C, w, margins)
    curvature = C * t**2 * jax.nn.sigmoid(-margins) * jax.nn.sigmoid(margins)
    total = jnp.maximum(curvature.sum(), 1e-300)
    # Columns without their weighted mean are blind to the intercept, which eliminates it.
    centre = curvature @ x / total
    root = (jnp.sqrt(curvature)[:, None] * (x - centre[None, :])).astype(jnp.float32)
    hessian = jnp.matmul(root.T, root, precision="highest")
    diagonal = jnp.diagonal(hessian).astype(jnp.float64)
    give = p / up + q / uq  # how far a weight moves for a unit of its v
    solve = _factor(hessian, 1 / give + state.ridge * diagonal)

    def pull(margins):
        """Returns minus the gradient of the loss, for the weights and for the intercept."""
        pulls = C * t * jax.nn.sigmoid(-margins)
        return pulls @ x - pulls.sum() * centre, pulls.sum()

    force, balance = pull(margins)

    def direction(cp, cq):
        """Solves the linearised conditions for complementarities p up = cp, q uq = cq."""
        ep, eq = cp / up - p, cq / uq - q
        e = ep - eq + (p - q - w)
        dw = solve((up - uq) / 2 + force + e / give)
        dv = (dw - e) / give
        return dw, dv, ep + p * dv / up, eq - q * dv / uq

    def reach(dv, dp, dq):
        """Returns how far the primal and the dual may go before they leave their domain."""
        ratio = lambda a, d: jnp.min(jnp.where(d < 0, a / jnp.where(d < 0, -d, 1), jnp.inf))
        return jnp.minimum(ratio(p, dp), ratio(q, dq)), jnp.minimum(ratio(up, -dv), ratio(uq, dv))

    comp = p @ up + q @ uq
    _, dv, dp, dq = direction(0, 0)
    primal, dual = (jnp.minimum(1, r) for r in reach(dv, dp, dq))
    affine = (p + primal * dp) @ (up - dual * dv) + (q + primal * dq) @ (uq + dual * dv)
    floor = _FLOOR * jnp.maximum(state.decrement, tolerance * objective)
    mu = jnp.clip(jnp.maximum((affine / comp) ** 3, floor / comp), 0, 1) * comp / (2 * k)
    # The second-order term presumes a full step: it counts as far as the predictor reached.
    bend = primal * dual * dv
    dw, dv, dp, dq = direction(mu + bend * dp, mu - bend * dq)
    primal, dual = (jnp.minimum(1, _BOUNDARY * r) for r in reach(dv, dp, dq))
    shift = t * (x @ dw - centre @ dw + balance / total)
    share = _search(frame, C, mu, w, margins, primal * dw, primal * shift, _SLACK * comp)

    # A factor that broke down moves nothing and comes back with a larger ridge.
    sound = jnp.isfinite(dw).all() & jnp.isfinite(dv).all()
    move = lambda a, da, length: a + jnp.where(sound, share * length * da, 0)
    w, b = move(w, dw, primal), move(b, balance / total - centre @ dw, primal)
    p, q, up, uq = move(p, dp, primal), move(q, dq, primal), move(up, -dv, dual), move(uq, dv, dual)
    ridge = jnp.where(sound, jnp.maximum(state.ridge / 3, _RIDGE[0]), state.ridge * 100)

    margins = t * (x @ w + b)
    force, balance = pull(margins)
    residual = (up - uq) / 2 + force
    step = solve(residual)
    decrement = residual @ step + balance**2 / total
    # The dual half of that Newton step meets the dual's constraints up to rounding.
    pulls = C * t**2 * jax.nn.sigmoid(-margins)
    pulls = pulls - curvature * t * (x @ step - centre @ step + balance / total)
    bound = _dual_value(x, frame, C, jnp.clip(pulls, 0, C * t**2))
    # A weight is zero where its own term in the matrix outweighs the data's. What is judged is what
    # is returned: rounded numbers.
    found = (jnp.where(give * diagonal > 1, w, 0) * cost).astype(jnp.float32) / cost
    found_b = b.astype(jnp.float32).astype(jnp.float64)
    value = _objective(frame, C, found, t * (x @ found + found_b))
    gap = jnp.where(sound, (value - bound) / value, jnp.inf)
    trips = state.trips + 1
    over = (gap <= tolerance) | (trips >= max_trips)

    slot = jnp.where(over, state.stage, steps)  # past the end: dropped
    put = lambda path, found: path.at[slot].set(found, mode="drop")
    stage = jnp.minimum(state.stage + over, steps)
    fresh = _central(frame, strengths[jnp.minimum(stage, steps - 1)], w, margins)
    return _State(
        stage, jnp.where(over, 0, trips), w, b,
        *(jnp.where(over, new, old) for new, old in zip(fresh, (p, q, up, uq), strict=True)),
        ridge, jnp.where(over | ~sound, 0, decrement),
        *map(put, state[10:], (found, found_b, value, gap, trips)),
    )  # fmt: skip


def _factor(hessian, extra):
    """Returns a solver of (hessian + diag(extra)) s = r by a float32 factor of unit diagonal."""
    size = jax.lax.rsqrt(jnp.diagonal(hessian) + extra)
    small = size.astype(jnp.float32)
    unit = hessian * small[:, None] * small[None, :] + jnp.diag(
        (extra * size**2).astype(jnp.float32)
    )
    factor = (jnp.linalg.cholesky(unit), True)
    return lambda r: size * cho_solve(factor, (size * r).astype(jnp.float32))


def _search(frame, C, mu, w, margins, dw, shift, slack):
    """Returns the longest share of a step after which the smoothed objective has not risen much.

    Only curvature that the Newton model does not see cuts a step: a row that fitted so well that it
    weighed nothing, and no longer does. The smoothing is that of the barrier at this mu.
    """
    t, cost = frame.t, frame.cost
    shares = jnp.asarray(_LENGTHS)

    def smooth(w):
        root = jnp.sqrt(mu**2 + (cost * w) ** 2)
        return (root - mu * jnp.log(mu + root)).sum()

    losses = jax.nn.softplus(-margins[None, :] - shares[:, None] * shift[None, :])
    rise = C * (losses - jax.nn.softplus(-margins)[None, :]) @ t**2
    rise = rise + jax.vmap(smooth)(w[None, :] + shares[:, None] * dw[None, :]) - smooth(w)
    fine = rise <= slack + 1e-6 * _objective(frame, C, w, margins)
    return jnp.where(fine.any(), shares[jnp.argmax(fine)], shares[-1])


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


@jax.jit
@jax.vmap
def _collect(states, cost, code, tolerance):
    done = jnp.where(states.path_gap <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
    code = jnp.where(code == codes.CONVERGED, done, code)
    found = (states.path_w * cost[None, :], states.path_b, states.path_value, states.path_gap)
    found = (leaf.astype(jnp.float32) for leaf in found)
    return Solution(*found, code.astype(jnp.int32), states.path_trips.astype(jnp.int32))

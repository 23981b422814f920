"""L1 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  |w|_1 + C sum_i log(1 + exp(-t_i (z_i.w + b))),   t_i = +-1,  b unpenalised.

`interior_point` holds the mathematics of one lane; here lanes meet in batches. A lane walks its own
path from strong to weak regularisation inside one flat loop: the trip after it converged at one
strength is its first at the next. So lanes need about the same number of trips in all, and a batch
of few strides through many: a slot whose lane is done takes the next one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import arithmetic, codes, engine
from probejax.solvers.codes import Solution
from probejax.solvers.engine import each
from probejax.solvers.interior_point import Frame, judge, start, trip
from probejax.solvers.lanes import checked
from probejax.solvers.spread import over_lanes

_STEPS = 16  # paths are padded to a multiple of this, so that all lengths share a program
_LANES = 32  # that go together, at most
_ENOUGH = 0.1  # of the tolerance, for a gap in float32
_PATIENCE = 25  # trips at one strength after which a lane goes on in float64


def solve_path(
    z: Float[Array | np.ndarray, "L n k"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 100,
    batch_bytes: int | None = None,
) -> Solution:
    """Solves every lane at every strength in C.

    Args:
        z: features, at any scale.
        mask: True on the rows that count; the others may hold anything.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        batch_bytes: memory of the batch, which sets how many lanes are in hand at any
            time; None is 4 MiB on a CPU, where they should fit its cache, else 1 GiB.

    Returns:
        A solution with axes [L, P, ...].

    Raises:
        ValueError: a label that counts is neither 0 nor 1, a strength is not positive and finite,
            or shapes differ.
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.broadcast_to(np.asarray(C, np.float64)[order], (len(y), len(order)))
    path = _solve(z, mask, y, strengths, None, tolerance, max_trips, batch_bytes)
    back = np.argsort(order)
    return jax.tree.map(lambda leaf: leaf[:, back], path)


def solve(
    z: Float[Array | np.ndarray, "L n k"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    warm: tuple[Float[Array | np.ndarray, "L k"], Float[Array | np.ndarray, " L"]] | None = None,
    tolerance: float = 1e-6,
    max_trips: int = 100,
    batch_bytes: int | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`, plus a start (w, b)."""
    strengths = np.asarray(C, np.float64)[:, None]
    path = _solve(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes)
    return jax.tree.map(lambda leaf: leaf[:, 0], path)


def _solve(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes):
    lanes, n, k = z.shape
    mask, y = checked(mask, y, strengths, (lanes, n))
    if warm is None:
        warm = (np.zeros((lanes, k)), np.full(lanes, np.nan))
    problems = (np.asarray(z, np.float32), mask, y, strengths, warm)
    settings = (tolerance, max_trips, batch_bytes)
    if arithmetic.chosen() == "float64":
        return engine.whole(_in_float64, problems, *settings)
    found = engine.whole(_in_float32, problems, *settings)
    poor = found.code == codes.MAX_TRIPS
    left = np.flatnonzero(poor.any(axis=1))
    arithmetic.count(poor.size, int(poor.sum()))
    if len(left):
        rest = jax.tree.map(lambda leaf: leaf[left], problems)
        with arithmetic.on_host():
            better = engine.whole(_in_float64, rest, *settings)
        jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), found, better)
    return found


def _in_float64(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes) -> Solution:
    """Walks with float32 factors as far as these carry, then with float64 ones."""
    with jax.enable_x64(True):
        kept, begun, first, width = _begin(z, mask, y, strengths, warm, batch_bytes)
        frames, states, code = begun
        for precision in ("float32", "float64"):
            states = _walk(kept, frames, states, (tolerance, max_trips), precision, width)
        return _ended(states.path, frames, code, tolerance, first)


def _in_float32(z, mask, y, strengths, warm, tolerance, max_trips, batch_bytes) -> Solution:
    """Walks in float32 throughout; the host judges the results in float64."""
    kept, begun, first, width = _begin(z, mask, y, strengths, warm, batch_bytes)
    frames, states, code = begun
    limits = (_ENOUGH * tolerance, max_trips)
    states = _walk(kept, frames, states, limits, "float32", width)
    with arithmetic.judging():
        path = each(_judged, (z, frames, states.path), min(width, _LANES), tolerance)
        return _ended(path, frames, code, tolerance, first)


def _begin(z, mask, y, strengths, warm, batch_bytes):
    """Returns the features where they stay; frames, states and codes of lanes; and two numbers.

    These are the first strength of a path, and how many lanes go together.
    """
    first = -strengths.shape[1] % _STEPS
    strengths = np.pad(strengths, ((0, 0), (first, 0)), mode="edge").astype(_dtype())
    warm = tuple(np.asarray(part, _dtype()) for part in warm)
    width, kept = _width(z.shape[1], z.shape[2], batch_bytes), engine.settled(z)
    lanes = (np.arange(len(z)), mask, y, strengths, warm)
    load = lambda which, *others: (engine.take(kept, which), *others)
    return kept, each(_prepare, lanes, width, first, load=load), first, width


def _dtype():
    return np.float64 if jax.config.jax_enable_x64 else np.float32  # pyright: ignore


def _ended(path, frames, code, tolerance, first) -> Solution:
    """Returns what the caller gets of the paths that lanes went, from the first strength on."""
    found = each(_collect, (path, frames.cost, code), _LANES, tolerance)
    return jax.tree.map(lambda leaf: leaf[:, first:], found)


@over_lanes(shared=("tolerance",))
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def _judged(z, frame, path, tolerance):
    frame = jax.tree.map(lambda leaf: leaf.astype(float), frame)
    x = jnp.where(frame.t[:, None] != 0, z, 0) * frame.cost[None, :]
    return judge(x, frame, path, tolerance)


@over_lanes(shared=("first",))
@partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, None))
def _prepare(z, mask, y, strengths, warm, first):
    """Returns the lane's frame, its first state and the code it has unless it can be fitted."""
    z = jnp.where(mask[:, None], z, 0).astype(float)
    finite = jnp.isfinite(z).all()
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)
    positive, negative = (t > 0).sum(), (t < 0).sum()
    usable = finite & (positive > 0) & (negative > 0)
    code = jnp.where(finite, jnp.where(usable, codes.CONVERGED, codes.DEGENERATE), codes.NON_FINITE)
    t, z = jnp.where(usable, t, 0), jnp.where(usable, z, 0)
    size = jnp.sqrt((z * z).sum(0) / jnp.maximum(mask.sum(), 1))
    frame = Frame(t, 1 / jnp.where(size > 0, size, 1), strengths)

    odds = jnp.log(jnp.maximum(positive, 1) / jnp.maximum(negative, 1))
    b = jnp.where(jnp.isnan(warm[1]), odds, warm[1])
    stage = jnp.where(usable, first, len(strengths))
    return frame, start(frame, stage, warm[0] / frame.cost, b, t * (z @ warm[0] + b)), code


def _width(n: int, k: int, batch_bytes: int | None) -> int:
    """Returns how many lanes go together, a power of two."""
    cpu = jax.default_backend() == "cpu"
    room = batch_bytes or (2**22 if cpu else 2**30)
    width = max(1, room // (12 * n * k + 8 * k * k))  # x in both precisions, two matrices
    return min(1 << (width - 1).bit_length(), _LANES if cpu else 8 * _LANES)


def _walk(z, frames, states, limits, precision, width):
    """Runs all lanes to the end of their paths, or of their patience, a batch at a time."""
    waiting = np.flatnonzero(states.stage < frames.strengths.shape[1])
    if not len(waiting):
        return states
    own = (z, engine.settled(frames))

    def advance(slots, moved, waiting, _):
        rest = width - max(1, width // 4) if waiting else 0  # of a device
        return _advance(*(engine.take(part, slots) for part in own), moved, rest, limits, precision)

    return engine.drive(advance, states, waiting, (width,))


@over_lanes(static=("precision",), shared=("rest", "limits"))
def _advance(z, frames, states, rest, limits, precision):
    """Advances a batch until at most `rest` of its lanes run; also tells which do."""
    patient = precision == "float64" or states.w.dtype == jnp.float32  # nothing comes after

    def running(states):
        left = states.stage < frames.strengths.shape[1]
        return left if patient else left & (states.trips < _PATIENCE)

    def moved(states):
        new = jax.vmap(advance)(x, frames, states)
        if patient:  # a lane at its end is not moved by further trips
            return new
        runs = running(states)
        kept = lambda old, new: jnp.where(runs.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        return jax.tree.map(kept, states, new)

    # In float64 from here on; rows that do not count may hold anything.
    x = jnp.where(frames.t[:, :, None] != 0, z, 0) * frames.cost[:, None, :]
    advance = partial(trip, limits=limits, precision=precision)
    states = jax.lax.while_loop(lambda states: running(states).sum() > rest, moved, states)
    return states, running(states)


@over_lanes(shared=("tolerance",))
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def _collect(path, cost, code, tolerance):
    w = path.vectors[:, 0] * cost[None, :]
    b, value, gap, trips = path.numbers.T
    sound = jnp.isfinite(w).all(axis=1) & jnp.isfinite(value) & jnp.isfinite(gap)
    done = jnp.where(gap <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
    done = jnp.where(sound, done, codes.NON_FINITE)
    code = jnp.where(code == codes.CONVERGED, done, code)
    f32 = partial(jnp.asarray, dtype=jnp.float32)
    return Solution(
        w=f32(w),
        b=f32(b),
        objective=f32(value),
        gap=f32(jnp.where(code <= codes.MAX_TRIPS, gap, jnp.nan)),
        code=code.astype(jnp.int32),
        trips=trips.astype(jnp.int32),
    )

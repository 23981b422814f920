"""L2 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem over a subset of the rows of a shared feature matrix:

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

Newton's method in sample space, w = sum_i a_i x_i: with the Gram matrix K of the lane's rows,
alpha_i = C sigmoid(-t_i f_i) and D = alpha (1 - alpha / C), a step solves

    (I + D K) da = -(a - t alpha) - D db,   sum a = 0

through the Cholesky factor of I + D^1/2 K D^1/2 (Rasmussen and Williams 2006, section 3.4). All of
it is float64: on labels that no plane separates, C times the Gram matrix reaches 1e10 beside the
identity, and a float32 factor loses the identity.

A lane walks its own path from strong to weak regularisation inside one flat loop: it starts on the
next strength in the trip after it converged on the last, so no lane waits at a strength.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.solvers import cholesky, codes
from probejax.solvers.codes import Solution

_STEPS = 0.5 ** np.arange(14)  # step lengths that the line search compares, all at once
_DAMPING = 1e-14  # least
_TINY = 1e-300


class _Point(NamedTuple):
    a: Array  # [n]
    f: Array  # [n], K a without the intercept
    b: Array


class _State(NamedTuple):
    stage: Array  # which strength of the path
    trips: Array  # steps at this strength
    point: _Point
    damping: Array  # added to the unit diagonal of the scaled system; grows when a step fails
    last: _Point  # solution at the strength before, to extrapolate from
    found: dict[str, Array]  # per strength


def solve_path(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    chunk: int | None = None,
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
      chunk: lanes solved together; None chooses by the size of their Gram matrices.

    Returns:
      A solution with axes [L, P, ...].
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.broadcast_to(np.asarray(C, np.float64)[order], (len(rows), len(order)))
    path = _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk)
    back = np.argsort(order)
    return Solution(*(leaf[:, back] for leaf in path))


def solve(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    chunk: int | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`.

    Each lane follows a path of its own from strong regularisation to C: from a cold start at weak
    regularisation Newton's steps are short, and many.
    """
    strengths = np.asarray(C, np.float64)[:, None]
    strengths = strengths * np.logspace(-9, 0, 10)[None, :]
    path = _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk)
    return Solution(*(leaf[:, -1] for leaf in path))


def _chunked(x, rows, mask, y, strengths, tolerance, max_trips, chunk) -> Solution:
    """Cuts the lanes into chunks of one shape; the last is filled up with its first lane."""
    lanes, n = rows.shape
    n = 1 << (n - 1).bit_length() if n <= 256 else -(-n // 256) * 256  # what the factor can cut
    pad = lambda array: np.pad(np.asarray(array), ((0, 0), (0, n - array.shape[1])))
    rows, mask, y = map(pad, (rows, mask, y))
    chunk = min(chunk or max(1, (1 << 23) // n**2), 1 << (lanes - 1).bit_length())
    x = jnp.asarray(x, jnp.float32)
    pieces = []
    for start in range(0, lanes, chunk):
        which = np.arange(start, start + chunk)
        which[which >= lanes] = start
        part = [np.asarray(array)[which] for array in (rows, mask, y, strengths)]
        with jax.enable_x64(True):
            piece = jax.tree.map(np.asarray, _solve_lanes(x, *part, tolerance, max_trips))
        pieces.append(Solution(*(leaf[: lanes - start] for leaf in piece)))
    return Solution(*(np.concatenate(leaves) for leaves in zip(*pieces, strict=True)))


@functools.partial(jax.jit, static_argnames=("tolerance", "max_trips"))
def _solve_lanes(x, rows, mask, y, strengths, tolerance, max_trips):
    lane = functools.partial(_solve_lane, tolerance=tolerance, max_trips=max_trips)
    return jax.vmap(lane, in_axes=(None, 0, 0, 0, 0))(x, rows, mask, y, strengths)


def _solve_lane(x, rows, mask, y, strengths, *, tolerance, max_trips) -> Solution:
    features = jnp.where(mask[:, None], x[rows], 0)
    t = jnp.where(mask, 2.0 * y - 1.0, 0.0)  # float64, 0 on padding
    finite = jnp.isfinite(features).all()
    two_classes = (t > 0).any() & (t < 0).any()
    usable = finite & two_classes
    features = jnp.where(usable, features, 0).astype(jnp.float64)
    mean = features.sum(axis=0) / jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask[:, None], features - mean[None, :], 0)
    gram = centred @ centred.T
    last_stage = len(strengths)
    zero = jnp.zeros(len(rows), jnp.float64)
    point = _Point(zero, zero, jnp.zeros((), jnp.float64))

    def going(state: _State):
        return state.stage < last_stage

    def trip(state: _State) -> _State:
        C = strengths[jnp.minimum(state.stage, last_stage - 1)]
        objective, gap = _certify(gram, t, C, state.point)
        done = (gap <= tolerance * objective) | (state.trips >= max_trips)
        here = {
            "a": state.point.a,
            "b": state.point.b,
            "objective": objective,
            "gap": gap / objective,
            "trips": state.trips,
        }
        found = {
            name: array.at[state.stage].set(jnp.where(done, here[name], array[state.stage]))
            for name, array in state.found.items()
        }
        stage = jnp.where(done, state.stage + 1, state.stage)
        C = strengths[jnp.minimum(stage, last_stage - 1)]
        started = _start(t, C, state.point, state.last, stage > 1)
        start = jax.tree.map(lambda new, old: jnp.where(done, new, old), started, state.point)
        last = jax.tree.map(lambda new, old: jnp.where(done, new, old), state.point, state.last)
        stepped = _newton(gram, t, C, start, state.damping)
        before, after = (_objective(t, C, *point) for point in (start, stepped))
        better = after <= before  # False where the factor broke down and all is NaN
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), stepped, start)
        damping = jnp.where(better, _DAMPING, state.damping * 100)
        return _State(stage, jnp.where(done, 1, state.trips + 1), point, damping, last, found)

    zeros = jnp.zeros(last_stage, jnp.float64)
    found = {
        "a": jnp.zeros((last_stage, len(rows)), jnp.float64),
        "b": zeros,
        "objective": zeros,
        "gap": zeros,
        "trips": jnp.zeros(last_stage, int),
    }
    first = jnp.where(usable, 0, last_stage)
    damping = jnp.full((), _DAMPING)
    state = _State(first, jnp.zeros((), int), point, damping, point, found)
    found = jax.lax.while_loop(going, trip, state).found
    w = found["a"] @ centred
    code = jnp.where(found["gap"] <= tolerance, codes.CONVERGED, codes.MAX_TRIPS)
    code = jnp.where(finite, jnp.where(two_classes, code, codes.DEGENERATE), codes.NON_FINITE)
    f32 = jnp.float32
    return Solution(
        w.astype(f32),
        (found["b"] - w @ mean).astype(f32),
        found["objective"].astype(f32),
        found["gap"].astype(f32),
        code.astype(jnp.int32),
        found["trips"].astype(jnp.int32),
    )


def _objective(t, C, a, f, b):
    return 0.5 * a @ f + C * jnp.where(t != 0, jnp.logaddexp(0.0, -t * (f + b)), 0).sum()


def _start(t, C, point: _Point, last: _Point, has_last):
    """Returns the better start at the next strength: the solution, or the line through two."""
    ahead = jax.tree.map(lambda new, old: 2 * new - old, point, last)
    better = has_last & (_objective(t, C, *ahead) < _objective(t, C, *point))
    return jax.tree.map(lambda a, p: jnp.where(better, a, p), ahead, point)


def _newton(gram, t, C, point: _Point, damping) -> _Point:
    """Takes one Newton step, at the best of a few lengths."""
    a, f, b = point
    sigma = jax.nn.sigmoid(-t * (f + b))
    alpha = jnp.where(t != 0, C * sigma, 0)
    root = jnp.sqrt(jnp.where(t != 0, C * sigma * (1 - sigma), 0))  # of D
    residual = a - t * alpha
    system = root[:, None] * gram * root[None, :]
    scale = jax.lax.rsqrt(1 + jnp.diag(system))
    system = scale[:, None] * system * scale[None, :]
    factor = cholesky.factor(system + jnp.diag(scale * scale + damping))

    through = lambda side: root * scale * cholesky.solve(factor, scale * side)
    from_residual, from_intercept = residual - through(root * (gram @ residual)), through(root)
    db = (a.sum() - from_residual.sum()) / jnp.maximum(from_intercept.sum(), _TINY)
    da = -from_residual - db * from_intercept
    df = gram @ da
    steps = jnp.asarray(_STEPS)
    values = jax.vmap(lambda step: _objective(t, C, a + step * da, f + step * df, b + step * db))(
        steps
    )
    step = steps[jnp.argmin(values)]
    return _Point(a + step * da, f + step * df, b + step * db)


def _certify(gram, t, C, point: _Point):
    """Returns the objective and its distance to the dual objective at the better of two points.

    For alpha in [0, C] with sum t alpha = 0 the gap is 0.5 |w - X' t alpha|^2 plus, per row, a
    Fenchel-Young term, log(1 + e^-m) + q m + q log q + (1 - q) log(1 - q) with q = alpha / C: a sum
    of terms that are never negative, so that rounding cannot hide it.
    """
    a, f, b = point
    margin = t * (f + b)

    def balance(alpha):
        up, down = jnp.where(t > 0, alpha, 0).sum(), jnp.where(t < 0, alpha, 0).sum()
        least = jnp.minimum(up, down)
        return alpha * jnp.where(
            t > 0, least / jnp.maximum(up, _TINY), least / jnp.maximum(down, _TINY)
        )

    by_dual = balance(jnp.clip(t * a, 0, C))
    by_slope = balance(jnp.where(t != 0, C * jax.nn.sigmoid(-margin), 0))
    alphas = jnp.stack([by_dual, by_slope], axis=1)  # [n, 2]
    apart = a[:, None] - t[:, None] * alphas
    quadratic = 0.5 * jnp.sum(apart * (gram @ apart), axis=0)
    q = alphas / C
    entropy = jax.scipy.special.xlogy(q, q) + jax.scipy.special.xlog1py(1 - q, -q)
    losses = jnp.logaddexp(0.0, -margin)
    rows = jnp.maximum(losses[:, None] + q * margin[:, None] + entropy, 0)
    gap = jnp.min(jnp.maximum(quadratic, 0) + C * jnp.where(t[:, None] != 0, rows, 0).sum(axis=0))
    return 0.5 * a @ f + C * jnp.where(t != 0, losses, 0).sum(), gap

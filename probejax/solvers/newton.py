"""Newton's method for one L2 logistic regression; `l2` runs many of them.

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

A step solves with I + X' D~ X, where D is the curvature of the losses and D~ = D - D 11' D / 1' D 1
is what the free intercept leaves of it. There are two forms of the unknown, and the smaller system
decides: w itself, or in sample space the a of w = X' a, which needs K = X X' and nothing else of X
(Rasmussen and Williams 2006, section 3.4). Here u is w or a, and `data` X' or K.

A factor is costly, a step with it is not: made once, it preconditions the conjugate gradients of
many steps, also of those at weaker regularisation, until they need too many iterations (Nocedal and
Wright 2006, section 7.1). Three factors carry a path over ten decades of C.

The factor is float32 (on labels that no plane separates C times the Gram matrix reaches 1e10 beside
the identity; the smaller system is the one that survives that), and in feature space so are the
iterations' products. What they correct and what judges the step is float64: so rounding costs
iterations, not accuracy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, Int

from probejax.solvers import cholesky

_HALVINGS = 14  # of a step, until the objective falls
_RIDGE = {"float32": 3e-6, "float64": 1e-14}  # least addition to a unit diagonal
_HOPELESS = 1e-3  # a ridge above the least: a float32 factor has failed
_PATIENCE = 20  # steps at one strength after which a lane goes on in float64
_EXACT = 0.1  # error of a step, in its own norm, that will do
_STALE = 10  # iterations after which a new factor is cheaper; a step may take three times as many
_TINY = 1e-30  # within the range of float32, and so of the float64 that TPUs emulate


class Point(NamedTuple):
    """A solution, or what is on its way to be one."""

    u: Float[Array, " r"]  # w in feature space, a in sample space
    f: Float[Array, " n"]  # scores without the intercept
    b: Float[Array, ""]


class Data(NamedTuple):
    """X' [d, n], centred, or K [n, n]; 0 on rows that do not count."""

    exact: Float[Array, "r n"]  # float64, in which steps are judged
    rough: Float[Array, "r n"]  # of the precision of the factors, which propose steps


class State(NamedTuple):
    """Where a lane is on its path."""

    stage: Int[Array, ""]  # index of the strength in hand; the number of strengths when done
    steps: Int[Array, ""]  # spent on this strength
    point: Point
    last: Point  # solution at the strength before, to extrapolate from
    ridge: Float[Array, ""]
    age: Int[Array, ""]  # steps made with the factor; -1 when it is worth replacing
    path: dict[str, Array]  # what was found, one row per strength


class Form(NamedTuple):
    """What differs between feature space and sample space; u and v stand for weight vectors."""

    rounds: bool  # whether the rough matrix will do for conjugate gradients
    scores: Callable  # (matrix, u) -> X w
    back: Callable  # (matrix, a) -> the u of X' a
    dot: Callable  # (u, v, scores of v) -> inner product of the two weight vectors
    duals: Callable  # (u, slopes) -> [n, m] signed dual points, of which one will be near the best
    apart: Callable  # (matrix, u, [n, m] dual points) -> [m] squared distances of their weights
    factor: Callable  # (rough, D, ridge) -> what `precondition` needs
    precondition: Callable  # (matrix, factor, u) -> about (I + X' D~ X)^-1 w


def start(form: Form, data: Data, t, strengths, usable) -> State:
    """Returns the state of a lane at w = 0; of one that is not usable, at the end of its path."""
    count, (r, n) = len(strengths), data.exact.shape
    zero, none = jnp.zeros(()), jnp.zeros((), int)
    point = Point(jnp.zeros(r), jnp.zeros(n), zero)
    first = (strengths == strengths[0]).sum() - 1  # of equal strengths the last will do
    path = {
        "u": jnp.zeros((count, r)),
        "b": jnp.zeros(count),
        "steps": jnp.zeros(count, int),
    }
    return State(jnp.where(usable, first, count), none, point, point, zero, none, path)


def fresh(state: State, precision: str) -> State:
    """Returns the state as it goes on with factors of another precision."""
    return state._replace(ridge=jnp.full((), _RIDGE[precision]))


def running(state: State, count: int, precision: str):
    """Tells whether there are steps to make: in float32, only while its factors are good."""
    left = state.stage < count
    if precision == "float32":
        left &= (state.steps < _PATIENCE) & (state.ridge < _HOPELESS)
    return left


def trip(form: Form, data: Data, t, strengths, state: State, limits, precision: str) -> State:
    """Makes a factor where the lane stands, and steps with it until it is stale.

    Args:
        form: `FEATURES` or `SAMPLES`.
        data: of the lane.
        t: labels +-1; 0 on rows that do not count.
        strengths: ascending values of C.
        state: where the lane is.
        limits: relative duality gap that will do at each strength; steps after which anything does.
        precision: of the factor, "float32" or "float64".
    """
    count = len(strengths)
    C = strengths[jnp.minimum(state.stage, count - 1)]
    _, curvature = _slopes(t, C, state.point)
    factor = form.factor(data.rough, curvature, state.ridge)
    return jax.lax.while_loop(
        lambda state: running(state, count, precision) & (state.age >= 0),
        lambda state: _advance(form, data, factor, t, strengths, state, limits, precision),
        state._replace(age=jnp.zeros((), int)),
    )


def _advance(form, data, factor, t, strengths, state: State, limits, precision) -> State:
    """Makes one step, judges what came out of it, and passes to the next strength if it will do."""
    tolerances, max_steps = limits
    count = len(strengths)
    here = jnp.minimum(state.stage, count - 1)
    C = strengths[here]
    point, sound, useful = _step(form, data, factor, t, C, state.point)
    gap = _gap(form, data.exact, t, C, point)
    steps = state.steps + 1
    enough = jnp.asarray(tolerances)[here] * _objective(form, t, C, point)
    over = (gap <= enough) | (steps >= max_steps)

    slot = jnp.where(over, state.stage, count)  # past the end: dropped
    found = {"u": point.u, "b": point.b, "steps": steps}
    path = {key: state.path[key].at[slot].set(found[key], mode="drop") for key in found}
    # A step of no use asks for another factor, and for a larger ridge if that one was new.
    failed = ~sound & (state.age == 0)
    ridge = jnp.where(failed, state.ridge * 5, jnp.maximum(state.ridge / 2, _RIDGE[precision]))
    stage = jnp.minimum(state.stage + over, count)
    weaker = strengths[jnp.minimum(stage, count - 1)]
    point, last = jax.lax.cond(
        over,
        lambda: (_ahead(form, t, weaker, point, state.last, stage > 1), point),
        lambda: (point, state.last),
    )
    return State(
        stage=stage,
        steps=jnp.where(over, 0, steps),
        point=point,
        last=last,
        ridge=ridge,
        age=jnp.where(sound & useful, state.age + 1, -1),
        path=path,
    )


def losses_at(t, f):
    """Returns the loss of each row at its logit."""
    return jnp.where(t != 0, jax.nn.softplus(-t * f), 0)


def _objective(form, t, C, point: Point):
    return 0.5 * form.dot(point.u, point.u, point.f) + C * losses_at(t, point.f + point.b).sum()


def _ahead(form, t, C, point: Point, last: Point, has_last) -> Point:
    """Returns the better start at the next strength: the solution, or the line through two."""
    line = jax.tree.map(lambda new, old: 2 * new - old, point, last)
    better = has_last & (_objective(form, t, C, line) < _objective(form, t, C, point))
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), line, point)


def _slopes(t, C, point: Point):
    """Returns the pull of the losses on the scores, and their curvature."""
    sigma = jax.nn.sigmoid(-t * (point.f + point.b))
    return C * t * sigma, C * t**2 * sigma * (1 - sigma)


def _step(form, data, factor, t, C, point: Point):
    """Takes one step, halved until the objective falls.

    Returns:
        The next point; whether it is any better; and whether the factor is still useful.
    """
    step, useful = _direction(form, data, factor, *_slopes(t, C, point), point)
    squares = [form.dot(p.u, q.u, q.f) for p, q in ((point, point), (point, step), (step, step))]
    now, by = point.f + point.b, step.f + step.b
    value = _objective(form, t, C, point)

    def at(share):
        square = squares[0] + 2 * share * squares[1] + share**2 * squares[2]
        return 0.5 * square + C * losses_at(t, now + share * by).sum()

    def halve(carry):
        share, _, count = carry
        return share / 2, at(share / 2), count + 1

    share, new, _ = jax.lax.while_loop(
        lambda carry: ~(carry[1] <= value) & (carry[2] < _HALVINGS),
        halve,
        (jnp.ones(()), at(1.0), jnp.zeros((), int)),
    )
    sound = new <= value
    moved = jax.tree.map(lambda now, by: jnp.where(sound, now + share * by, now), point, step)
    return moved, sound, useful


def _direction(form, data, factor, pull, curvature, point: Point) -> tuple[Point, Array]:
    """Solves for a Newton step by conjugate gradients; tells whether the factor is still useful.

    What passes from one iteration to the next is the preconditioned residual, not the direction
    that it makes: so an accelerator makes the direction and its inner products in one go.
    """
    matrix = data.rough if form.rounds else data.exact
    total = jnp.maximum(curvature.sum(), _TINY)

    def begin(residual):
        z = form.precondition(matrix, factor, residual)
        f = form.scores(matrix, z)
        return z, f, form.dot(residual, z, f)

    def going(carry):
        *_, error, count = carry
        return (count == 0) | ((error > _EXACT**2 * first) & (count < 3 * _STALE))

    def iterate(carry):
        u, scores, residual, q, f, z, zf, ratio, error, count = carry
        q, f = z + ratio * q, zf + ratio * f
        pulled = curvature @ f
        bend = curvature @ (f * f) - pulled * pulled / total  # f D~ f
        share = _ratio(error, form.dot(q, q, f) + bend)
        bent = curvature * (f - pulled / total)
        residual = residual - share * (q + form.back(matrix, bent))
        u, scores = u + share * q, scores + share * f
        z, zf, left = begin(residual)
        return u, scores, residual, q, f, z, zf, _ratio(left, error), left, count + 1

    u, f = jnp.zeros_like(point.u), jnp.zeros_like(pull)
    side = form.back(data.exact, pull - curvature * (pull.sum() / total)) - point.u
    z, zf, first = begin(side)
    carry = (u, f, side, u, f, z, zf, jnp.zeros(()), first, jnp.zeros((), int))
    u, f, *_, count = jax.lax.while_loop(going, iterate, carry)
    if form.rounds:
        f = form.scores(data.exact, u)
    b = (pull.sum() - curvature @ f) / total
    return Point(u, f, b), count < _STALE


def _ratio(a, b):
    """Returns a / b, or 0 for b = 0: where no weight can do better, the intercept steps alone."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1), 0)


def _gap(form: Form, data, t, C, point: Point):
    """Returns how far the objective is above the dual objective, at the best of a few dual points.

    For alpha in [0, C] with sum t alpha = 0 the gap is 0.5 |w - X' t alpha|^2 plus what `above`
    says: a sum of terms that are never negative, so that rounding cannot hide it.
    """
    signed = form.duals(point.u, pull(t, C, point.f + point.b))
    duals = jax.vmap(balanced, (None, None, 1), 1)(t, C, signed)
    losses = jax.vmap(above, (None, None, None, 1))(t, C, point.f + point.b, duals)
    distance = form.apart(data, point.u, duals)
    return jnp.min(0.5 * jnp.maximum(distance, 0) + losses)


def pull(t, C, logits):
    """Returns what the losses' gradient is in the logits, but for its sign: C t sigmoid(-t f)."""
    return C * t * jax.nn.sigmoid(-t * logits)


def balanced(t, C, dual: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns a dual point near another, signed: t times it is in [0, C], and it sums to zero."""
    alpha = jnp.clip(t * dual, 0, C)
    up, down = jnp.where(t > 0, alpha, 0).sum(), jnp.where(t < 0, alpha, 0).sum()
    least = jnp.minimum(up, down)
    share = jnp.where(t > 0, least / jnp.maximum(up, _TINY), least / jnp.maximum(down, _TINY))
    return t * alpha * share


def above(t, C, logits, dual: Float[Array, " n"]):
    """Returns how far losses are above their conjugates at a dual point.

    Per row a Fenchel-Young term, log(1 + e^-m) + q m + q log q + (1 - q) log(1 - q), of the margin
    m and q = |dual| / C.
    """
    margin, q = t * logits, t * dual / C
    terms = jax.nn.softplus(-margin) + q * margin + xlogy(q, q) + xlog1py(1 - q, -q)
    return C * jnp.where(t != 0, jnp.maximum(terms, 0), 0).sum()


def _scores_features(columns, u):
    f = jnp.matmul(u.astype(columns.dtype), columns, precision="highest")
    return f.astype(jnp.float64)


def _back_features(columns, a):
    u = jnp.matmul(columns, a.astype(columns.dtype), precision="highest")
    return u.astype(jnp.float64)


def _factor_features(columns, curvature, ridge):
    curvature = curvature.astype(columns.dtype)
    centre = columns @ (curvature / jnp.maximum(curvature.sum(), _TINY))
    root = (columns - centre[:, None]) * jnp.sqrt(curvature)[None, :]
    size = jax.lax.rsqrt(1 + jnp.sum(root * root, axis=1))  # to a unit diagonal
    panels = cholesky.factor_gram(root * size[:, None], size**2 + ridge.astype(root.dtype))
    return cholesky.inverse(panels), size


def _precondition_features(columns, factor, u):
    inverse, size = factor
    solved = cholesky.solve_by_inverse(inverse, size * u.astype(size.dtype))
    return (size * solved).astype(jnp.float64)


def _factor_samples(gram, curvature, ridge):
    root = jnp.sqrt(curvature)
    size = jax.lax.rsqrt(1 + curvature * jnp.diagonal(gram))
    scale, rest = (root * size).astype(gram.dtype), (size**2 + ridge).astype(gram.dtype)
    system = gram * scale[:, None] * scale[None, :]
    factor = cholesky.inverse(cholesky.factor(system + jnp.diag(rest))), root, size
    intercept = _through(factor, root)
    return *factor, intercept / jnp.maximum(intercept.sum(), _TINY)


def _through(factor, side):
    """Returns D^1/2 (I + D^1/2 K D^1/2)^-1 side."""
    inverse, root, size, *_ = factor
    solved = cholesky.solve_by_inverse(inverse, (size * side).astype(inverse.dtype))
    return root * size * solved.astype(jnp.float64)


def _precondition_samples(gram, factor, u):
    """Woodbury's identity, with the intercept that the factor's D leaves free."""
    _, root, _, intercept = factor
    rest = _through(factor, root * (gram @ u))
    return u - rest + rest.sum() * intercept


def _apart_features(columns, u, duals):
    return jnp.sum((u[:, None] - columns @ duals) ** 2, axis=0)


def _apart_samples(gram, u, duals):
    # One product after the other: a CPU takes longer over a thin matrix.
    apart = [u - dual for dual in duals.T]
    return jnp.stack([each @ (gram @ each) for each in apart])


FEATURES = Form(
    rounds=True,
    scores=_scores_features,
    back=_back_features,
    dot=lambda u, v, f: u @ v,
    duals=lambda w, slopes: slopes[:, None],
    apart=_apart_features,
    factor=_factor_features,
    precondition=_precondition_features,
)
SAMPLES = Form(
    rounds=False,  # C K reaches 1e10 beside the identity: rounded, it loses the step
    scores=lambda gram, a: gram @ a,
    back=lambda gram, a: a,
    dot=lambda u, v, f: u @ f,
    duals=lambda a, slopes: jnp.stack([a, slopes], axis=1),
    apart=_apart_samples,
    factor=_factor_samples,
    precondition=_precondition_samples,
)

"""Ridge regression on labels +-1, many problems at once, each with a bound on its error.

A lane is one problem:

    minimise  0.5 |w|^2 + 0.5 C sum_i (t_i - x_i.w - b)^2,   t_i = +-1,  b unpenalised.

That is scikit-learn's RidgeClassifier with alpha = 1 / C. Centred, it is a linear system: in the
space of features X' X + I / C, in that of samples X X' + I / C; the smaller decides. Lanes with the
same rows differ in their labels alone, so one factor per strength serves them all.

The objective is 1-strongly convex in w once b is optimal, so it lies at most |g|^2 / 2 above its
minimum, g the gradient there (Boyd and Vandenberghe 2004, section 9.1.2). That is taken at the
float64 solution, and what its rounding to float32 costs is measured.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import inputs
from probejax.solvers import cholesky, codes, engine
from probejax.solvers.codes import Solution
from probejax.solvers.lanes import checked
from probejax.solvers.spread import over_lanes

_NUMBERS = 2**19  # in the matrices that are factored together, on a CPU
_TOLERANCE = 1e-6


def solve_path(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[np.ndarray, "L n"],
    mask: Bool[np.ndarray, "L n"],
    y: Int[np.ndarray, "L n"],
    C: Float[np.ndarray, " P"],
) -> Solution:
    """Solves every lane at every strength.

    Args:
        x: the features all lanes take rows of, best roughly centred.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths.

    Returns:
        A solution with axes [L, P, ...]; no trips are counted.

    Raises:
        ValueError: a real row does not exist, a label of one is neither 0 nor 1, a strength is not
            positive and finite, or shapes differ.
    """
    mask, y = checked(mask, y, C, np.shape(rows))
    rows = inputs.within(rows, mask, len(x))
    of_size: dict[int, list[list[int]]] = {}  # few numbers of labels compile
    for group in engine.distinct(rows, mask):
        of_size.setdefault(1 << (len(group) - 1).bit_length(), []).append(group)
    lanes, parts = [], []
    for size, some in of_size.items():
        first = [group[0] for group in some]
        labels = np.stack([y[np.resize(group, size)] for group in some])
        strengths = np.tile(np.asarray(C, np.float64), (len(some), 1))
        found = _solve(x, rows[first], mask[first], labels, strengths)
        for number, group in enumerate(some):
            lanes += group
            parts.append(Solution(*(leaf[number, : len(group)] for leaf in found)))
    back = np.argsort(lanes)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *parts)


def solve(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[np.ndarray, "L n"],
    mask: Bool[np.ndarray, "L n"],
    y: Int[np.ndarray, "L n"],
    C: Float[np.ndarray, " L"],
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`."""
    mask, y = checked(mask, y, C, np.shape(rows))
    rows = inputs.within(rows, mask, len(x))
    found = _solve(x, rows, mask, y[:, None], np.asarray(C, np.float64)[:, None])
    return jax.tree.map(lambda leaf: leaf[:, 0, 0], found)


def _solve(x, rows, mask, y, C) -> Solution:
    """Solves G sets of rows with labels y [G, g, n] at C [G, P]; axes [G, g, P, ...]."""
    n, d = rows.shape[1], x.shape[1]
    numbers = _NUMBERS if jax.default_backend() == "cpu" else 512 * _NUMBERS
    batch = 1 << (min(len(rows), max(1, numbers // (n * min(n, d)))) - 1).bit_length()
    x = jnp.asarray(x, jnp.float32)
    with jax.enable_x64(True):
        return engine.each(_set, (rows, mask, y, C), batch, x)


@over_lanes(shared=("x",))
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
def _set(rows, mask, y, C, x) -> Solution:
    """Solves one set of rows [n] with g lines of labels [g, n] at P strengths."""
    own = jnp.where(mask[:, None], x[rows].astype(jnp.float64), 0)
    t = jnp.where(mask[None, :], 2.0 * y - 1.0, 0)
    count = jnp.maximum(mask.sum(), 1)
    mean = own.sum(axis=0) / count
    finite = jnp.isfinite(mean).all()
    z = jnp.where(mask[:, None] & finite, own - mean[None, :], 0)
    middle = t.sum(axis=1) / count
    centred = jnp.where(mask[None, :], t - middle[:, None], 0)
    wide = z.shape[0] <= z.shape[1]  # then the system is that of samples
    products = z @ z.T if wide else z.T @ z
    right = centred if wide else centred @ z  # [g, r]

    def at(c):
        system = products + jnp.eye(len(products)) / c
        factor = cholesky.factor(system)
        solved = lambda v: jax.vmap(lambda one: cholesky.solve(factor, one))(v)
        u = solved(right)
        u = u + solved(right - u @ system)  # what rounding left
        exact = u @ z if wide else u
        rest, value = objective(c, exact)
        gradient = exact - c * (rest @ z)
        least = value - 0.5 * (gradient * gradient).sum(axis=1)
        w = exact.astype(jnp.float32).astype(jnp.float64)
        best = middle - w @ mean
        b = best.astype(jnp.float32).astype(jnp.float64)
        value = objective(c, w)[1] + 0.5 * c * count * (b - best) ** 2
        return w, b, value, value - least

    def objective(c, w):
        """Returns the residuals under the best intercept, and the objective there."""
        rest = jnp.where(mask[None, :], centred - w @ z.T, 0)
        return rest, 0.5 * (w * w).sum(axis=1) + 0.5 * c * (rest * rest).sum(axis=1)

    w, b, value, above = (jnp.moveaxis(leaf, 0, 1) for leaf in jax.lax.map(at, C))  # [g, P, ...]
    two = (t > 0).any(axis=1) & (t < 0).any(axis=1)
    code = jnp.where(finite, jnp.where(two, codes.CONVERGED, codes.DEGENERATE), codes.NON_FINITE)
    code = jnp.broadcast_to(code[:, None], value.shape)
    usable = code == codes.CONVERGED
    gap = jnp.where(usable, above / jnp.where(usable, value, 1), jnp.nan)
    late = usable & (gap > _TOLERANCE)
    f32 = lambda leaf: jnp.where(usable, leaf, 0).astype(jnp.float32)
    return Solution(
        w=jnp.where(usable[:, :, None], w, 0).astype(jnp.float32),
        b=f32(b),
        objective=f32(value),
        gap=gap.astype(jnp.float32),
        code=jnp.where(late, codes.MAX_TRIPS, code).astype(jnp.int32),
        trips=jnp.zeros(value.shape, jnp.int32),
    )

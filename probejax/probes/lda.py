"""Linear discriminant with a covariance shrunk by Ledoit and Wolf's rule."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import closed_form, scale, scores
from probejax.probes.rows import Rows
from probejax.solvers import arithmetic, cholesky, tables
from probejax.solvers.engine import each
from probejax.solvers.spread import over_lanes

_ROWS, _FITS = 2048, 16  # that are worked on together, at most
_ROUNDING = 1e-5  # of sums of squared lengths in float32, with room to spare
_TOLERANCE = 1e-6  # relative gap; a fit with a larger one is solved again in float64
_TINY = 1e-30


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: the log odds of two Gaussians of one covariance.

    As scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"): each class gives
    a covariance, shrunk on standardised features, and they are averaged by class size. Where
    neither class has three rows, or three that differ, that rule does not shrink and the covariance
    is singular; here it is then taken diagonal.

    Weights solve (I + A) u = v, so they are the minimum of 0.5 u'(I + A) u - v'u. The gap bounds
    how far above it they lie, relative to it.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; they differ for at most three rows only.
    """
    return closed_form.fit(features, rows, protocol, _solve)


def _solve(x, rows, mask, y):
    def solved(which, dtype):
        own = x.astype(dtype, copy=False)
        load = lambda rows, mask, y: (tables.rows(own, rows), mask, y)
        return each(_discriminants, (rows[which], mask[which], y[which]), width, load=load)

    width = min(max(1, _ROWS // rows.shape[1]), _FITS)
    w, b, gap = solved(np.arange(len(rows)), np.float32)
    left = np.flatnonzero(~(gap <= _TOLERANCE))
    if len(left):
        with arithmetic.on_host(), jax.enable_x64(True):
            w[left], b[left], gap[left] = solved(left, np.float64)
    return w, b, gap


def discriminant(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], y: Int[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, ""], Float[Array, ""]]:
    """Returns weights and intercept of one fit, and the relative gap of the weights.

    The covariance of all is diag(D) plus, for each class, (1 - shrinkage) / n times the scatter
    around its mean. The system is scaled by D and solved in the smaller of both spaces.

    Args:
      x: rows, centred somewhere near the data.
      mask: which of them count; both classes must be among them.
      y: labels.
    """
    n, d = x.shape
    classes = jnp.stack([mask & (y == 0), mask & (y == 1)])
    count = classes.sum(axis=1).astype(x.dtype)
    prior = count / count.sum()
    mean, spread = jax.vmap(scale.learn, in_axes=(None, 0))(x, classes)  # [2, d]
    which = (y == 1).astype(int)
    z = jnp.where(mask[:, None], (x - mean[which]) / spread[which], 0)
    if n <= d:
        products = _times(z, z.T)
        norm = jnp.einsum("cn,nm,cm->c", classes, products**2, classes, precision="highest")
    else:
        each = jnp.where(classes[:, :, None], z[None], 0)
        products = jnp.einsum("cnd,cne->cde", each, each, precision="highest")
        norm = (products**2).sum(axis=(1, 2))
    lengths = jnp.where(classes, (z * z).sum(axis=1)[None, :], 0)
    shrinkage, level = _ledoit_wolf(lengths, norm, count, d)
    # No class shrinks whose rows take two values, equally often: a pair of rows, or rows all equal.
    rest = ((lengths**2).sum(axis=1) - norm / count) <= _ROUNDING * (lengths**2).sum(axis=1)
    singular = jnp.all((count < 3) | rest)
    shrinkage, level = jnp.where(singular, 1, shrinkage), jnp.where(singular, 1, level)

    root = jnp.sqrt(((prior * shrinkage * level)[:, None] * spread**2).sum(axis=0))  # of D
    share = jnp.sqrt((1 - shrinkage) / count.sum())[:, None] * spread / root[None, :]  # [2, d]
    difference = (mean[1] - mean[0]) / root
    if x.dtype == jnp.float64:
        u, gap = _solve_by_axes(z * share[which], difference)
    elif n <= d:
        u, gap = _solve_in_samples(z * share[which], difference)
    else:
        scatter = (products * share[:, :, None] * share[:, None, :]).sum(axis=0)
        u, gap = _solve_in_features(scatter, difference)
    w = u / root
    middle = 0.5 * (mean[1] + mean[0])
    return w, jnp.log(prior[1]) - jnp.log(prior[0]) - middle @ w, gap


_discriminants = over_lanes(jax.vmap(discriminant))


def _ledoit_wolf(lengths, norm, count, d):
    """Returns shrinkage and mean variance of both classes (Ledoit and Wolf 2004, lemma 3.3).

    Args:
      lengths: [2, n], squared lengths of the rows of each class, standardised; 0 elsewhere.
      norm: [2], squared Frobenius norms of their products.
      count: [2], how many rows they are.
      d: features.
    """
    norm = norm / count**2  # of the covariance
    level = lengths.sum(axis=1) / count / d
    beta = ((lengths**2).sum(axis=1) / count - norm) / (d * count)
    delta = norm / d - level**2
    alike = delta <= _ROUNDING * level**2  # a multiple of the identity, which shrinks to itself
    shrinkage = jnp.where(alike, 1, jnp.clip(beta / jnp.where(alike, 1, delta), 0, 1))
    return shrinkage, level


def _solve_in_samples(z, v):
    """Solves (I + z' z) u = v in the space of rows; see `_refined`."""
    solve = _solver(_times(z, z.T))
    rough = lambda v: v - _times(z.T, solve(_times(z, v)))
    return _refined(rough, lambda u: u + _times(z.T, _times(z, u)), v)


def _solve_in_features(a, v):
    """Solves (I + a) u = v; see `_refined`."""
    return _refined(_solver(a), lambda u: u + _times(a, u), v)


def _solve_by_axes(z, v):
    """Solves (I + z' z) u = v whatever z is: rows may be equal, or 1e10 times the identity."""
    _, size, axes = jnp.linalg.svd(z, full_matrices=False)
    solve = lambda v: v - _times(axes.T, size**2 / (1 + size**2) * _times(axes, v))
    u = solve(v)
    rest = v - u - _times(axes.T, size**2 * _times(axes, u))
    return u, _gap(u, v, rest, solve(rest))


def _refined(rough, system, v):
    """Solves with one step of refinement; also returns the relative gap."""
    u = rough(v)
    u = u + rough(v - system(u))
    rest = v - system(u)
    return u, _gap(u, v, rest, rest)  # no eigenvalue of I + A is below one


def _gap(u, v, rest, solved):
    """Returns 0.5 rest'inv(I + A) rest, or a bound, as a share of the minimum's size at u.

    Args:
      u: the solution.
      v: right side.
      rest: what u misses of it.
      solved: inv(I + A) rest, or what is larger along `rest`.
    """
    return jnp.abs(rest @ solved) / jnp.maximum(jnp.abs((v + rest) @ u), _TINY)


def _solver(a):
    """Returns a function that applies the inverse of I + a."""
    size = len(a)
    padded = 1 << (size - 1).bit_length() if size <= 256 else -(-size // 256) * 256
    more = padded - size
    factor = cholesky.factor(jnp.pad(a, ((0, more), (0, more))) + jnp.eye(padded, dtype=a.dtype))
    return lambda v: cholesky.solve(factor, jnp.pad(v, (0, more)))[:size]


def _times(a, b):
    return jnp.matmul(a, b, precision="highest")

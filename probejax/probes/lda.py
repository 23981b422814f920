"""Linear discriminant with a covariance shrunk by Ledoit and Wolf's rule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import closed_form, scale, scores
from probejax.probes.rows import Rows
from probejax.solvers import cholesky


def fit(
    features: Float[Array, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fitted:
    """Fits one probe per lane: the log odds of two Gaussians of one covariance.

    As scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"): each class gives
    a covariance, shrunk on standardised features, and they are averaged by class size. Where
    neither class has three rows that rule does not shrink and the covariance is singular; here it
    is then taken diagonal.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; they differ for at most three rows only.
    """
    return closed_form.fit(features, rows, protocol, _solve)


@jax.jit
def _solve(x, rows, mask, y):
    """Solves in chunks of a few fits, so that the Gram matrices of all need not be held at once."""
    n, d = rows.shape[1], x.shape[1]
    chunk = max(1, (1 << 20) // (n * max(n, d)))
    each = lambda fit: discriminant(x[fit[0]], fit[1], fit[2])
    return jax.lax.map(each, (rows, mask, y), batch_size=chunk)


def discriminant(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], y: Int[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """Returns weights and intercept of one fit.

    The covariance of all is diag(D) + Z' Z with a row z of Z per sample, its distance from the mean
    of its class times sqrt((1 - shrinkage) / n). The system is solved in the smaller of both
    spaces, after scaling by D.

    Args:
      x: rows, centred somewhere near the data.
      mask: which of them count; both classes must be among them.
      y: labels.
    """
    classes = jnp.stack([mask & (y == 0), mask & (y == 1)])
    count = classes.sum(axis=1).astype(x.dtype)
    prior = count / count.sum()
    mean, spread = jax.vmap(scale.learn, in_axes=(None, 0))(x, classes)  # [2, d]
    which = (y == 1).astype(int)
    inside = jnp.where(mask[:, None], x - mean[which], 0)
    shrinkage, level = _ledoit_wolf(inside / spread[which], classes, count)
    few = jnp.all(count < 3)
    shrinkage = jnp.where(few, 1, shrinkage)
    level = jnp.where(few, 1, level)
    diagonal = ((prior * shrinkage * level)[:, None] * spread**2).sum(axis=0)
    root = jnp.sqrt(diagonal)
    z = inside * jnp.sqrt((1 - shrinkage) / count.sum())[which][:, None] / root[None, :]
    difference = (mean[1] - mean[0]) / root
    w = _solve_identity_plus(z, difference) / root
    middle = 0.5 * (mean[1] + mean[0])
    return w, jnp.log(prior[1]) - jnp.log(prior[0]) - middle @ w


def _ledoit_wolf(z, classes, count):
    """Returns shrinkage and mean variance of both classes (Ledoit and Wolf 2004, lemma 3.3).

    Args:
      z: rows, centred and scaled by class.
      classes: [2, n], the rows of each.
      count: how many they are.
    """
    n, d = z.shape
    squares = jnp.where(classes, (z * z).sum(axis=1)[None, :], 0)  # [2, n]
    if n <= d:
        gram = _times(z, z.T) ** 2
        norm = jnp.einsum("cn,nm,cm->c", classes, gram, classes, precision="highest")
    else:
        each = jnp.where(classes[:, :, None], z[None], 0)
        gram = jnp.einsum("cnd,cne->cde", each, each, precision="highest")
        norm = (gram * gram).sum(axis=(1, 2))
    norm = norm / count**2  # squared Frobenius norm of the covariance
    level = squares.sum(axis=1) / count / d
    beta = ((squares**2).sum(axis=1) / count - norm) / (d * count)
    delta = norm / d - level**2
    beta = jnp.minimum(beta, delta)
    shrinkage = jnp.where(beta > 0, beta / jnp.where(beta > 0, delta, 1), 0)
    return shrinkage, level


def _solve_identity_plus(z, v):
    """Solves (I + z' z) u = v, with one step of refinement."""
    n, d = z.shape
    small = _times(z, z.T) if n <= d else _times(z.T, z)
    size = len(small)
    padded = 1 << (size - 1).bit_length() if size <= 256 else -(-size // 256) * 256
    more = padded - size
    factor = cholesky.factor(
        jnp.pad(small, ((0, more), (0, more))) + jnp.eye(padded, dtype=z.dtype)
    )

    def once(v):
        if n > d:
            return cholesky.solve(factor, jnp.pad(v, (0, more)))[:size]
        inner = cholesky.solve(factor, jnp.pad(_times(z, v), (0, more)))[:size]
        return v - _times(z.T, inner)

    u = once(v)
    return u + once(v - u - _times(z.T, _times(z, u)))


def _times(a, b):
    return jnp.matmul(a, b, precision="highest")

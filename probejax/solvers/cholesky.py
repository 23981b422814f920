"""A Cholesky factorisation made of matrix products.

XLA hands `jnp.linalg.cholesky` on a CPU to LAPACK, which runs far below the rate of its matrix
products and fights with them for the cores; on a TPU it loops over columns. Recursion leaves to it
only blocks of 128 on the diagonal.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BASE = 128


def factor(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the inverse of the lower Cholesky factor; NaN where the matrix is not positive.

    The inverse, because applying it is a product too: `solve` uses it twice.

    Args:
      matrix: symmetric and positive definite, any float dtype.
    """
    n = matrix.shape[0]
    if n <= _BASE:
        lower = jnp.linalg.cholesky(matrix)
        return jax.scipy.linalg.solve_triangular(lower, jnp.eye(n, dtype=matrix.dtype), lower=True)
    h = n // 2
    first = factor(matrix[:h, :h])
    below = _product(matrix[h:, :h], first.T)
    second = factor(matrix[h:, h:] - _product(below, below.T))
    corner = -_product(second, _product(below, first))
    return jnp.block([[first, jnp.zeros((h, n - h), matrix.dtype)], [corner, second]])


def solve(
    inverse: Float[Array, "n n"], sides: Float[Array, "n m"]
) -> Float[Array, "n m"]:
    """Solves for many right-hand sides, given what `factor` returned."""
    return _product(inverse.T, _product(inverse, sides))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")

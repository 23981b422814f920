"""Cholesky factorisation and solves built on matrix products, for batches of matrices.

On a CPU XLA hands its own to LAPACK, one matrix at a time and far below the multiply rate; on an
accelerator a triangular solve is a chain of dependent steps. Here panels are updated by products,
and the triangular blocks on the diagonal are inverted, so that solves are products too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BLOCK = 256  # width of a panel
_LEAF = 128  # size that is left to XLA's factorisation

Panels = list[tuple[jax.Array, jax.Array]]  # inverse of the diagonal block, and the rows below it


def factor(a: Float[Array, "*batch n n"]) -> Panels:
    """Factors symmetric positive definite matrices; n is a multiple of 256, or at most 256."""
    panels: Panels = []
    for start in range(0, a.shape[-1], _BLOCK):
        panel = a[..., start:, start : start + _BLOCK]
        for k, (_, below) in enumerate(panels):
            rows = below[..., start - (k + 1) * _BLOCK :, :]
            panel = panel - _times(rows, _transpose(rows[..., : panel.shape[-1], :]))
        width = panel.shape[-1]
        inverse = _inverse_factor(panel[..., :width, :])
        panels.append((inverse, _times(panel[..., width:, :], _transpose(inverse))))
    return panels


def solve(panels: Panels, r: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Solves a z = r for the matrices that `factor` was given."""
    half = []
    for inverse, below in panels:
        y = _apply(inverse, r[..., : inverse.shape[-1]])
        r = r[..., inverse.shape[-1] :] - _apply(below, y)
        half.append(y)
    z = r  # empty
    for (inverse, below), y in zip(reversed(panels), reversed(half), strict=True):
        y = _apply(_transpose(inverse), y - _apply(_transpose(below), z))
        z = jnp.concatenate([y, z], -1)
    return z


def _inverse_factor(a):
    """Returns inv(L) of a = L L'."""
    n = a.shape[-1]
    if n <= _LEAF:
        return _inverse_triangle(jax.lax.linalg.cholesky(a, symmetrize_input=False))
    h = n // 2
    first = _inverse_factor(a[..., :h, :h])
    below = _times(a[..., h:, :h], _transpose(first))
    last = _inverse_factor(a[..., h:, h:] - _times(below, _transpose(below)))
    return _lower(first, -_times(last, _times(below, first)), last)


def _inverse_triangle(l):
    """Inverts lower triangles of size 2^k; both halves of the diagonal go down as one batch."""
    n = l.shape[-1]
    if n == 1:
        return 1 / l
    h = n // 2
    first, last = _inverse_triangle(jnp.stack([l[..., :h, :h], l[..., h:, h:]]))
    return _lower(first, -_times(_times(last, l[..., h:, :h]), first), last)


def _lower(first, below, last):
    top = jnp.concatenate([first, jnp.zeros_like(_transpose(below))], -1)
    return jnp.concatenate([top, jnp.concatenate([below, last], -1)], -2)


def _transpose(a):
    return jnp.swapaxes(a, -1, -2)


def _times(a, b):
    return jnp.matmul(a, b, precision="highest")


def _apply(a, v):
    return jnp.einsum("...ij,...j->...i", a, v, precision="highest")

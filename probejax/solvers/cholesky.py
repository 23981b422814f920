"""Cholesky factorisation and solves built on matrix products, for batches of matrices.

On a CPU XLA hands its own to LAPACK, one matrix at a time and far below the multiply rate; on an
accelerator a triangular solve is a chain of dependent steps. Here panels are updated by products,
and the triangular blocks on the diagonal are inverted, so that solves are products too.

`factor` and `factor_gram` write the panels out and compute half of each matrix, which is what
counts on a CPU. `inverse_factor` is a loop over panels of whole matrices: three times the products,
which an accelerator has for little, and a tenth to compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import platform_dependent
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

_BLOCK = 256  # width of a panel
_LEAF = 128  # size that is left to XLA's factorisation

Panels = list[tuple[jax.Array, jax.Array]]  # inverse of the diagonal block, and the rows below it


def factor(a: Float[Array, "*batch n n"]) -> Panels:
    """Factors symmetric positive definite matrices."""
    more = _padding(a.shape[-1])
    if more:
        none = [(0, 0)] * (a.ndim - 2)
        a = jnp.pad(a, [*none, (0, more), (0, more)])
        a = a.at[..., jnp.arange(-more, 0), jnp.arange(-more, 0)].set(1)
    return _factor(a.shape[-1], lambda rows, columns: a[..., rows, columns])


def factor_gram(r: Float[Array, "*batch n m"], diagonal: Float[Array, "*batch n"]) -> Panels:
    """Factors r r' + diag(diagonal); only the half of the product that counts is computed."""
    none, more = [(0, 0)] * (r.ndim - 2), _padding(r.shape[-2])
    r = jnp.pad(r, [*none, (0, more), (0, 0)])
    diagonal = jnp.pad(diagonal, [*none, (0, more)], constant_values=1)

    def part(rows, columns):
        block = _times(r[..., rows, :], _transpose(r[..., columns, :]))
        on = jnp.arange(columns.stop - columns.start)
        return block.at[..., on, on].add(diagonal[..., columns])

    return _factor(r.shape[-2], part)


def _factor(n: int, part: Callable[[slice, slice], jax.Array]) -> Panels:
    """Factors the matrix of which `part` returns blocks, panel by panel from the left."""
    panels: Panels = []
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        panel = part(slice(start, n), slice(start, stop))
        for k, (_, below) in enumerate(panels):
            rows = below[..., start - (k + 1) * _BLOCK :, :]
            panel = panel - _times(rows, _transpose(rows[..., : stop - start, :]))
        inverse = _inverse_factor(panel[..., : stop - start, :])
        panels.append((inverse, _times(panel[..., stop - start :, :], _transpose(inverse))))
    return panels


def solve(panels: Panels, r: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Solves a z = r for the matrices that were factored."""
    n = r.shape[-1]
    r = jnp.pad(r, [(0, 0)] * (r.ndim - 1) + [(0, _padding(n))])
    half = []
    for inverse, below in panels:
        y = _apply(inverse, r[..., : inverse.shape[-1]])
        r = r[..., inverse.shape[-1] :] - _apply(below, y)
        half.append(y)
    z = r  # empty
    for (inverse, below), y in zip(reversed(panels), reversed(half), strict=True):
        y = _apply(_transpose(inverse), y - _apply(_transpose(below), z))
        z = jnp.concatenate([y, z], -1)
    return z[..., :n]


def inverse(panels: Panels) -> Float[Array, "*batch n n"]:
    """Returns inv(L) of the factored L L': costs as much again, and pays where solves are many.

    The size is padded; `solve_by_inverse` knows.
    """
    first, below = panels[0]
    n = first.shape[-1] + below.shape[-2]
    batch = first.shape[:-2]
    found: list[Array] = []  # rows of inv(L), as far as they are not 0
    left = jnp.zeros((*batch, n, 0), first.dtype)  # of L inv(L) = 1, what the rows so far leave
    for diagonal, below in panels:
        start, size = left.shape[-1], diagonal.shape[-1]
        rows = jnp.concatenate([_times(diagonal, left[..., :size, :]), diagonal], -1)
        found.append(rows)
        new = jnp.concatenate(
            [left[..., size:, :], jnp.zeros((*batch, n - start - size, size), first.dtype)], -1
        )
        left = new - _times(below, rows)
    wide = [(0, 0)] * (first.ndim - 1)
    return jnp.concatenate([jnp.pad(r, [*wide, (0, n - r.shape[-1])]) for r in found], -2)


def inverse_factor(a: Float[Array, "n n"]) -> Float[Array, "m m"]:
    """Returns inv(L) of the positive definite a = L L', in one loop.

    The size is padded; `solve_by_inverse` knows.
    """
    n = a.shape[-1]
    more = _padding(n)
    size = min(_LEAF, n + more)
    every = jnp.arange(n + more)
    a = jnp.pad(a, ((0, more), (0, more))) + jnp.diag((every >= n).astype(a.dtype))

    def panel(number, state):
        a, inverse = state  # L where it is known, else what is left of a; the rows so far
        at = number * size
        rows, columns = (jax.lax.dynamic_slice_in_dim(a, at, size, axis) for axis in (0, 1))
        diagonal = _inverse_factor(jax.lax.dynamic_slice_in_dim(rows, at, size, 1))
        before = jnp.where(every[None, :] < at, rows, 0)
        one = (every[None, :] == at + jnp.arange(size)[:, None]).astype(a.dtype)
        new = _times(diagonal, one - _times(before, inverse))
        below = jnp.where(every[:, None] >= at + size, _times(columns, diagonal.T), 0)
        a = jax.lax.dynamic_update_slice_in_dim(a - _times(below, below.T), below, at, 1)
        return a, jax.lax.dynamic_update_slice_in_dim(inverse, new, at, 0)

    return jax.lax.fori_loop(0, len(a) // size, panel, (a, jnp.zeros_like(a)))[1]


def solve_by_inverse(
    inverse: Float[Array, "*batch m m"], r: Float[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Solves a z = r with what `inverse` returned for a."""
    n, m = r.shape[-1], inverse.shape[-1]
    r = jnp.pad(r, [(0, 0)] * (r.ndim - 1) + [(0, m - n)])
    half = _apply(inverse, r)
    return jnp.einsum("...ij,...i->...j", inverse, half, precision="highest")[..., :n]


def solver(a: Float[Array, "n n"]) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
    """Returns what solves a z = r for a positive definite matrix of few rows.

    By substitution on a CPU. On an accelerator that is a chain of short steps, so there the factor
    is inverted once, and every r costs two products.
    """
    half = platform_dependent(
        a, cpu=jnp.linalg.cholesky, default=lambda a: _inverse_triangle(jnp.linalg.cholesky(a))
    )
    return lambda r: platform_dependent(
        half, r, cpu=lambda factor, r: cho_solve((factor, True), r), default=solve_by_inverse
    )


def _padding(n: int) -> int:
    """Returns how many rows bring n to a size that halves down to the leaves."""
    return -n % _LEAF if n > _LEAF else (1 << (n - 1).bit_length()) - n


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
    one = jnp.broadcast_to(jnp.eye(l.shape[-1], dtype=l.dtype), l.shape)
    return jax.lax.linalg.triangular_solve(l, one, left_side=True, lower=True)


def _lower(first, below, last):
    top = jnp.concatenate([first, jnp.zeros_like(_transpose(below))], -1)
    return jnp.concatenate([top, jnp.concatenate([below, last], -1)], -2)


def _transpose(a):
    return jnp.swapaxes(a, -1, -2)


def _times(a, b):
    return jnp.matmul(a, b, precision="highest")


def _apply(a, v):
    return jnp.einsum("...ij,...j->...i", a, v, precision="highest")

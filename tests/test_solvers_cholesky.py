"""The factorisation out of products, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax.solvers import cholesky


@pytest.mark.parametrize("n", [1, 5, 12, 64, 100, 128, 200, 256, 300, 640])
def test_solves_what_was_factored(n):
    rng = np.random.default_rng(n)
    r = rng.normal(size=(2, n, n + 7))
    diagonal = rng.uniform(1, 2, size=(2, n))
    matrix = r @ r.swapaxes(1, 2) + np.eye(n) * diagonal[:, :, None]
    side = rng.normal(size=(2, n))
    expected = np.linalg.solve(matrix, side[:, :, None])[:, :, 0]
    with jax.enable_x64(True):
        panels = cholesky.factor(jnp.asarray(matrix))
        np.testing.assert_allclose(cholesky.solve(panels, jnp.asarray(side)), expected, rtol=1e-8)
        panels = cholesky.factor_gram(jnp.asarray(r), jnp.asarray(diagonal))
        np.testing.assert_allclose(cholesky.solve(panels, jnp.asarray(side)), expected, rtol=1e-8)
        inverse = cholesky.inverse(panels)
        np.testing.assert_array_equal(np.triu(inverse, 1), 0)
        in_a_loop = jax.vmap(cholesky.inverse_factor)(jnp.asarray(matrix))
        for found in (inverse, in_a_loop):
            again = cholesky.solve_by_inverse(found, jnp.asarray(side))
            np.testing.assert_allclose(again, expected, rtol=1e-8)


def test_what_is_not_positive_definite_comes_out_as_nan():
    with jax.enable_x64(True):
        matrix = jnp.asarray(np.diag([1.0, -1.0, 1.0]))
        assert np.isnan(np.asarray(cholesky.solve(cholesky.factor(matrix), jnp.ones(3)))).any()
        inverse = cholesky.inverse_factor(matrix)
        assert np.isnan(np.asarray(cholesky.solve_by_inverse(inverse, jnp.ones(3)))).all()

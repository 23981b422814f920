"""The standard scaler against scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from probejax.probes import scale


def problem(n=300, d=9, seed=0):
    """Features far from zero, as residual streams have them, and one that is constant."""
    rng = np.random.default_rng(seed)
    x = 7000 * rng.normal(size=d) + rng.normal(size=(n, d)) * np.geomspace(1e-2, 1e3, d)
    x[:, 4] = 6950.3
    return x.astype(np.float32), rng.random(n) < 0.6


def test_equal_to_scikit_learn():
    x, mask = problem()
    z, found = scale.standardise(jnp.asarray(x), jnp.asarray(mask))
    expected = StandardScaler().fit(x[mask].astype(float))
    np.testing.assert_allclose(found.mean, expected.mean_, rtol=1e-7)
    np.testing.assert_allclose(found.scale, expected.scale_, rtol=1e-6)
    units = np.spacing(np.abs(x)) / expected.scale_  # what float32 leaves of a value near 7,000
    truth = expected.transform(x.astype(float))
    assert np.all(np.abs(z - truth) <= 1e-5 * np.abs(truth) + 2 * units)


def test_equal_to_scikit_learn_in_float64():
    x, mask = problem()
    with jax.enable_x64(True):
        z, found = scale.standardise(jnp.asarray(x, float), jnp.asarray(mask))
    expected = StandardScaler().fit(x[mask].astype(float))
    np.testing.assert_allclose(found.scale, expected.scale_, rtol=1e-12)
    np.testing.assert_allclose(z, expected.transform(x.astype(float)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [6950.3, 0.1, -3e-5, 0.0])
@pytest.mark.parametrize("n", [1, 3, 1024])
def test_a_feature_of_one_value_keeps_its_scale(value, n):
    x = np.full((n + 2, 2), value, np.float32)
    x[n:] = 5.0  # outside the mask
    found = scale.learn(jnp.asarray(x), jnp.arange(n + 2) < n)
    np.testing.assert_array_equal(found.scale, [1.0, 1.0])
    np.testing.assert_array_equal(found.mean, x[0])


def test_rows_outside_the_mask_have_no_influence_but_are_scaled():
    x, mask = problem()
    other = np.where(mask[:, None], x, np.nan).astype(np.float32)
    other[0], mask[0] = 1e9, False
    z, found = scale.standardise(jnp.asarray(other), jnp.asarray(mask))
    expected = scale.learn(jnp.asarray(x[mask]), jnp.ones(mask.sum(), bool))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(z[0], (1e9 - found.mean) / found.scale, rtol=1e-6)


def test_nan_in_a_counted_row_spreads_over_its_feature_only():
    x, mask = problem()
    row = np.flatnonzero(mask)[5]
    x[row, 2] = np.nan
    found = scale.learn(jnp.asarray(x), jnp.asarray(mask))
    np.testing.assert_array_equal(np.isnan(found.mean), np.arange(9) == 2)
    np.testing.assert_array_equal(np.isnan(found.scale), np.arange(9) == 2)


def test_many_at_once():
    x, mask = problem()
    masks = jnp.stack([jnp.asarray(mask), ~jnp.asarray(mask)])
    together = jax.vmap(scale.learn, in_axes=(None, 0))(jnp.asarray(x), masks)
    for lane in range(2):
        alone = scale.learn(jnp.asarray(x), masks[lane])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[lane], theirs, rtol=1e-6)

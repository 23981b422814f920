"""Every family but Gemma 2 and 3 against transformers' PyTorch classes, in float32 and in bfloat16.

The models are tiny and random, and every feature of the family bites. Their weights go through the
files that transformers writes and the loader that users get; activations are taken by hooks on
transformers' own modules.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import models
from tests import family_cases
from tests.family_cases import N_LAYERS, SITES, error, padded, run_theirs

RTOL = 1e-5  # of the norm of a token's activation; float32 gives about 1e-6
READ = jax.jit(models.read_sites, static_argnames="sites")
LOGITS = jax.jit(models.logits)


@pytest.fixture(scope="module", params=family_cases.CASES)
def pair(request, tmp_path_factory):
    """The case, transformers' model, and the folder that it was saved to."""
    theirs = family_cases.build(request.param)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    theirs.save_pretrained(folder)
    return request.param, theirs, folder


def load(folder, dtype=jnp.float32):
    return models.find(str(folder)).transformer(None, dtype)


def run_ours(model, ids, mask):
    found = READ(model, jnp.asarray(ids), jnp.asarray(mask), SITES)
    logits = LOGITS(model, jnp.asarray(ids), jnp.asarray(mask))
    return {site: np.asarray(x, np.float32) for site, x in found.items()}, np.asarray(logits)


def test_every_site_and_the_logits(pair):
    case, theirs, folder = pair
    ids, mask = padded()
    expected, expected_logits = run_theirs(case, theirs, ids, mask)
    found, logits = run_ours(load(folder), ids, mask)
    assert found.keys() == expected.keys() and len(found) == 1 + 4 * N_LAYERS
    for site in SITES:
        assert error(found[site], expected[site], mask) < RTOL, site
    assert error(logits, expected_logits, mask) < RTOL


def test_bfloat16_is_as_near_to_float32_as_in_transformers(pair):
    """Of the mean error over tokens and sites: one token's is chance."""
    case, theirs, folder = pair
    ids, mask = padded()
    exact, exact_logits = run_theirs(case, theirs, ids, mask)
    found, logits = run_ours(load(folder, jnp.bfloat16), ids, mask)
    half = family_cases.build(case).bfloat16()
    rounded, rounded_logits = run_theirs(case, half, ids, mask)

    def off(values, last):
        pairs = [(values[s], exact[s]) for s in SITES[1:]] + [(last, exact_logits)]
        norm = functools.partial(np.linalg.norm, axis=-1)
        return np.mean([(norm(x - y) / norm(y))[mask].mean() for x, y in pairs])

    assert 1e-4 < off(found, logits) < 1.2 * off(rounded, rounded_logits)

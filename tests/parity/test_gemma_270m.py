"""The real Gemma 3 270M against transformers' PyTorch classes, both reading the same GGUF file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import artifacts, models, tasks
from probejax.models import tokens
from probejax.sites import EMBEDDING, Site
from tests.reference import torch_gemma, torch_residuals

pytestmark = pytest.mark.thorough
RTOL = 1e-4  # of the norm of a token's residual
PROMPTS = {
    "one token": "",
    "english": "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "code": "def f(x):\n    return {x: [1, 2.5e-3]}\n",
    "scripts": "Ünïcödé 日本語のテキスト العربية 🙂",
}
NAMES = (*PROMPTS, "beyond the window")
SITES = (EMBEDDING, *(Site("resid_post", layer) for layer in range(18)))
FORWARD = jax.jit(models.read_sites, static_argnames="sites")


@pytest.fixture(scope="module")
def path():
    return artifacts.gemma_3_270m()


@pytest.fixture(scope="module")
def ours(path):
    return models.load("gemma-3-270m")


@pytest.fixture(scope="module")
def theirs(path):
    return torch_gemma.load(path)


@pytest.fixture(scope="module")
def ids(ours):
    # Real text: on a long made-up list, some tokens are so sensitive that transformers' own
    # float32 is 3e-4 away from its float64.
    long = tasks.load("100_news_fake").prompts[7]
    found = tokens.encode(ours.tokenizer, [*PROMPTS.values(), long], max_length=640)
    assert len(found[0]) == 1 and len(found[-1]) == 640  # the window is 512
    return dict(zip(NAMES, found, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_residual_at_every_layer(ours, theirs, ids, name):
    expected = torch_residuals.read(theirs, ids[name], SITES)
    length = len(ids[name])
    row = np.zeros((1, max(length, 32)), np.int32)  # padded, so that the short ones share a program
    row[0, :length] = ids[name]
    mask = np.arange(row.shape[1])[None] < length
    found = FORWARD(ours.transformer, jnp.asarray(row), jnp.asarray(mask), sites=SITES)
    errors = torch_residuals.errors(found, expected)
    assert max(errors.values()) < RTOL, errors

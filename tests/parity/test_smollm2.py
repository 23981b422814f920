"""The real SmolLM2-135M, a Llama, against transformers' PyTorch class on the same GGUF file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from probejax import artifacts, models, tasks
from probejax.sites import EMBEDDING, Site
from tests.reference import torch_llama, torch_residuals

pytestmark = pytest.mark.thorough
RTOL = 1e-4  # of the norm of a token's residual
PROMPTS = {
    "english": "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "code": "def f(x):\n    return {x: [1, 2.5e-3]}\n",
    "scripts": "Ünïcödé 日本語のテキスト العربية 🙂",
    "chat": "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "long": None,
}
SITES = (EMBEDDING, *(Site("resid_post", layer) for layer in range(30)))
FORWARD = jax.jit(models.read_sites, static_argnames="sites")
LOGITS = jax.jit(models.logits)


@pytest.fixture(scope="module")
def ours():
    return models.load("smollm2-135m")


@pytest.fixture(scope="module")
def theirs():
    return torch_llama.load(artifacts.smollm2_135m())


@pytest.mark.parametrize("name", PROMPTS)
def test_residual_at_every_layer_and_the_next_token(ours, theirs, name):
    text = PROMPTS[name] or tasks.load("100_news_fake").prompts[7]
    ids = ours.tokenizer.encode(text, add_special_tokens=False).ids[:500]
    expected = torch_residuals.read(theirs, ids, SITES)
    with torch.no_grad():
        last = theirs(torch.tensor(ids).long()[None]).logits[0, -1].numpy()
    length = len(ids)
    row = np.zeros((1, 500 if length > 64 else 64), np.int32)
    row[0, :length] = ids
    mask = np.arange(row.shape[1])[None] < length
    found = FORWARD(ours.transformer, jnp.asarray(row), jnp.asarray(mask), sites=SITES)
    errors = torch_residuals.errors(found, expected)
    assert max(errors.values()) < RTOL, errors
    logits = np.asarray(LOGITS(ours.transformer, jnp.asarray(row), jnp.asarray(mask)))
    assert np.abs(logits[0, length - 1] - last).max() < 1e-3

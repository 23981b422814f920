"""The real Gemma 3 270M against transformers' PyTorch classes, both reading the same GGUF file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from probejax import artifacts, models
from probejax.models import tokens

RTOL = 1e-4  # of the norm of a token's residual
PROMPTS = {
    "one token": "",
    "english": "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "code": "def f(x):\n    return {x: [1, 2.5e-3]}\n",
    "scripts": "Ünïcödé 日本語のテキスト العربية 🙂",
    "beyond the window": " ".join(f"Line {i}: {i * i} is the square of {i}." for i in range(45)),
}
LAYERS = tuple(range(models.EMBED, 18))


@pytest.fixture(scope="module")
def path():
    return artifacts.gemma_3_270m()


@pytest.fixture(scope="module")
def ours(path):
    return models.load("gemma-3-270m")


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def ids(ours):
    found = tokens.encode(ours.tokenizer, list(PROMPTS.values()), max_length=1024)
    lengths = dict(zip(PROMPTS, map(len, found), strict=True))
    assert lengths["one token"] == 1
    assert 512 < lengths["beyond the window"] < 1000
    return dict(zip(PROMPTS, found, strict=True))


def reference(model, prompt):
    """Returns layer -> [tokens, 640]; hooks, as the last hidden state of transformers is normed."""
    found = {}
    modules = {layer: model.model.layers[layer] for layer in LAYERS if layer >= 0}
    handles = [
        module.register_forward_hook(lambda m, a, y, i=i: found.__setitem__(i, y[0].numpy()))
        for i, module in {**modules, models.EMBED: model.model.embed_tokens}.items()
    ]
    with torch.no_grad():
        model.model(torch.tensor(prompt).long()[None])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", PROMPTS)
def test_residual_at_every_layer(ours, theirs, ids, name, record_property):
    expected = reference(theirs, ids[name])
    forward = jax.jit(models.residuals, static_argnames="layers")
    mask = jnp.ones((1, len(ids[name])), bool)
    found = forward(ours.transformer, jnp.asarray(ids[name])[None], mask, layers=LAYERS)
    errors = {}
    for layer in LAYERS:
        x, y = np.asarray(found[layer])[0], expected[layer]
        assert x.shape == y.shape == (len(ids[name]), 640)
        errors[layer] = (np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)).max()
    record_property("relative_errors", str(errors))
    assert max(errors.values()) < RTOL, errors



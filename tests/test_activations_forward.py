import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import models
from probejax.activations.forward import _residuals, batches, run
from probejax.models import tokens
from tests import tiny_models

LAYERS = (-1, 0, 2)
MODEL = tiny_models.language_model()
PROMPTS = [*tiny_models.prompts(40, 30), "", "w1 " * 140]
IDS = tokens.encode(MODEL.tokenizer, PROMPTS, 1024)


@pytest.fixture(scope="module")
def alone():
    """layer -> per prompt, its residuals from a run of its own, padded to one shape."""
    forward = jax.jit(models.residuals, static_argnames="layers")
    found = {layer: [] for layer in LAYERS}
    for ids in IDS:
        row = np.zeros((1, 160), np.int32)
        row[0, : len(ids)] = ids
        mask = jnp.asarray(np.arange(160) < len(ids))[None]
        for layer, x in forward(MODEL.transformer, jnp.asarray(row), mask, layers=LAYERS).items():
            found[layer].append(np.asarray(x)[0, : len(ids)])
    return found


@pytest.mark.parametrize("batch_tokens", [256, 1024])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_packed_equals_one_by_one(alone, positions, batch_tokens):
    todo = batches(IDS, batch_tokens)
    assert any(len(batch.prompts) > len(batch.tokens) for batch in todo)  # several to a row
    seen, total = [], 0
    for part in run(MODEL.transformer, todo, LAYERS, positions):
        total += part.tokens
        seen += part.prompts.tolist()
        for layer in LAYERS:
            expected = [
                alone[layer][p] if positions == "all" else alone[layer][p][-1:]
                for p in part.prompts
            ]
            assert part.counts.tolist() == [len(x) for x in expected]
            np.testing.assert_allclose(
                part.rows[layer], np.concatenate(expected), rtol=0, atol=2e-5
            )
    assert sorted(seen) == list(range(len(PROMPTS)))
    assert total == sum(len(ids) for ids in IDS)


def test_longer_prompts_keep_bos_and_their_end(alone):
    """The study's rule: the left is cut off, BOS stays, and the last real token is kept."""
    (cut,) = tokens.encode(MODEL.tokenizer, ["w7 " * 100 + PROMPTS[0]], len(IDS[0]))
    assert np.array_equal(cut, IDS[0])
    (part,) = run(MODEL.transformer, batches([cut], 128), (2,), "last")
    np.testing.assert_allclose(part.rows[2][0], alone[2][0][-1], rtol=0, atol=2e-5)


def test_few_compilations():
    """Batches of one shape share one program, whatever prompts they hold."""
    _residuals.clear_cache()
    for n in (30, 35, 40):
        list(run(MODEL.transformer, batches(IDS[:n], 256), (0,), "last"))
    assert _residuals._cache_size() == 1

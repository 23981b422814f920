import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import devices, models
from probejax.activations import forward
from probejax.activations.forward import _read_sites, batches, run
from probejax.models import tokens
from probejax.sites import parse
from tests import tiny_models

SITES = tuple(map(parse, ("embed", "attn_z.0", 0, "mlp_out.1", "attn_out.2", 2)))
AFTER = SITES[-1]
MODEL = tiny_models.language_model()
PROMPTS = [*tiny_models.prompts(40, 30), "", "w1 " * 140]
IDS = tokens.encode(MODEL.tokenizer, PROMPTS, 1024)


@pytest.fixture(scope="module")
def alone():
    """site -> per prompt, its activations from a run of its own, padded to one shape."""
    forward = jax.jit(models.read_sites, static_argnames="sites")
    found = {site: [] for site in SITES}
    for ids in IDS:
        row = np.zeros((1, 160), np.int32)
        row[0, : len(ids)] = ids
        mask = jnp.asarray(np.arange(160) < len(ids))[None]
        for site, x in forward(MODEL.transformer, jnp.asarray(row), mask, sites=SITES).items():
            found[site].append(np.asarray(x)[0, : len(ids)])
    return found


@pytest.mark.parametrize("batch_tokens", [256, 1024])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_packed_equals_one_by_one(alone, positions, batch_tokens):
    todo = batches(IDS, batch_tokens)
    assert any(len(batch.prompts) > len(batch.tokens) for batch in todo)  # several to a row
    seen, total = [], 0
    for part in run(MODEL.transformer, todo, SITES, positions):
        total += part.tokens
        seen += part.prompts.tolist()
        for site in SITES:
            expected = [
                alone[site][p] if positions == "all" else alone[site][p][-1:] for p in part.prompts
            ]
            assert part.counts.tolist() == [len(x) for x in expected]
            np.testing.assert_allclose(part.rows[site], np.concatenate(expected), rtol=0, atol=2e-5)
    assert sorted(seen) == list(range(len(PROMPTS)))
    assert total == sum(len(ids) for ids in IDS)


@pytest.mark.parametrize("apart", [False, True])
def test_a_device_apart_has_the_next_batch_while_the_caller_has_one(apart, monkeypatch):
    begun, todo = [], batches(IDS, 256)
    original = forward._read_sites
    note = lambda *args: begun.append(1) or original(*args)
    expected = list(run(MODEL.transformer, todo, (AFTER,)))
    monkeypatch.setattr(forward, "_read_sites", note)
    monkeypatch.setattr(devices, "apart", lambda: apart)
    ahead = []
    for number, part in enumerate(run(MODEL.transformer, todo, (AFTER,))):
        ahead.append(len(begun) - number - 1)
        assert np.array_equal(part.prompts, expected[number].prompts)
        assert np.array_equal(part.rows[AFTER], expected[number].rows[AFTER])
    assert len(todo) == len(ahead) > 2
    assert ahead == [*[int(apart)] * (len(todo) - 1), 0]


@pytest.mark.parametrize("config", [tiny_models.GEMMA2, tiny_models.GEMMA3])
def test_a_prompt_has_the_same_bytes_whatever_stands_beside_it(config):
    """On a CPU: so a task's units do not depend on which prompts the cache has already."""
    model = tiny_models.language_model(config)
    ids = tokens.encode(model.tokenizer, [p or "w0" for p in tiny_models.prompts(300, 6)], 1024)
    some = np.flatnonzero(np.random.default_rng(0).random(len(ids)) < 0.7)

    def last(prompts):
        parts = list(run(model.transformer, batches(prompts), (parse(1),)))
        rows = np.concatenate([part.rows[parse(1)] for part in parts])
        return rows[np.argsort(np.concatenate([part.prompts for part in parts]))]

    assert np.array_equal(last(ids)[some], last([ids[i] for i in some]))


def test_longer_prompts_keep_bos_and_their_end(alone):
    """The study's rule: the left is cut off, BOS stays, and the last real token is kept."""
    (cut,) = tokens.encode(MODEL.tokenizer, ["w7 " * 100 + PROMPTS[0]], len(IDS[0]))
    assert np.array_equal(cut, IDS[0])
    (part,) = run(MODEL.transformer, batches([cut], 128), (AFTER,), "last")
    np.testing.assert_allclose(part.rows[AFTER][0], alone[AFTER][0][-1], rtol=0, atol=2e-5)


def test_few_compilations():
    """Batches of one shape share one program, whatever prompts they hold."""
    _read_sites.clear_cache()
    for n in (30, 35, 40):
        list(run(MODEL.transformer, batches(IDS[:n], 256), (AFTER,), "last"))
    assert _read_sites._cache_size() == 1

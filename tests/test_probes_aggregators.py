"""Every aggregator against a plain loop over prompts, with padding of every length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probejax import probes
from probejax.activations import ragged
from probejax.probes import aggregators, attention, pooled_logreg, token_scores
from probejax.probes.attention import Design
from tests import probe_cases, token_cases

LENGTHS = (1, 2, 3, 5, 8, 13)
SETTINGS = (0.0, 1.0, 2.0, 4.0, 0.3)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def rolling(s, setting):
    width = min(int(setting), len(s))
    return max(s[i : i + width].mean() for i in range(len(s) - width + 1))


def averages(s, a):
    found = [s[0]]
    for each in s[1:]:
        found.append(a * each + (1 - a) * found[-1])
    return max(found)


# aggregator -> its settings, its number of scores, and the loop; s is [t, c]
LOOPS = {
    "mean": ((0.0,), 1, lambda s, _: s[:, 0].mean()),
    "last": ((0.0,), 1, lambda s, _: s[-1, 0]),
    "multimax": ((0.0,), 3, lambda s, _: s.max(axis=0).sum()),
    "softmax": ((0.3, 1.0, 4.0), 1, lambda s, t: softmax(s[:, 0] / t) @ s[:, 0]),
    "attention": (
        (0.0,),
        4,
        lambda s, _: sum(softmax(s[:, h]) @ s[:, 2 + h] for h in range(2)),
    ),
    "max_of_rolling_means": ((1.0, 2.0, 4.0, 40.0), 1, lambda s, w: rolling(s[:, 0], w)),
    "ema": ((1.0, 0.5, 0.05), 1, lambda s, a: averages(s[:, 0], a)),
}


def test_every_aggregator_is_here():
    own = {
        n
        for n, f in vars(aggregators).items()
        if callable(f) and f.__module__ == "probejax.probes.aggregators"
    }
    assert {n for n in own if not n.startswith("_")} == LOOPS.keys()


@pytest.mark.parametrize("name", LOOPS)
def test_against_a_loop(name):
    settings, c, loop = LOOPS[name]
    aggregate = jax.jit(getattr(aggregators, name))
    slope = jax.jit(jax.grad(getattr(aggregators, name)))
    rng = np.random.default_rng(0)
    for setting in settings:
        for n in LENGTHS:
            s = rng.normal(size=(n, c)).astype(np.float32) * 3
            rest = np.full((13 - n, c), np.nan, np.float32)  # padding may hold anything
            scores, real = jnp.asarray(np.concatenate([s, rest])), jnp.arange(13) < n
            found = aggregate(scores, real, jnp.float32(setting))
            np.testing.assert_allclose(found, loop(s, setting), rtol=1e-5, atol=1e-5)
            # And so must its slope be right, and none of padding.
            finite = jnp.where(jnp.isnan(scores), 1e3, scores)
            g = np.asarray(slope(finite, real, jnp.float32(setting)))
            assert (g[n:] == 0).all()
            step = 1e-6 * rng.normal(size=s.shape)
            change = loop(s + step, setting) - loop(s - step, setting)
            np.testing.assert_allclose(2 * (g[:n] * step).sum(), change, rtol=0.01, atol=1e-10)


@pytest.mark.parametrize("name", LOOPS)
def test_streamed_logits_equal_the_loop(name):
    settings, c, loop = LOOPS[name]
    counts = np.r_[1, np.arange(1, 60), 300]
    tokens = token_cases.shuffled(token_cases.tokens(counts, counts % 2))
    rng = np.random.default_rng(1)
    w = rng.normal(0, 0.3, (len(settings), c, token_cases.D)).astype(np.float32)
    b = rng.normal(size=len(settings)).astype(np.float32)
    aggregate = getattr(aggregators, name)
    found = token_scores.logits(
        tokens, np.arange(len(counts))[::-1], w, b, np.array(settings), aggregate
    )[:, ::-1]
    for probe, setting in enumerate(settings):
        for prompt, (start, n) in enumerate(zip(tokens.starts, counts, strict=True)):
            expected = loop(tokens.x[start : start + n] @ w[probe].T, setting) + b[probe]
            np.testing.assert_allclose(found[probe, prompt], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_residuals_equal_the_loop(pooling, monkeypatch):
    monkeypatch.setattr(ragged, "_TOGETHER", 64)
    counts = np.r_[1, np.arange(1, 60), 300, 2]
    tokens = token_cases.shuffled(token_cases.tokens(counts, counts % 2))
    found = ragged.pool(tokens, pooling)
    for row, start, n in zip(found, tokens.starts, counts, strict=True):
        x = tokens.x[start : start + n]
        expected = x.mean(axis=0) if pooling == "mean" else x.max(axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


Y = probe_cases.labels()
TOKENS = token_cases.tokens(np.random.default_rng(5).integers(2, 25, len(Y)), Y, strength=6.0)
((_, ROWS),) = probes.batches(probe_cases.conditions(Y, (140,)), (256,))


def test_pooled_probes_learn():
    found = {p: pooled_logreg.fit(TOKENS, ROWS, pooling=p).scores for p in ("mean", "max")}
    assert found["mean"].test_auc[0] > 0.7 and found["max"].test_auc[0] > 0.7
    assert (found["mean"].gap <= 1e-5).all()
    # BOS is the same everywhere: the largest values are its own, unless it stays out.
    loud = TOKENS._replace(x=TOKENS.x.copy())
    loud.x[loud.starts] = 1000.0
    without, within = (pooled_logreg.fit(loud, ROWS, pooling="max", bos=b) for b in (False, True))
    assert without.scores.test_auc[0] == found["max"].test_auc[0]
    assert within.scores.test_auc[0] == 0.5


@pytest.mark.parametrize(
    "name, vectors, settings, best",
    [
        ("multimax", 2, (0.0,), None),
        ("softmax", 1, (0.2, 5.0), None),
        ("max_of_rolling_means", 1, (1.0, 32.0), 1.0),
        ("ema", 1, (0.9, 0.02), 0.9),
    ],
)
def test_probes_of_every_aggregator_learn(name, vectors, settings, best):
    """The label shows in one token: short windows and short memories see it best."""
    design = Design(getattr(aggregators, name), vectors, settings, rates=(1e-2,), steps=150)
    found = attention.fit(TOKENS, ROWS, design=design)
    assert found.scores.test_auc[0] > 0.75
    if best is not None:
        assert found.scores.hyperparameter[0] == best == found.probe.setting[0]
    probe = found.probe
    without = ragged.without_bos(TOKENS)
    test = ROWS.test[0][ROWS.test_mask[0]]
    logits = token_scores.logits(without, test, probe.w, probe.b, probe.setting, design.aggregate)
    expected = roc_auc_score(ROWS.y_test[0][ROWS.test_mask[0]], logits[0])
    np.testing.assert_allclose(found.scores.test_auc[0], expected, atol=1e-6)

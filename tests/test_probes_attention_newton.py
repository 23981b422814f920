import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probejax import probes
from probejax.activations import ragged
from probejax.probes import attention, attention_newton, token_methods
from probejax.solvers import codes
from tests import probe_cases, token_cases

Y = probe_cases.labels()
COUNTS = np.random.default_rng(5).integers(1, 25, len(Y))
TOKENS = token_cases.tokens(COUNTS, Y, strength=6.0)


def test_pooling_equals_a_loop():
    query = np.random.default_rng(0).normal(size=(2, token_cases.D)).astype(np.float32)
    found = attention_newton.pool(TOKENS, np.arange(50), query)
    for row, start, count in zip(found, TOKENS.starts, COUNTS, strict=False):
        x = TOKENS.x[start : start + count]
        s = np.exp(x @ query.T - (x @ query.T).max(axis=0))
        expected = (s / s.sum(axis=0)).T @ x
        np.testing.assert_allclose(row, expected.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_fit(protocol):
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (40,)), (64,))
    found = attention_newton.fit(TOKENS, rows, protocol, heads=2, steps=60)
    assert found.scores.code[0] == codes.CONVERGED and found.scores.gap[0] <= 1e-6
    assert found.scores.test_auc[0] > 0.6
    # No values do better on the pooled prompts.
    train, y = (a[0][rows.train_mask[0]] for a in (rows.train, rows.y_train))
    z = attention_newton.pool(TOKENS, train, found.probe.w[0, :2]).astype(float)
    C = found.scores.hyperparameter[0]

    def objective(w, b):
        return 0.5 * w @ w + C * np.logaddexp(0, -(2 * y - 1) * (z @ w + b)).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops early, which is its affair
        sk = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(z, y)
    best = objective(sk.coef_[0], sk.intercept_[0])
    ours = objective(found.probe.w[0, 2:].ravel().astype(float), found.probe.b[0])
    assert ours <= best * (1 + 1e-5) and best < objective(np.zeros(z.shape[1]), 0.0)


def test_names():
    found = probes.parse("sae_max_k128")
    assert (found.k, found.binarised, found.control, found.pooling) == (128, False, "", "max")
    found = probes.parse("sae_mean_k16_binarised_shuffled")
    assert (found.k, found.pooling, found.control) == (16, "mean", "shuffled") and found.binarised
    assert probes.parse("sae_k16").pooling == "" and not probes.parse("sae_k16").reads_tokens
    for name in ("sae_max_k0", "sae_max", "sae_maxk5", "attention_random_latents"):
        with pytest.raises(ValueError, match=f"There is no method '{name}'"):
            probes.parse(name)
    assert set(token_methods.TOKEN_METHODS) == {
        *("attention", "attention_no_bos", "attention_h4", "attention_newton", "concat_pca"),
        *("mean_pool", "max_pool", "multimax", "max_of_rolling_means", "ema", "softmax"),
    }
    without = token_methods.TOKEN_METHODS["attention_no_bos"].keywords["design"]
    assert not without.bos and without._replace(bos=True) == attention.attention()
    assert tuple(token_methods.TOKEN_METHODS) == probes.methods.ALL_TOKENS
    assert all(probes.parse(name).reads_tokens for name in token_methods.TOKEN_METHODS)
    assert not any(probes.parse(name).reads_tokens for name in probes.methods.ALL)


def test_bos_counts_by_default():
    assert ragged.without_bos(TOKENS).counts.sum() < TOKENS.counts.sum()
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (40,)), (64,))
    a, b = (attention_newton.fit(TOKENS, rows, bos=bos, steps=60).probe for bos in (True, False))
    assert not np.allclose(a.w[:, 0], b.w[:, 0])

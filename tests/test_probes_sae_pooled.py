import jax.numpy as jnp
import numpy as np
import pytest

from probejax import probes, saes
from probejax.activations import ragged
from probejax.probes import pooled_latents, sae_pooled
from probejax.probes import sae as latent_probe
from probejax.saes.winners import Keep
from tests import probe_cases, token_cases

D, M = token_cases.D, 50
Y = probe_cases.labels()
COUNTS = np.r_[1, 1, np.arange(1, 70), 300, np.random.default_rng(1).integers(1, 30, len(Y) - 72)]
TOKENS = token_cases.tokens(COUNTS, Y)


def dictionary(keep=saes.sae.ALL, normalise="none", seed=0) -> saes.SAE:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in ((D, M), (M,), (M, D), (D,))]
    W_enc, b_enc, W_dec, b_dec = (jnp.asarray(a, jnp.float32) for a in arrays)
    threshold = jnp.asarray(rng.uniform(0, 1, M), jnp.float32)
    return saes.SAE(W_enc, b_enc, W_dec, b_dec, threshold, b_dec, keep=keep, normalise=normalise)


class Custom:
    """A dictionary that can only encode, with a latent that is on for padding alone."""

    def encode(self, x):
        zeros = 5.0 * (np.abs(x).max(axis=1, keepdims=True) == 0)
        return np.concatenate([np.maximum(x, 0), -np.minimum(x, 0), zeros], axis=1)


KINDS = {
    "jumprelu": dictionary(),
    "top": dictionary(Keep("top", 3)),
    "magnitude": dictionary(Keep("magnitude", 3)),
    "group": dictionary(Keep("group", 5)),
    "layer_norm": dictionary(normalise="layer_norm"),
}


def dense(sae, tokens, pooling):
    """Encodes all tokens, and pools prompt after prompt."""
    encode = sae.encode if isinstance(sae, Custom) else lambda x: saes.encode(sae, jnp.asarray(x))
    latents = np.asarray(encode(tokens.x))
    reduce = {"max": np.max, "mean": np.mean}[pooling]
    spans = zip(tokens.starts, tokens.starts + tokens.counts, strict=True)
    return np.stack([reduce(latents[start:end], axis=0) for start, end in spans])


@pytest.fixture(scope="module")
def expected():
    """kind, pooling -> dense pooled latents without BOS."""
    without = ragged.without_bos(TOKENS)
    every = {**KINDS, "custom": Custom()}
    return {(n, p): dense(sae, without, p) for n, sae in every.items() for p in ("max", "mean")}


@pytest.mark.parametrize(
    "kind, pooling",
    [*((kind, "max") for kind in (*KINDS, "custom")), ("jumprelu", "mean"), ("top", "mean")],
)
def test_streaming_equals_dense_encoding(expected, kind, pooling):
    sae = KINDS.get(kind, Custom())
    tokens, prompts = ragged.without_bos(token_cases.shuffled(TOKENS)), np.arange(len(Y))[::-1]
    found = list(sae_pooled.blocks(tokens, prompts, sae, pooling, block=16))
    width = found[0].latents.shape[1]
    assert [each.start for each in found] == ([0] if kind == "custom" else [0, 16, 32, 48])
    assert width == (25 if kind == "custom" else 16)
    whole = np.concatenate([np.asarray(each.latents) for each in found], axis=1)[::-1]
    # Products of another shape may round differently; which latents are active may not change.
    np.testing.assert_allclose(whole, expected[kind, pooling], rtol=1e-5, atol=2e-6)
    assert np.array_equal(whole != 0, expected[kind, pooling] != 0)
    latents = np.array([3, 7, 20, 24, 24])
    some = np.asarray(sae_pooled.pool_columns(tokens, prompts[:40], sae, latents, pooling))
    np.testing.assert_allclose(some, whole[::-1][:40][:, latents], rtol=1e-5, atol=2e-6)


def test_exactly_dense_where_arithmetic_is_exact():
    """Small whole numbers: no rounding, so streaming and dense agree in every bit."""
    whole = np.random.default_rng(0).integers(-3, 4, TOKENS.x.shape).astype(np.float32)
    tokens = TOKENS._replace(x=whole)
    exact = dictionary()
    exact = saes.SAE(
        jnp.round(exact.W_enc), jnp.round(exact.b_enc), None, jnp.zeros(D), jnp.ones(M)
    )
    (found,) = sae_pooled.blocks(tokens, np.arange(len(Y)), exact, "max", block=64)
    assert np.array_equal(np.asarray(found.latents), dense(exact, tokens, "max"))
    pairs = ragged.Activations(whole, tokens.starts, np.minimum(tokens.counts, 2))
    (found,) = sae_pooled.blocks(pairs, np.arange(len(Y)), exact, "mean", block=64)
    assert np.array_equal(np.asarray(found.latents), dense(exact, pairs, "mean"))


def test_no_array_of_tokens_times_latents(monkeypatch):
    """The largest array made is of a few tiles, however many tokens there are."""
    shapes = []
    original = pooled_latents.activate

    def watched(encoder, keep, pre, won, index):
        shapes.append(pre.shape)
        return original(encoder, keep, pre, won, index)

    monkeypatch.setattr(pooled_latents, "activate", watched)
    pooled_latents._add.clear_cache()  # it may have been traced with this shape
    list(sae_pooled.blocks(TOKENS, np.arange(len(Y)), KINDS["jumprelu"], "max", block=24))
    assert set(shapes) == {(1024, 24), (1024, 2)} and TOKENS.counts.sum() > 5000


def test_other_prompts_need_no_other_program():
    pooled_latents._add.clear_cache()
    for count in (len(Y) // 2, len(Y) - 1, len(Y)):
        list(sae_pooled.blocks(TOKENS, np.arange(count), KINDS["jumprelu"], "max", block=24))
    assert pooled_latents._add._cache_size() == 2  # blocks of 24 latents, and the last, of 2


@pytest.mark.parametrize(
    "protocol, pooling, binarised",
    [("paper", "max", False), ("strict", "max", False), ("strict", "mean", True)],
)
def test_selection_and_fit_equal_those_on_dense_pooled_latents(
    expected, protocol, pooling, binarised
):
    class Dense:
        """Pooled latents as a dictionary of prompts."""

        def encode(self, x):
            return expected["jumprelu", pooling][x[:, 0].astype(int)]

    found = probe_cases.conditions(Y, (2, 40, 140))
    numbers = jnp.arange(len(Y), dtype=jnp.float32)[:, None]
    for _, rows in probes.batches(found, (64, 256)):
        ours = sae_pooled.select(
            TOKENS, rows, KINDS["jumprelu"], 6, pooling, "raw", protocol, block=16
        )
        theirs = latent_probe.select(numbers, rows, Dense(), 6, "raw", protocol)
        assert np.array_equal(ours.latents, theirs.latents)
        fits = [
            latent_probe.fit(each, rows, 4, binarised=binarised, protocol=protocol).scores
            for each in (ours, theirs)
        ]
        np.testing.assert_allclose(fits[0].val_auc, fits[1].val_auc, atol=1e-3)
        np.testing.assert_allclose(fits[0].test_auc, fits[1].test_auc, atol=1e-3)
        assert (fits[0].test_auc[-1] > 0.6) or binarised


def test_bos_counts_if_wanted():
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (140,)), (256,))
    chosen = [
        sae_pooled.select(TOKENS, rows, KINDS["jumprelu"], M, "max", "raw", bos=bos)
        for bos in (False, True)
    ]
    for each, tokens in zip(chosen, (ragged.without_bos(TOKENS), TOKENS), strict=True):
        pooled = dense(KINDS["jumprelu"], tokens, "max")
        used = np.unique(np.r_[rows.train[0][rows.train_mask[0]], rows.test[0][rows.test_mask[0]]])
        at = np.asarray(each.values)[used][:, each.columns[0]]
        np.testing.assert_allclose(at, pooled[used][:, each.latents[0]], rtol=1e-5, atol=2e-6)
    assert not np.allclose(chosen[0].values, chosen[1].values)


def test_too_many_latents():
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (140,)), (256,))
    with pytest.raises(ValueError, match="k=51 latents were asked for, but the SAE has only 50"):
        sae_pooled.select(TOKENS, rows, KINDS["jumprelu"], M + 1, "max", "raw")

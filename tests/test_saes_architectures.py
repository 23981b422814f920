"""Competition among latents: ties, limits of k, NaN, any batch shape, streams over the width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import saes, sizes
from probejax.saes import stream
from probejax.saes.winners import Keep

D, M, N = 12, 60, 50
KEEPS = [Keep(), Keep("top", 7), Keep("magnitude", 7), Keep("group", 6), Keep("top", 1)]
ids = lambda keep: f"{keep.kind}{keep.k}" if isinstance(keep, Keep) else str(keep)


def make(keep, seed=0, **changes):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    fields = dict(
        W_enc=normal(D, M),
        b_enc=normal(M),
        W_dec=normal(M, D),
        b_dec=normal(D),
        threshold=jnp.zeros(M),
        center=normal(D),
        keep=keep,
    )
    return saes.SAE(**(fields | changes))


def pre_activations(sae, x):
    """One plain product in float32."""
    center, W_enc, b_enc = map(np.asarray, (sae.center, sae.W_enc, sae.b_enc))
    return (np.asarray(x) - center) @ W_enc + b_enc


def by_hand(sae, x):
    """The definition, row by row."""
    pre = pre_activations(sae, x)
    kind, k = sae.keep
    result = np.zeros_like(pre)
    for row, z in enumerate(pre):
        if kind == "group":
            width = len(z) // k
            kept = [g * width + int(np.argmax(z[g * width : (g + 1) * width])) for g in range(k)]
        else:
            by = np.abs(z) if kind == "magnitude" else z
            kept = np.argsort(-by, kind="stable")[: k or len(z)]
        result[row, kept] = z[kept] if kind == "magnitude" else np.maximum(z[kept], 0)
    return result


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(1).normal(size=(N, D)), jnp.float32)


@pytest.mark.parametrize("keep", KEEPS, ids=ids)
def test_dense_encoding_is_the_definition(keep, x):
    sae = make(keep)
    ours, theirs = np.asarray(saes.encode(sae, x)), by_hand(sae, x)
    np.testing.assert_array_equal(ours != 0, theirs != 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    if keep.kind == "magnitude":
        assert (ours < 0).any() and ((ours != 0).sum(axis=1) == 7).all()
    elif keep.k:
        assert (ours >= 0).all() and (ours != 0).sum(axis=1).max() <= keep.k


def test_fewer_positive_latents_than_k_leave_the_rest_at_zero(x):
    sae = make(Keep("top", 50), b_enc=jnp.full(M, -3.0))
    latents = np.asarray(saes.encode(sae, x))
    pre = pre_activations(sae, x)
    np.testing.assert_array_equal((latents > 0).sum(axis=1), (pre > 0).sum(axis=1))


@pytest.mark.parametrize("block", [1, 4, 10])
@pytest.mark.parametrize(
    "keep, expected",
    [
        (Keep("top", 3), [0, 1, 2]),
        (Keep("magnitude", 3), [0, 1, 2]),
        (Keep("group", 2), [0, 5]),
        (Keep("top", 10), list(range(10))),
    ],
    ids=ids,
)
def test_ties_go_by_index_dense_and_streamed(keep, expected, block):
    sae = saes.SAE(
        jnp.ones((2, 10)), jnp.zeros(10), jnp.ones((10, 2)), jnp.zeros(2), jnp.zeros(10), keep=keep
    )
    x = jnp.array([[1.0, 2.0], [0.5, 0.5]])
    wanted = np.zeros((2, 10))
    wanted[:, expected] = [[3.0], [1.0]]
    np.testing.assert_array_equal(saes.encode(sae, x), wanted)
    some = saes.encode_columns(sae, x, np.arange(10), block=block)
    np.testing.assert_array_equal(some, wanted)


@pytest.mark.parametrize("keep", KEEPS, ids=ids)
def test_nan_in_a_row_stays_in_that_row(keep, x):
    sae = make(keep)
    broken = x.at[3, 4].set(jnp.nan)
    for latents in (
        saes.encode(sae, broken),
        saes.encode_columns(sae, broken, np.arange(M), block=13),
    ):
        assert np.isnan(latents[3]).all()
        np.testing.assert_allclose(
            np.delete(latents, 3, 0), np.delete(saes.encode(sae, x), 3, 0), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("keep", KEEPS[:4], ids=ids)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_leading_axes(keep, batch):
    sae = make(keep, normalise="layer_norm")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(*batch, D)), jnp.float32)
    flat = x.reshape(-1, D)
    for function, width in ((saes.encode, M), (saes.reconstruct, D)):
        found = function(sae, x)
        assert found.shape == (*batch, width)
        np.testing.assert_allclose(
            found.reshape(-1, width), function(sae, flat), rtol=1e-5, atol=1e-5
        )


def test_integers_and_halves_are_raised_to_float32():
    sae, x = make(Keep("top", 7)), np.arange(24).reshape(2, D) % 5
    expected = saes.encode(sae, jnp.asarray(x, jnp.float32))
    for dtype in (jnp.int32, jnp.float16, jnp.bfloat16):
        found = saes.encode(sae, jnp.asarray(x, dtype))
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


def test_weights_decide_who_wins_but_not_by_how_much(x):
    weight = jnp.asarray(np.random.default_rng(5).uniform(0.2, 5, M), jnp.float32)
    plain, weighted = make(Keep("top", 5)), make(Keep("top", 5), weight=weight)
    pre = pre_activations(plain, x)
    latents = np.asarray(saes.encode(weighted, x))
    for row in range(N):
        kept = np.argsort(-pre[row] * np.asarray(weight))[:5]
        np.testing.assert_allclose(latents[row][kept], np.maximum(pre[row][kept], 0), rtol=1e-5)
        assert (latents[row] != 0).sum() <= 5
    assert ((latents != 0) != (np.asarray(saes.encode(plain, x)) != 0)).any()
    some = saes.encode_columns(weighted, x, np.arange(M), block=7)
    np.testing.assert_allclose(some, latents, rtol=1e-6, atol=1e-6)


# ---- selection ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lanes():
    rng = np.random.default_rng(3)
    train = np.stack([rng.permutation(N)[:30] for _ in range(3)])
    mask = np.arange(30) < np.array([30, 12, 20])[:, None]
    labels = rng.integers(0, 2, (3, 30))
    labels[:, :2] = [1, 0]
    return train, mask, labels


def study_scores(z, y, ranking):
    z = np.asarray(z, np.float64)
    if ranking == "normalised":
        z = z / (np.abs(z.sum(axis=0) / ((z != 0).sum(axis=0) + 1e-6)) + 1e-6)
    return np.abs(z[y == 1].mean(axis=0) - z[y == 0].mean(axis=0))


@pytest.mark.parametrize("keep", KEEPS, ids=ids)
@pytest.mark.parametrize("ranking", saes.RANKINGS)
def test_streamed_selection_is_the_dense_one(keep, ranking, x, lanes):
    sae = make(keep)
    train, mask, labels = lanes
    chosen = saes.top_latents(sae, x, train, mask, labels, 8, ranking=ranking, block=7)
    latents = by_hand(sae, x)
    for lane in range(3):
        rows, y = train[lane][mask[lane]], labels[lane][mask[lane]]
        scores = study_scores(latents[rows], y, ranking)
        best = np.sort(scores)[::-1][:8]
        np.testing.assert_allclose(scores[chosen[lane]], best, rtol=1e-4, atol=1e-5)
        assert len(set(chosen[lane].tolist())) == 8


@pytest.mark.parametrize("keep", [Keep(), Keep("top", 7), Keep("group", 6)], ids=ids)
@pytest.mark.parametrize("devices", [2, 3])
def test_devices_share_the_width_and_choose_the_same(keep, devices, x, lanes):
    sae = make(keep)
    alone = saes.top_latents(sae, x, *lanes, 9, block=8)
    found = saes.top_latents(sae, x, *lanes, 9, block=8, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(found, alone)


def test_ties_go_by_index_across_devices():
    sae = saes.SAE(jnp.ones((2, 40)), jnp.zeros(40), jnp.ones((40, 2)), jnp.zeros(2), jnp.zeros(40))
    x, train = jnp.array([[1.0, 2.0], [0.5, 0.5]]), np.array([[0, 1]])
    chosen = saes.top_latents(
        *(sae, x, train, np.ones((1, 2), bool), np.array([[1, 0]]), 15),
        block=4,
        devices=jax.devices(),
    )
    np.testing.assert_array_equal(chosen, [np.arange(15)])


class Squares:
    """Any object that encodes will do."""

    def __init__(self):
        self.calls = 0

    def encode(self, x):
        self.calls += 1
        return np.concatenate([x**2, np.maximum(x, 0)], axis=1)


def test_anything_that_encodes_can_be_probed(x, lanes):
    custom, (train, mask, labels) = Squares(), lanes
    chosen = saes.top_latents(custom, x, train, mask, labels, 5, ranking="raw", block=7)
    latents = Squares().encode(np.asarray(x))
    for lane in range(3):
        rows, y = train[lane][mask[lane]], labels[lane][mask[lane]]
        best = np.argsort(-study_scores(latents[rows], y, "raw"), kind="stable")[:5]
        np.testing.assert_array_equal(chosen[lane], best)
    some = saes.encode_columns(custom, x, np.array([13, 2]))
    np.testing.assert_allclose(some, latents[:, [13, 2]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"k=25 latents were asked for, but the SAE has only 24"):
        saes.top_latents(custom, x, *lanes, 25)


def test_other_latents_than_those_wanted_are_never_encoded(x, monkeypatch):
    seen = []
    original = stream.pre_activations
    monkeypatch.setattr(
        stream,
        "pre_activations",
        lambda encoder, inputs: seen.append(encoder.W_enc.shape[1]) or original(encoder, inputs),
    )
    jax.clear_caches()
    saes.encode_columns(make(Keep()), x, np.array([3, 9]))
    few = sizes.COLUMNS[0]  # padded to so many
    assert seen == [few]
    saes.encode_columns(make(Keep("top", 7)), x, np.array([3, 9]), block=20)
    assert seen == [few, 20, few]  # who wins is found in blocks, traced once

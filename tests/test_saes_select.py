"""Which latents are chosen: streamed over the width, and against the study's formula in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import probejax as px
from probejax import saes
from probejax.saes import random_sae as control
from probejax.saes import select
from tests.sae_cases import random_sae

N, D_MODEL, D_SAE, PADDED = 90, 12, 130, 40
DEAD = [5, 77]


def study_scores(latents, y, ranking):
    """The class-mean difference of docs/paper.md part 3, float64, for one training set."""
    z = np.asarray(latents, np.float64)
    if ranking == "normalised":
        z = z / (z.sum(axis=0) / ((z != 0).sum(axis=0) + 1e-6) + 1e-6)
    return np.abs(z[y == 1].mean(axis=0) - z[y == 0].mean(axis=0))


@pytest.fixture(scope="module")
def sae():
    return random_sae(D_MODEL, D_SAE, dead=DEAD)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(1).normal(size=(N, D_MODEL)), jnp.float32)


@pytest.fixture(scope="module")
def lanes():
    """Training sets of 40, 11, 2 and 25 rows; the last is the second's rows with labels flipped."""
    rng = np.random.default_rng(2)
    train = np.stack([rng.permutation(N)[:PADDED] for _ in range(4)])
    mask = np.arange(PADDED) < np.array([40, 25, 2, 25])[:, None]
    labels = rng.integers(0, 2, (4, PADDED))
    labels[:, :2] = [1, 0]
    train[3], labels[3, :25] = train[1], labels[1, :25]
    labels[3, 5:9] = 1 - labels[3, 5:9]
    return train, mask, labels


@pytest.mark.parametrize("ranking", saes.RANKINGS)
@pytest.mark.parametrize("block", [7, 64, D_SAE, 4096])
def test_streaming_chooses_what_the_formula_chooses(sae, x, lanes, ranking, block):
    train, mask, labels = lanes
    k = 30
    chosen = saes.top_latents(sae, x, train, mask, labels, k, ranking=ranking, block=block)
    assert chosen.shape == (4, k)
    latents = np.asarray(saes.encode(sae, x))
    for lane in range(4):
        rows, y = train[lane][mask[lane]], labels[lane][mask[lane]]
        scores = study_scores(latents[rows], y, ranking)
        best = np.argsort(-scores, kind="stable")[:k]
        np.testing.assert_allclose(scores[chosen[lane]], scores[best], rtol=1e-6, atol=1e-6)
        assert len(set(chosen[lane].tolist())) == k
        # Latents may change places only where their scores are equal to rounding.
        moved = chosen[lane] != best
        gaps = np.abs(np.subtract.outer(scores[best], scores))
        alone = (gaps < 1e-6 * np.maximum(scores[best], 1)[:, None]).sum(axis=1) == 1
        assert not (moved & alone).any() and (lane == 2 or alone.sum() > 20)


@pytest.mark.parametrize("ranking", saes.RANKINGS)
def test_every_block_size_chooses_the_same_in_the_same_order(sae, x, lanes, ranking):
    every = [
        saes.top_latents(sae, x, *lanes, 30, ranking=ranking, block=block)
        for block in (7, 64, D_SAE)
    ]
    np.testing.assert_array_equal(every[0], every[2])
    np.testing.assert_array_equal(every[1], every[2])


def test_the_rankings_differ(sae, x, lanes):
    raw = saes.top_latents(sae, x, *lanes, 20, ranking="raw")
    normalised = saes.top_latents(sae, x, *lanes, 20, ranking="normalised")
    assert (raw[0] != normalised[0]).any()
    np.testing.assert_array_equal(saes.top_latents(sae, x, *lanes, 20), normalised)


def test_a_smaller_k_is_a_prefix(sae, x, lanes):
    many = saes.top_latents(sae, x, *lanes, 64, block=50)
    np.testing.assert_array_equal(saes.top_latents(sae, x, *lanes, 16, block=50), many[:, :16])


@pytest.mark.parametrize("ranking", saes.RANKINGS)
def test_dead_latents_come_last_and_by_index(sae, x, lanes, ranking):
    chosen = saes.top_latents(sae, x, *lanes, D_SAE, ranking=ranking, block=16)
    for lane in range(4):
        assert sorted(chosen[lane].tolist()) == list(range(D_SAE))
    # Lane 0 sees latents that fire everywhere but for the dead ones, and those that happen not to.
    rows = lanes[0][0][lanes[1][0]]
    latents = np.asarray(saes.encode(sae, x))[rows]
    silent = np.flatnonzero(~latents.any(axis=0))
    assert set(DEAD) <= set(silent.tolist())
    np.testing.assert_array_equal(chosen[0][-len(silent) :], silent)


@pytest.mark.parametrize("block", [3, 4, 100])
@pytest.mark.parametrize("ranking", saes.RANKINGS)
def test_ties_go_by_index_also_across_blocks(block, ranking):
    # Latents 0..9 read dimensions 1 0 1 0 1 ...; those of the same dimension tie exactly.
    reads = np.arange(10) % 2 == 0
    sae = saes.SAE(
        W_enc=jnp.asarray(np.where(reads, [[0.0], [1.0]], [[1.0], [0.0]]), jnp.float32),
        b_enc=jnp.zeros(10),
        W_dec=jnp.zeros((10, 2)),
        b_dec=jnp.zeros(2),
        threshold=jnp.zeros(10),
    )
    x = jnp.array([[2.0, 1.0], [2.0, 9.0]])  # dimension 1 separates, dimension 0 does not
    train, mask = np.array([[0, 1]]), np.ones((1, 2), bool)
    chosen = saes.top_latents(
        sae, x, train, mask, np.array([[0, 1]]), 7, ranking=ranking, block=block
    )
    np.testing.assert_array_equal(chosen, [[0, 2, 4, 6, 8, 1, 3]])


def test_what_stands_in_padding_has_no_influence(sae, x, lanes):
    train, mask, labels = lanes
    expected = saes.top_latents(sae, x, train, mask, labels, 25)
    rng = np.random.default_rng(5)
    garbage = np.where(mask, train, rng.integers(0, N, train.shape))
    labels = np.where(mask, labels, rng.integers(0, 2, labels.shape))
    np.testing.assert_array_equal(saes.top_latents(sae, x, garbage, mask, labels, 25), expected)


def test_rows_outside_the_training_sets_have_no_influence(sae, x, lanes):
    train, mask, _ = lanes
    other = np.setdiff1d(np.arange(N), train[mask])
    assert len(other) > 5
    changed = x.at[other].set(1e6)
    np.testing.assert_array_equal(
        saes.top_latents(sae, changed, *lanes, 25), saes.top_latents(sae, x, *lanes, 25)
    )


def test_a_lane_does_not_depend_on_its_neighbours(sae, x, lanes):
    together = saes.top_latents(sae, x, *lanes, 25)
    assert (together[1] != together[3]).any()  # other labels, other latents
    for lane in (0, 1, 3):
        alone = saes.top_latents(sae, x, *(array[lane : lane + 1] for array in lanes), 25)
        np.testing.assert_array_equal(alone[0], together[lane])


def test_one_class_ranks_by_its_mean(sae, x):
    train, mask = np.arange(20)[None], np.ones((1, 20), bool)
    mean = np.asarray(saes.encode(sae, x))[:20].mean(axis=0)
    chosen = saes.top_latents(
        sae, x, train, mask, np.ones((1, 20), int), 5, ranking="raw", block=64
    )
    np.testing.assert_array_equal(chosen[0], np.argsort(-mean, kind="stable")[:5])


def test_more_latents_than_there_are_is_an_error(sae, x, lanes):
    with pytest.raises(ValueError, match=r"^k=131 latents were asked for, .* only 130\.$"):
        saes.top_latents(sae, x, *lanes, D_SAE + 1)


def test_some_columns_are_those_of_the_whole(sae, x):
    columns = np.array([129, 0, 5, 40, 40, 77])
    found = saes.encode_columns(sae, x, jnp.asarray(columns))
    whole = np.asarray(saes.encode(sae, x))[:, columns]
    np.testing.assert_array_equal(found > 0, whole > 0)
    np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_rows_that_stand_in_a_lane_twice_count_twice():
    """As drawn with replacement: the means of a direct computation, conflicting labels included."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    sae = control.make(rng.normal(size=(400, 6)).astype(np.float32), 50, 10.0)
    z = np.asarray(saes.encode(sae, x), np.float64)
    rows = rng.integers(0, 12, (5, 60))
    labels = rng.integers(0, 2, rows.shape)
    for ranking in ("raw", "normalised"):
        found = select.top_latents(
            sae, x, rows, np.ones(rows.shape, bool), labels, 8, ranking=ranking
        )
        for lane in range(5):
            own = z[rows[lane]]
            one, none = (own[labels[lane] == label].mean(axis=0) for label in (1, 0))
            size = own.sum(axis=0) / ((own > 0).sum(axis=0) + 1e-6) + 1e-6
            score = np.abs(one - none) / (size if ranking == "normalised" else 1)
            np.testing.assert_array_equal(found[lane], np.argsort(-score, kind="stable")[:8])


@pytest.mark.parametrize("ranking", ["normalized", "RAW", "mean"])
def test_a_ranking_that_does_not_exist_is_none(ranking):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    sae = control.make(x, 20, 3.0)
    with pytest.raises(ValueError, match=f"no ranking '{ranking}'; expected raw or normalised"):
        px.top_latents(sae, x, np.arange(40) % 2, ranking=ranking)


class Odd:
    """A dictionary whose `encode` is given."""

    def __init__(self, encode):
        self.encode = encode


@pytest.mark.parametrize(
    "sae, message",
    [
        (object(), "sae is <object .*; expected an SAE, as px.load_sae"),
        (Odd(lambda x: x[:, 0]), r"made \(\d+,\) of \d+ rows; expected one row"),
        (Odd(lambda x: x[:7]), r"made \(7, 6\) of \d+ rows; expected one row"),
        (Odd(lambda x: np.where(np.arange(6) == 2, np.nan, x)), "latent 2 of Odd is NaN"),
    ],
)
def test_what_encodes_otherwise_is_told(sae, message):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        px.fit(x, np.arange(40) % 2, "sae_k2", sae=sae)


@pytest.mark.parametrize("latent", [-1, 20, 999])
def test_latents_that_do_not_exist_have_no_value(latent):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    for sae in (control.make(x, 20, 3.0), Odd(lambda x: np.repeat(x, 4, axis=1)[:, :20])):
        with pytest.raises(ValueError, match=f"latent {latent} does not exist: the SAE has 20"):
            select.encode_columns(sae, x, np.array([3, latent]))

"""What is said of SAEs: random controls, quality, whether one fits a run, cards of latents."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from probejax import saes
from probejax.saes.random_sae import make
from probejax.sites import Site
from tests.sae_cases import random_sae
from tests.test_saes_formats import GOLDEN


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(2000, 16)) @ rng.normal(size=(16, 16)) + 50).astype(np.float32)


# ---- the random control -------------------------------------------------------------------------


def test_a_random_sae_has_the_l0_asked_for_and_every_latent_an_equal_share(x):
    found = saes.find("random:128:8")
    assert (found.sae_id, found.d_sae, found.l0) == ("random/width_128/average_l0_8", 128, 8)
    sae = found.load(x)
    latents = np.asarray(saes.encode(sae, jnp.asarray(x)))
    fires = (latents > 0).sum(axis=0)
    np.testing.assert_allclose(fires, 2000 * 8 / 128, atol=2)
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(sae.W_enc, sae.W_dec.T)
    np.testing.assert_allclose(sae.center, x.astype(float).mean(axis=0), rtol=1e-6)


def test_its_directions_are_frozen_and_only_thresholds_follow_the_activations(x):
    one, two = (saes.load("random:64:4", rows) for rows in (x[:1000], x[1000:]))
    np.testing.assert_array_equal(one.W_enc, two.W_enc)
    assert (one.threshold != two.threshold).any()
    again = saes.load("random:64:4", x[:1000])
    np.testing.assert_array_equal(one.threshold, again.threshold)
    assert abs(float(np.corrcoef(one.W_enc[:, 0], one.W_enc[:, 1])[0, 1])) < 0.9


def test_a_random_sae_wants_activations_and_enough_of_them(x):
    with pytest.raises(ValueError, match="average_l0_8 needs activations to calibrate"):
        saes.load("random:128:8")
    with pytest.raises(ValueError, match=r"5 rows are too few to calibrate 128 latents at an L0"):
        saes.load("random:128:8", x[:5])
    with pytest.raises(ValueError, match="l0=100 of 128 latents: expected more than 0, less than"):
        saes.load("random:128:100", x)


def test_a_random_sae_s_fingerprint_is_stable():
    assert saes.find("random:128:8").fingerprint() == saes.find("random:128:8").fingerprint()


# ---- quality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gemma_scope", "saebench_topk", "sae_lens_layer_norm",
                                  "sae_lens_centred"])  # fmt: skip
@pytest.mark.parametrize("block, width", [(4096, 16384), (7, 9)])
def test_quality_is_that_of_the_golden_reconstruction(name, block, width):
    with np.load(GOLDEN / name / "expected.npz") as expected:
        x, latents, decoded = (expected[key] for key in ("x", "latents", "decoded"))
    place = GOLDEN / name / ("layer_20/width_40/average_l0_11" if name == "gemma_scope" else "")
    for sae in (saes.find(str(place)).open(), saes.load(str(place))):
        found = saes.quality(sae, x, block=block, width=width)
        assert found.tokens == len(x)
        assert found.l0 == pytest.approx((latents != 0).sum(axis=1).mean())
        assert found.dead == pytest.approx((latents == 0).all(axis=0).mean())
        error, variance = ((decoded - x) ** 2).mean(axis=0), x.var(axis=0)
        assert found.explained == pytest.approx(1 - error.sum() / variance.sum(), abs=1e-4)
        assert found.explained_median == pytest.approx(np.median(1 - error / variance), abs=1e-4)


@pytest.mark.filterwarnings("error")  # a division by zero
def test_a_constant_dimension_explains_nothing_and_is_left_out_of_the_median():
    sae = random_sae(4, 30)
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    x[:, :2] = [3.0, -1.0]
    found = saes.quality(sae, x)
    error = np.asarray((saes.reconstruct(sae, x) - x) ** 2, np.float64).mean(axis=0)
    variance = x.astype(np.float64).var(axis=0)
    assert found.explained == pytest.approx(1 - error.sum() / variance.sum(), rel=1e-4)
    assert found.explained_median == pytest.approx(
        (1 - error / np.maximum(variance, 1e-9))[2:].mean(), rel=1e-4
    )
    still = saes.quality(sae, np.repeat(x[:1], 5, axis=0))
    assert np.isnan(still.explained) and np.isnan(still.explained_median) and still.l0 > 0


@pytest.mark.parametrize("advertised, warns", [(20, False), (40, False), (10, False), (41, True),
                                               (9, True), (None, False)])  # fmt: skip
def test_an_l0_outside_half_to_twice_the_advertised_one_is_a_warning(advertised, warns):
    found = saes.Quality(20.0, 0.9, 0.8, 0.0, 100).warning(advertised and float(advertised))
    assert (found is not None) == warns
    if warns:
        assert f"is 20.0, but {advertised} is advertised" in found and "100 tokens" in found


# ---- does it fit? -------------------------------------------------------------------------------

HERE = Site("resid_post", 12)
FITS = saes.SaeFile("a/b", GOLDEN, "gemma-2-2b", 12, d_model=2304, d_sae=9, kind="resid_post")


def test_an_sae_that_fits():
    FITS.check("gemma-2-2b", HERE, 2304)
    FITS.check("my-gemma", HERE, 2304)  # the user's own name of a folder proves nothing
    dataclasses.replace(FITS, model=None, layer=None, kind=None).check("gemma-2-9b", HERE, 2304)


@pytest.mark.parametrize(
    "base, model",
    [
        ("gemma-2-2b", "gemma-2-2b-it"),
        ("gemma-3-4b-pt", "gemma-3-4b-it"),
        ("gemma-3-270m", "gemma-3-270m-it"),
        ("Llama-3.1-8B", "Llama-3.1-8B-Instruct"),
        ("Qwen2.5-7B", "Qwen2.5-7B-Instruct"),
    ],
)
def test_an_sae_of_the_base_model_is_noted_on_the_instructed_one(base, model):
    note = dataclasses.replace(FITS, model=base).check(model, HERE, 2304)
    assert f"a/b was trained on the base model {base}, the run is on {model}" in note
    assert "\n" not in note
    with pytest.raises(ValueError, match=r"reads resid_post\.12, the run is at mlp_out\.11"):
        dataclasses.replace(FITS, model=base).check(model, Site("mlp_out", 11), 2304)


@pytest.mark.parametrize(
    "trained, run, said",
    [
        (None, True, None),
        (True, True, None),
        (False, False, None),
        (True, False, "with BOS before them, the run reads them without; --bos=always reads"),
        (False, True, "without BOS before them, the run reads them with; --bos=never reads"),
    ],
)
def test_another_use_of_bos_than_the_sae_knows_is_said(trained, run, said):
    note = dataclasses.replace(FITS, prepends_bos=trained).note_on_bos(run)
    assert note is None if said is None else (said in note and "\n" not in note)


def test_a_run_keeps_the_notes_on_its_saes():
    from probejax.sweep.plan import Plan, _check_saes

    plan = object.__new__(Plan)  # as `resolve` has it when it asks
    plan.__dict__.update(
        checkpoint=types.SimpleNamespace(
            name="gemma-2-2b-it",
            config=types.SimpleNamespace(width=lambda site: 2304),
            bos_token=lambda rule: "<bos>",
        ),
        config=types.SimpleNamespace(bos="auto"),
        sites=(HERE,),
        places={"a": (HERE,), "b": (HERE,)},
        source=None,
        methods=("sae_k4",),
        saes={"a": FITS, "b": dataclasses.replace(FITS, model=None, prepends_bos=False)},
    )
    model, bos = _check_saes(plan)
    assert "base model gemma-2-2b" in model and "without BOS" in bos


@pytest.mark.parametrize(
    "trained_on, model",
    [
        ("gemma-2-2b-it", "gemma-2-2b"),
        ("gemma-2-9b", "gemma-2-2b-it"),
        ("gemma-3-4b-pt", "gemma-2-2b-it"),
        ("gemma-3-1b-it", "gemma-3-1b-pt"),
        ("gemma-2-2b-it", "gemma-2-9b-it"),
    ],
)
def test_no_other_pair_of_models_is_mixed(trained_on, model):
    with pytest.raises(ValueError, match=f"trained on {trained_on}, the run is on {model}"):
        dataclasses.replace(FITS, model=trained_on).check(model, HERE, 2304)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "gemma-2-9b"}, "a/b was trained on gemma-2-9b, the run is on gemma-2-2b; give"),
        (
            {"layer": 11},
            "a/b reads resid_post.11, the run is at resid_post.12; give an",
        ),
        (
            {"layer": 0, "kind": "resid_pre"},
            "a/b reads resid_pre.0, the run is at resid_post.12; give",
        ),
        (
            {"layer": 11, "kind": None},
            "a/b reads layer 11, the run is at resid_post.12; give an SAE",
        ),
        (
            {"kind": "mlp.hook_post"},
            "a/b reads mlp.hook_post, the run is at resid_post.12; give an",
        ),
        (
            {"kind": "mlp_out"},
            "a/b reads mlp_out.12, the run is at resid_post.12; give an SAE",
        ),
        ({"d_model": 640}, "a/b reads vectors of width 640, but those at resid_post.12 of gem"),
    ],
)
def test_both_sides_of_a_misfit_are_named(changes, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(FITS, **changes).check("gemma-2-2b", HERE, 2304)
    assert str(caught.value).startswith(message)


# ---- cards --------------------------------------------------------------------------------------


def test_a_card_holds_class_means_firing_rates_and_a_link():
    values = np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0], [0.0, 0.0]], np.float32)
    cards = saes.describe(values, np.array([0, 1, 1, 0]), np.array([7, 123]), "gemma-2-2b/12-x")
    assert cards[0] == saes.LatentCard(
        7, (0.0, 2.0), (0.0, 1.0), "https://www.neuronpedia.org/gemma-2-2b/12-x/7"
    )
    assert cards[1].mean == (1.0, 0.0) and cards[1].rate == (0.5, 0.0) and cards[1].index == 123
    assert saes.describe(values, np.array([0, 1, 1, 0]), np.array([7, 123]))[0].link is None
    with pytest.raises(ValueError, match="one class has none"):
        saes.describe(values, np.zeros(4, int), np.array([7, 123]))


@pytest.mark.parametrize("n, d_sae, l0", [(300, 1000, 24.1), (1024, 900, 24.1), (777, 640, 9.9)])
def test_as_many_latents_fire_as_are_asked_for(n, d_sae, l0):
    """However few rows there are for each latent, rounding must not make the control denser."""
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    z = np.asarray(saes.encode(make(x, d_sae, l0), x))
    assert abs((z > 0).sum(axis=1).mean() - l0) < 0.02 * l0

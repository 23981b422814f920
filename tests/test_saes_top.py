"""An SAE that is called, and the table of the latents that tell two classes apart."""

import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probejax import saes
from probejax.saes import NamedSAE, load_sae, registry
from probejax.saes.top import top_latents
from tests.test_saes_formats import GOLDEN

SHIPPED = "gemma-3-270m/layer_9/width_4k/average_l0_78"
rng = np.random.default_rng(0)
Y = np.arange(300) % 2


@pytest.fixture(scope="module")
def sae():
    return load_sae(SHIPPED)


@pytest.fixture(scope="module")
def small():
    return load_sae(str(GOLDEN / "gemma_scope/layer_20/width_40/average_l0_11"))


@pytest.fixture(scope="module")
def x(small):
    x = rng.normal(0, 3, (300, small.d_model)).astype(np.float32)
    return x + Y[:, None] * rng.normal(0, 1, small.d_model).astype(np.float32)


def test_it_says_what_it_is(sae):
    assert (sae.model, str(sae.site), sae.d_model, sae.d_sae) == (
        "gemma-3-270m", "resid_post.9", 640, 4096,
    )  # fmt: skip
    assert repr(sae) == (
        f"NamedSAE({SHIPPED}, model=gemma-3-270m, site=resid_post.9, d_model=640, d_sae=4096, "
        "l0=77.5777, architecture=jumprelu)"
    )


KINDS = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "jax": jnp.asarray,
    "jax, half": lambda x: jnp.asarray(x, jnp.float16),
    "torch": torch.tensor,
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(300,), (3, 100), (2, 3, 50)])
def test_activations_of_any_kind_and_shape(small, x, kind, shape):
    given = KINDS[kind](x.reshape(*shape, -1))
    found = small(given)
    assert found.shape == (*shape, small.d_sae) and found.dtype == np.float32
    assert isinstance(found, np.ndarray) == (not kind.startswith("jax"))
    plain = np.asarray(given.astype(np.float32) if hasattr(given, "astype") else given, np.float32)
    expected = saes.encode(small.sae, plain.reshape(300, -1))
    np.testing.assert_array_equal(np.asarray(found).reshape(300, -1), expected)
    np.testing.assert_array_equal(small.encode(given), found)


def test_one_that_stays_in_its_file_gives_the_same(small, x, monkeypatch):
    monkeypatch.setattr(registry, "_IN_MEMORY", 0)
    stored = load_sae(str(small.file.path))
    assert isinstance(stored.sae, saes.StoredSAE)
    monkeypatch.setattr(saes.named, "_BLOCK", 7)
    np.testing.assert_allclose(stored(x), small(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 11), (), (0,)])
def test_another_width_is_refused(small, shape):
    with pytest.raises(ValueError, match=re.escape(f"the activations are {shape}; ")):
        small(np.zeros(shape, np.float32))


def test_a_random_sae_needs_activations():
    with pytest.raises(ValueError, match="needs activations to calibrate"):
        load_sae("random:64:4")


class Custom:
    def encode(self, x):
        return np.maximum(np.asarray(x), 0)


@pytest.mark.parametrize("ranking", ["normalised", "raw"])
@pytest.mark.parametrize("which", ["named", "loaded", "custom"])
def test_the_table(small, x, which, ranking):
    sae = {"named": small, "loaded": small.sae, "custom": Custom()}[which]
    table = top_latents(sae, x, np.where(Y, "yes", "no"), k=5, ranking=ranking)
    values = np.asarray(small(x) if which != "custom" else Custom().encode(x), np.float64)
    means = [values[Y == label].mean(axis=0) for label in (0, 1)]
    score = np.abs(means[1] - means[0])
    if ranking == "normalised":
        fired = (values != 0).sum(axis=0)
        score = score / (values.sum(axis=0) / (fired + 1e-6) + 1e-6)
    latents = table["latent"].tolist()
    np.testing.assert_allclose(score[latents], np.sort(score)[::-1][:5], rtol=1e-4)
    assert table.attrs["classes"] == ("no", "yes") and len(table) == 5
    for row in table.itertuples():
        column = values[:, row.latent]
        np.testing.assert_allclose(row.mean_negative, column[Y == 0].mean(), rtol=1e-4)
        np.testing.assert_allclose(row.mean_positive, column[Y == 1].mean(), rtol=1e-4)
        np.testing.assert_allclose(row.rate_negative, (column[Y == 0] != 0).mean())
        np.testing.assert_allclose(row.rate_positive, (column[Y == 1] != 0).mean())
        np.testing.assert_allclose(row.auc, roc_auc_score(Y, column), atol=1e-6)
    assert table["link"].isna().all()


def test_links_lead_to_the_latents(small, x):
    file = registry.dataclasses.replace(small.file, neuronpedia="gemma-2-9b/20-gemmascope-res-16k")
    table = top_latents(NamedSAE(file, small.sae), x, Y, k=2)
    for latent, link in zip(table["latent"], table["link"], strict=True):
        assert link == f"https://www.neuronpedia.org/gemma-2-9b/20-gemmascope-res-16k/{latent}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:-1], y, 3), "expected one label each"),
        (lambda x, y: (x, y * 0, 3), "two"),
        (lambda x, y: (np.where(x > 0, np.nan, x), y, 3), "row 0 of x holds NaN or infinity"),
        (lambda x, y: (x[:, :5], y, 3), "x is 5 wide; the SAE reads vectors of width"),
        (lambda x, y: (x, y, 41), "k=41 latents were asked for, but the SAE has only 40"),
        (lambda x, y: (x, y, 0), "k is 0; expected at least 1"),
    ],
)
def test_mistakes_are_told(small, x, change, said):
    with pytest.raises(ValueError, match=said):
        top_latents(small, *change(x, Y))

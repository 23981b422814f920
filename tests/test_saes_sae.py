"""Encoding and decoding: hand-written values, a PyTorch twin, and SAELens where it is installed."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from probejax import saes
from tests.reference import jumprelu_sae

MUST_HAVE_SAE_LENS = os.environ.get("PROBEJAX_REQUIRE_SAE_LENS") == "1"

# Two dimensions, three latents: x0, x1 + 1 and -x0, with thresholds 1, 0.5 and -5.
BY_HAND = saes.SAE(
    W_enc=jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    b_enc=jnp.array([0.0, 1.0, 0.0]),
    W_dec=jnp.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]]),
    b_dec=jnp.array([10.0, 20.0]),
    threshold=jnp.array([1.0, 0.5, -5.0]),
)


def random_arrays(d_model=48, d_sae=256, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        "W_enc": normal(d_model, d_sae) / np.float32(np.sqrt(d_model)),
        "b_enc": normal(d_sae),
        "W_dec": normal(d_sae, d_model),
        "b_dec": normal(d_model),
        "threshold": np.exp(normal(d_sae)),
    }


def to_sae(arrays):
    return saes.SAE(**{name: jnp.asarray(array) for name, array in arrays.items()})


def test_widths():
    assert (BY_HAND.d_model, BY_HAND.d_sae) == (2, 3)


def test_a_latent_is_its_pre_activation_above_the_threshold_and_else_zero():
    x = jnp.array([[1.5, 2.0], [-2.0, -0.4], [0.5, -3.0]])
    # b_dec = (10, 20) is not subtracted: else no first latent would be on.
    expected = [[1.5, 3.0, 0.0], [0.0, 0.6, 2.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(saes.encode(BY_HAND, x), expected, rtol=1e-6)


def test_the_threshold_itself_is_not_above_the_threshold():
    just_above = np.nextafter(np.float32(1), np.float32(2))
    x = jnp.array([[1.0, -0.5], [just_above, -0.25]])
    np.testing.assert_array_equal(saes.encode(BY_HAND, x), [[0, 0, 0], [just_above, 0.75, 0]])


def test_a_negative_threshold_lets_no_negative_latent_through():
    # The third pre-activation is -3, above its threshold of -5.
    np.testing.assert_array_equal(saes.encode(BY_HAND, jnp.array([3.0, 0.0]))[2], 0.0)


def test_nan_stays_visible():
    latents = saes.encode(BY_HAND, jnp.array([[jnp.nan, 2.0], [1.5, 2.0]]))
    assert np.isnan(latents[0]).all()  # 0 * NaN is NaN: every latent reads every dimension
    np.testing.assert_array_equal(latents[1], [1.5, 3.0, 0.0])
    assert np.isnan(saes.decode(BY_HAND, latents)[0]).all()


def test_decode_is_a_sum_of_decoder_rows_and_the_bias():
    latents = jnp.array([[2.0, 3.0, 4.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(saes.decode(BY_HAND, latents), [[14.0, 28.0], [10.0, 20.0]])


@pytest.mark.parametrize("batch", [(), (5,), (2, 5), (2, 1, 5)])
def test_any_leading_axes(batch):
    sae = to_sae(random_arrays())
    x = np.random.default_rng(1).normal(size=(*batch, 48)).astype(np.float32)
    latents = saes.encode(sae, x)
    assert latents.shape == (*batch, 256)
    flat = saes.encode(sae, x.reshape(-1, 48))
    np.testing.assert_allclose(latents.reshape(-1, 256), flat, rtol=1e-6, atol=1e-6)
    decoded = saes.decode(sae, latents)
    assert decoded.shape == x.shape
    np.testing.assert_allclose(
        decoded.reshape(-1, 48), saes.decode(sae, flat), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("run, width", [(saes.encode, 2), (saes.decode, 3)])
def test_products_are_float32_at_the_highest_precision_whatever_the_default(run, width):
    with jax.default_matmul_precision("bfloat16"):
        text = jax.jit(functools.partial(run, BY_HAND)).lower(jnp.zeros((4, width))).as_text()
    (product,) = [line for line in text.splitlines() if "dot_general" in line]
    assert "precision = [HIGHEST, HIGHEST]" in product and "xf32>" in product


def test_bfloat16_activations_are_raised_before_the_product():
    sae = to_sae(random_arrays())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 48)), jnp.bfloat16)
    latents = saes.encode(sae, x)
    assert latents.dtype == jnp.float32
    np.testing.assert_array_equal(latents, saes.encode(sae, x.astype(jnp.float32)))


def compare(ours, x, theirs, pre, threshold):
    """Same support but for a band around the threshold, and the same values."""
    away = np.abs(pre - threshold) > 1e-4
    assert away.mean() > 0.99 and 0.05 < (theirs > 0).mean() < 0.6  # the comparison has teeth
    np.testing.assert_array_equal((ours > 0)[away], (theirs > 0)[away])
    both = (ours > 0) & (theirs > 0)
    np.testing.assert_allclose(ours[both], theirs[both], rtol=1e-5)


@pytest.fixture(scope="module")
def case():
    arrays = random_arrays(seed=3)
    return arrays, np.random.default_rng(4).normal(size=(200, 48)).astype(np.float32)


def test_parity_with_pytorch(case):
    arrays, x = case
    twin, sae = jumprelu_sae.JumpReLUSAE(**arrays), to_sae(arrays)
    with torch.no_grad():
        theirs = twin.encode(torch.tensor(x))
        pre, decoded = twin.pre(torch.tensor(x)).numpy(), twin.decode(theirs).numpy()
    compare(np.asarray(saes.encode(sae, x)), x, theirs.numpy(), pre, arrays["threshold"])
    ours = np.asarray(saes.decode(sae, jnp.asarray(theirs.numpy())))
    error = np.linalg.norm(ours - decoded, axis=1) / np.linalg.norm(decoded, axis=1)
    assert error.max() < 1e-5


@pytest.mark.skipif(
    importlib.util.find_spec("sae_lens") is None and not MUST_HAVE_SAE_LENS,
    reason="sae_lens is not installed; PROBEJAX_REQUIRE_SAE_LENS=1 turns this into a failure",
)
@pytest.mark.filterwarnings("ignore")  # its imports warn
def test_parity_with_sae_lens(case):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    arrays, x = case
    config = JumpReLUSAEConfig(d_in=48, d_sae=256, apply_b_dec_to_input=False, device="cpu")
    twin, sae = JumpReLUSAE(config), to_sae(arrays)
    twin.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    with torch.no_grad():
        theirs = twin.encode(torch.tensor(x))
        decoded = twin.decode(theirs).numpy()
    pre = x @ arrays["W_enc"] + arrays["b_enc"]
    compare(np.asarray(saes.encode(sae, x)), x, theirs.numpy(), pre, arrays["threshold"])
    ours = np.asarray(saes.decode(sae, jnp.asarray(theirs.numpy())))
    error = np.linalg.norm(ours - decoded, axis=1) / np.linalg.norm(decoded, axis=1)
    assert error.max() < 1e-5

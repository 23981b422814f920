"""Training: gradients, the loss, folding, and a small run that is killed and resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import rules, saes
from probejax.saes import architectures, fit, gemma_scope, train
from probejax.saes.formats import sae_lens
from probejax.storage import ConfigMismatch

BANDWIDTH = 0.5
# Thresholds 1 and 2 with a kernel 0.5 wide: what lies in 0.75..1.25 and 1.75..2.25 moves them.
PRE = jnp.array([[1.2, 1.9], [0.8, 2.3], [-3.0, 2.2], [1.0, 5.0]])
THRESHOLD = jnp.array([[1.0, 2.0]])
UPSTREAM = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])


def test_the_gradient_of_jumprelu():
    value, pull = jax.vjp(lambda z, t: architectures.jumprelu(z, t, BANDWIDTH), PRE, THRESHOLD)
    np.testing.assert_array_equal(value, PRE * jnp.array([[1, 0], [0, 1], [0, 1], [0, 1]]))
    to_pre, to_threshold = pull(UPSTREAM)
    np.testing.assert_array_equal(to_pre, [[1, 0], [0, 20], [0, 30], [0, 40]])
    # arXiv 2407.14435, eq. 11: -(threshold / bandwidth) where the kernel is on, summed over tokens.
    np.testing.assert_allclose(
        to_threshold, [[-1 / 0.5 * (1 + 2 + 4), -2 / 0.5 * (10 + 30)]], rtol=1e-6
    )


def test_the_gradient_of_the_step_reaches_threshold_and_encoder():
    value, pull = jax.vjp(lambda z, t: architectures.heaviside(z, t, BANDWIDTH), PRE, THRESHOLD)
    np.testing.assert_array_equal(value, [[1, 0], [0, 1], [0, 1], [0, 1]])
    to_pre, to_threshold = pull(UPSTREAM)
    # Its eq. 12: 1 / bandwidth where the kernel is on, with opposite signs for the two.
    np.testing.assert_allclose(to_pre, [[2, 20], [4, 0], [0, 60], [8, 0]], rtol=1e-6)
    np.testing.assert_allclose(to_threshold, [[-(2 + 4 + 8), -(20 + 60)]], rtol=1e-6)


@pytest.fixture(scope="module")
def tokens():
    """Sparse sums of 32 directions in 16 dimensions, on a large mean; one dimension dominates."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(32, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = rng.random((12_000, 32)) < 0.06
    x = (active * rng.uniform(0.5, 1.5, active.shape)) @ directions
    x[:, 3] *= 6
    return (20 * x + 30 * rng.normal(size=16)).astype(np.float32)


OPTIONS = train.TrainOptions(
    d_sae=64,
    target_l0=4.0,
    steps=600,
    batch=256,
    learning_rate=3e-3,
    l0_weight=0.1,
    bandwidth=0.1,
    dead_after=5_000,
    dead_weight=1e-2,
)


def some_params(d_model=16, d_sae=64, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    W_dec = normal(d_sae, d_model)
    return architectures.Params(
        W_enc=normal(d_model, d_sae),
        b_enc=0.1 * normal(d_sae),
        W_dec=W_dec / jnp.linalg.norm(W_dec, axis=1, keepdims=True),
        b_dec=0.1 * normal(d_model),
        log_threshold=normal(d_sae) - 2,
    )


def scaled(x, scale):
    return (x - np.asarray(scale.mean)) * np.asarray(scale.scale)


def unscaled(x, scale):
    return np.asarray(x, np.float64) / np.asarray(scale.scale) + np.asarray(scale.mean)


def in_scaled_units(params):
    return saes.SAE(*params[:4], jnp.exp(params.log_threshold))


def test_the_loss_is_the_mean_of_two_fractions_of_variance_unexplained(tokens):
    scale, params = train.measure(tokens), some_params()
    x = jnp.asarray(scaled(tokens, scale))
    dead, no_weight = jnp.zeros(64, bool), jnp.float32(0)
    loss, (report, out) = train._loss(params, x, dead, no_weight, OPTIONS)
    sae = in_scaled_units(params)
    latents = saes.encode(sae, x)
    raw = unscaled(saes.decode(sae, latents), scale)
    error, variance = (raw - tokens) ** 2, tokens.astype(np.float64).var(axis=0)
    total = error.sum(axis=1).mean() / variance.sum()
    per_dimension = (error.mean(axis=0) / variance).mean()
    assert abs(total - per_dimension) > 0.1 * total  # the two differ here
    np.testing.assert_allclose(report["unexplained"], (total + per_dimension) / 2, rtol=1e-3)
    np.testing.assert_allclose(loss, report["unexplained"], rtol=1e-6)
    np.testing.assert_allclose(report["l0"], (latents > 0).sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_array_equal(out.latents > 0, latents > 0)


def test_predicting_the_mean_leaves_everything_unexplained(tokens):
    scale = train.measure(tokens)
    x = scaled(tokens.astype(np.float64), scale)
    np.testing.assert_allclose((x**2).sum(axis=1).mean(), 1.0, rtol=1e-5)


def test_the_penalty_is_the_squared_relative_excess_and_dead_latents_are_pulled(tokens):
    params, weight = some_params(), jnp.float32(0.7)
    x = jnp.asarray(scaled(tokens[:500], train.measure(tokens)))
    dead = jnp.arange(64) < 3
    loss, (report, _) = train._loss(params, x, dead, weight, OPTIONS)
    pre = np.asarray(x, np.float64) @ np.asarray(params.W_enc) + np.asarray(params.b_enc)
    short = np.maximum(np.exp(np.asarray(params.log_threshold)) - pre, 0).mean(axis=0)[:3].sum()
    excess = float(report["l0"]) / 4.0 - 1
    expected = float(report["unexplained"]) + 0.7 * excess**2 + 1e-2 * short
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert excess > 1 and short > 0.01


def test_folding_gives_the_same_sae_in_raw_units(tokens):
    scale, params = train.measure(tokens), some_params()
    arrays = train.fold(params, scale, dtype=np.float32)
    sae = saes.SAE(**{name: jnp.asarray(array) for name, array in arrays.items()})
    norms = np.linalg.norm(arrays["W_dec"].astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)
    x = scaled(tokens, scale)
    inner = in_scaled_units(params)
    expected = np.asarray(saes.encode(inner, jnp.asarray(x)), np.float64)
    latents = np.asarray(saes.encode(sae, jnp.asarray(tokens)))
    norm = np.linalg.norm(np.asarray(params.W_dec) / np.asarray(scale.scale), axis=1)
    assert norm.min() > 5  # the units do differ
    both = (latents > 0) & (expected > 0)
    assert both.sum() > 0.999 * max((latents > 0).sum(), (expected > 0).sum())
    np.testing.assert_allclose(latents[both], (expected * norm)[both], rtol=1e-3, atol=1e-3)
    ours = np.asarray(saes.decode(sae, jnp.asarray(latents)), np.float64)
    theirs = unscaled(saes.decode(inner, jnp.asarray(latents / norm)), scale)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(tokens).max())


def test_folding_rounds_the_matrices_and_corrects_the_bias(tokens):
    scale, params = train.measure(tokens), some_params()
    half, full = train.fold(params, scale), train.fold(params, scale, dtype=np.float32)
    dtypes = {name: array.dtype for name, array in half.items()}
    assert dtypes["W_enc"] == dtypes["W_dec"] == np.float16
    assert dtypes["b_enc"] == dtypes["b_dec"] == dtypes["threshold"] == np.float32
    mean = np.asarray(scale.mean, np.float64)
    at_mean = [mean @ a["W_enc"].astype(np.float64) + a["b_enc"] for a in (half, full)]
    # Rounding moves no pre-activation at the mean, although the mean is large.
    np.testing.assert_allclose(at_mean[0], at_mean[1], atol=1e-4)
    assert np.abs(mean @ (half["W_enc"].astype(np.float64) - full["W_enc"])).max() > 1e-3


@pytest.mark.parametrize("size", [1.0, 1e4, 1e7])
def test_a_top_k_sae_is_written_in_half_precision_at_any_scale(tokens, size):
    """One length for all decoder rows changes no winner, and keeps numbers in range."""
    tokens = tokens * np.float32(size)
    scale, params = train.measure(tokens), some_params()
    half, full = (
        train.fold(params, scale, dtype=kind, unit=False) for kind in (np.float16, np.float64)
    )
    pre = [
        tokens.astype(np.float64) @ a["W_enc"].astype(np.float64) + a["b_enc"] for a in (half, full)
    ]
    winners = [np.argsort(-each, axis=1)[:, :8] for each in pre]
    same = [len(np.intersect1d(a, b)) for a, b in zip(*winners, strict=True)]
    assert np.mean(same) > 7.95 and np.isfinite(half["W_dec"].astype(np.float32)).all()
    for name in ("W_enc", "W_dec"):
        error = np.abs(half[name].astype(np.float64) - full[name])
        assert error.max() < 1e-3 * np.abs(full[name]).max()
    inner = in_scaled_units(params)
    raw = np.asarray(scaled(tokens, scale)) @ np.asarray(inner.W_enc) + np.asarray(inner.b_enc)
    best = np.argsort(-raw, axis=1)[:, :8]  # those of training
    assert (
        np.mean([len(np.intersect1d(a, b)) for a, b in zip(best, winners[1], strict=True)]) > 7.99
    )


@pytest.fixture(scope="module")
def trained(tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return (*fit.fit(tokens[:10_000], OPTIONS, folder, save_every=400), folder)


def test_a_small_run_explains_sparse_data_near_the_target(tokens, trained):
    params, scale, _ = trained
    np.testing.assert_allclose(np.linalg.norm(params.W_dec, axis=1), 1, rtol=1e-5)
    arrays = train.fold(params, scale)
    sae = saes.SAE(**{name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()})
    found = saes.quality(sae, tokens[10_000:])
    assert found.tokens == 2_000
    assert found.explained > 0.9 and found.explained_median > 0.85
    assert 3.0 < found.l0 < 5.5
    assert found.dead < 0.25


def test_what_is_written_holds_what_was_trained(trained, tmp_path):
    params, scale, _ = trained
    path = tmp_path / "params.npz"
    path.write_bytes(gemma_scope.to_bytes(train.fold(params, scale)))
    assert saes.load(str(path)).W_enc.shape == (16, 64)


class Killed(Exception):
    pass


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_bits(
    tokens, tmp_path, monkeypatch
):
    options = dataclasses.replace(OPTIONS, steps=90)
    whole, _ = fit.fit(tokens[:10_000], options, tmp_path / "whole", save_every=30)
    original, steps = fit.train_step, []

    def mortal(options, state, x, scale):
        steps.append(int(state.step))
        if len(steps) == 78:
            raise Killed
        return original(options, state, x, scale)

    monkeypatch.setattr(fit, "train_step", mortal)
    with pytest.raises(Killed):
        fit.fit(tokens[:10_000], options, tmp_path / "cut", save_every=30)
    resumed, _ = fit.fit(tokens[:10_000], options, tmp_path / "cut", save_every=30)
    assert steps == [*range(78), *range(60, 90)]  # from the last checkpoint, not from the start
    for name, ours, theirs in zip(architectures.Params._fields, resumed, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    again, _ = fit.fit(tokens[:10_000], options, tmp_path / "cut", save_every=30)
    assert len(steps) == 78 + 30  # a finished run only reads its last checkpoint
    np.testing.assert_array_equal(again.W_enc, whole.W_enc)


def test_a_folder_belongs_to_one_set_of_options_and_tokens(tokens, trained):
    folder = trained[-1]
    other = dataclasses.replace(OPTIONS, seed=1)
    with pytest.raises(ConfigMismatch, match="seed is 0 there and 1 here"):
        fit.fit(tokens[:10_000], other, folder)
    with pytest.raises(ConfigMismatch, match="tokens is 10000 there and 9999 here"):
        fit.fit(tokens[:9_999], OPTIONS, folder)
    with pytest.raises(ConfigMismatch, match="site"):
        fit.fit(tokens[:10_000], OPTIONS, folder, origin={"site": "mlp_out.1"})


def test_a_dimension_that_does_not_vary_trains_none_to_death(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 8)).astype(np.float32)
    x[:, 3], x[:, 5] = 7, 1e-6 * x[:, 5]
    options = dataclasses.replace(OPTIONS, d_sae=16, target_l0=4.0, steps=20, batch=100)
    params, scale = fit.fit(x, options, tmp_path / "c")
    folded = train.fold(params, scale)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(folded))
    assert np.abs(folded["W_enc"]).max() < 65504  # what float16 holds
    for wrong in (np.full_like(x, 3), np.where(x > 2, np.inf, x)):
        with pytest.raises(ValueError, match="NaN or infinity, or are all the same"):
            fit.fit(wrong, options, tmp_path / "d")


@pytest.mark.parametrize(
    "name, value",
    [
        *(("steps", 0), ("batch", -1)),
        *(("learning_rate", rate) for rate in (0.0, -1.0, np.nan, np.inf)),
    ],
)
def test_options_that_train_nothing_are_told(name, value):
    with pytest.raises(ValueError, match=f"--{name}=.*: expected a positive number"):
        train.TrainOptions(**{name: value})


def test_too_few_tokens_are_an_error_that_writes_nothing(tokens, tmp_path):
    with pytest.raises(ValueError, match="There are 255 tokens, fewer than one batch of 256"):
        fit.fit(tokens[:255], OPTIONS, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_every_epoch_visits_every_token_once_in_another_order(tokens):
    options = dataclasses.replace(OPTIONS, batch=100)
    x = np.arange(1000, dtype=np.float32)[:, None]
    epochs = [[fit._batch(x, 10 * e + i, options)[:, 0] for i in range(10)] for e in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), x[:, 0])
    assert (epochs[0][0] != epochs[1][0]).any()
    other = fit._batch(x, 0, dataclasses.replace(options, seed=1))
    assert (other[:, 0] != epochs[0][0]).any()


def test_the_tokens_are_permuted_once_per_epoch_and_a_resumed_run_has_the_same_order(monkeypatch):
    options = dataclasses.replace(OPTIONS, batch=100, seed=77)
    x = np.arange(1000, dtype=np.float32)[:, None]
    made, generator = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: made.append(key) or generator(key))
    steps = [fit._batch(x, step, options)[:, 0] for step in range(25)]
    assert made == [(77, 0), (77, 1), (77, 2)]
    np.testing.assert_array_equal(fit._batch(x, 13, options)[:, 0], steps[13])
    np.testing.assert_array_equal(steps[13], np.sort(generator((77, 1)).permutation(1000)[300:400]))


def test_the_penalty_warms_up_and_silence_is_counted(tokens):
    options = dataclasses.replace(OPTIONS, steps=10, l0_warmup=0.5, dead_after=500)
    scale, state = train.measure(tokens), train.start(options, 16)
    params = state.params._replace(b_enc=state.params.b_enc.at[7].set(-1e3))
    state = state._replace(params=jax.tree.map(jnp.array, params))
    excesses, dead = [], []
    for i in range(4):
        x = jnp.asarray(tokens[256 * i : 256 * (i + 1)])
        state, report = train.train_step(options, state, x, scale)
        squared = (float(report["l0"]) / 4.0 - 1) ** 2
        excesses.append((float(report["loss"]) - float(report["unexplained"])) / squared)
        dead.append(float(report["dead"]))
    # The weight is 0.1 at full strength, which it would reach at step 5.
    np.testing.assert_allclose(excesses[:2], [0.0, 0.02], atol=1e-4)
    assert state.silent[7] == 4 * 256 and (np.asarray(state.silent) % 256 == 0).all()
    assert int(state.step) == 4
    # After 512 silent tokens, more than 500, latent 7 counts as dead.
    assert dead[:2] == [0.0, 0.0] and dead[2] >= 1 / 64


def test_quality_against_a_dense_computation(tokens):
    params, scale = some_params(), train.measure(tokens)
    params = params._replace(b_enc=params.b_enc.at[:5].set(-1e3))  # five latents never fire
    arrays = train.fold(params, scale, dtype=np.float32)
    sae = saes.SAE(**{name: jnp.asarray(array) for name, array in arrays.items()})
    x = tokens[:1000]
    p = {name: array.astype(np.float64) for name, array in arrays.items()}
    pre = x.astype(np.float64) @ p["W_enc"] + p["b_enc"]
    latents = np.where(pre > p["threshold"], np.maximum(pre, 0), 0)
    error = (latents @ p["W_dec"] + p["b_dec"] - x) ** 2
    variance = x.astype(np.float64).var(axis=0)
    for block in (1000, 300):
        found = saes.quality(sae, x, block=block)
        np.testing.assert_allclose(found.l0, (latents > 0).sum(axis=1).mean(), atol=2e-3)
        np.testing.assert_allclose(
            found.explained, 1 - error.mean(axis=0).sum() / variance.sum(), atol=1e-3
        )
        np.testing.assert_allclose(
            found.explained_median, np.median(1 - error.mean(axis=0) / variance), atol=1e-3
        )
        assert found.dead == 1 - (latents > 0).any(axis=0).mean() and found.dead >= 5 / 64
        assert found.tokens == 1000


# ---- the other architectures --------------------------------------------------------------------

SMALL = dataclasses.replace(OPTIONS, steps=400, d_sae=48, target_l0=3.0, l1_rate=0.04)


def options_for(architecture, **changes):
    return dataclasses.replace(SMALL, architecture=architecture, **changes)


@pytest.mark.parametrize("axis", [1, None])
def test_the_kth_largest_is_found_by_counting(axis):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(7, 30)), 0).astype(np.float32)
    values[2] = 0.25
    for k in (1, 5, 11):
        found = architectures.kth_largest(jnp.asarray(values), k, axis)
        ranked = -np.sort(-values, axis=axis)
        expected = ranked[:, k - 1 : k] if axis == 1 else ranked[k - 1]
        np.testing.assert_array_equal(np.ravel(found), np.ravel(expected))


@pytest.mark.parametrize("architecture", rules.ARCHITECTURES)
def test_every_architecture_learns_sparse_data_and_folds_into_a_file(
    architecture, tokens, tmp_path
):
    options = options_for(architecture)
    params, scale = fit.fit(tokens[:10_000], options, tmp_path / "checkpoints")
    arrays = train.fold(params, scale, np.float32, unit=architecture != "topk")
    if architecture == "topk":
        for name, content in sae_lens.to_files(arrays, 3, hook_name="x").items():
            (tmp_path / name).write_bytes(content)
    else:
        (tmp_path / "params.npz").write_bytes(gemma_scope.to_bytes(arrays))
    sae = saes.load(str(tmp_path))
    found = saes.quality(sae, tokens[10_000:])
    least = 0.6 if architecture == "relu" else 0.8  # an L1 penalty shrinks what it keeps
    assert found.explained > least and 1.8 < found.l0 < 4.5, found
    # The file computes what was trained, but for the units.
    x = jnp.asarray(scaled(tokens[10_000:], scale), jnp.float32)
    out = architectures.forward(params, x, architecture, 3.0, 0.1, 0.0)
    latents = np.asarray(saes.encode(sae, jnp.asarray(tokens[10_000:])))
    if architecture in ("batchtopk", "matryoshka"):
        pre = x @ params.W_enc + params.b_enc[None, :]
        theirs = np.where(pre > jnp.exp(params.log_threshold)[None, :], np.maximum(pre, 0), 0)
    else:
        theirs = np.asarray(out.latents)
    norm = np.linalg.norm(np.asarray(params.W_dec) / np.asarray(scale.scale), axis=1)
    theirs = theirs * (np.median(norm) if architecture == "topk" else norm)
    assert ((latents > 0) == (theirs > 0)).mean() > 0.999
    both = (latents > 0) & (theirs > 0)
    np.testing.assert_allclose(latents[both], theirs[both], rtol=1e-2, atol=1e-3 * theirs.max())


def test_top_k_keeps_k_of_each_token_and_batch_top_k_shares_them(tokens):
    x = jnp.asarray(scaled(tokens[:100], train.measure(tokens)), jnp.float32)
    params = some_params()
    dense = np.maximum(np.asarray(x) @ np.asarray(params.W_enc) + np.asarray(params.b_enc), 0)
    for architecture in ("topk", "batchtopk", "matryoshka"):
        out = architectures.forward(params, x, architecture, 5.0, 0.1, 0.0)
        on = np.asarray(out.latents) > 0
        if architecture == "topk":
            np.testing.assert_array_equal(on.sum(axis=1), 5)
            assert (dense[on].reshape(100, 5).min(axis=1) >= np.sort(dense)[:, -5]).all()
        else:
            assert on.sum() == 500 and len(set(on.sum(axis=1).tolist())) > 2
            np.testing.assert_allclose(out.cutoff, np.sort(dense, axis=None)[-500])
        np.testing.assert_allclose(np.asarray(out.latents)[on], dense[on], rtol=1e-5)
        np.testing.assert_allclose(out.l0, 5.0)


def test_matryoshka_s_loss_is_the_mean_over_prefixes(tokens):
    x = jnp.asarray(scaled(tokens[:50], train.measure(tokens)), jnp.float32)
    params = some_params()
    latents = jax.nn.relu(x @ params.W_enc)
    trained_on, whole = architectures.unexplained(params, x, latents, "matryoshka")
    z, W, b = (np.asarray(a, np.float64) for a in (latents, params.W_dec, params.b_dec))
    errors = [
        ((z[:, :n] @ W[:n] + b - np.asarray(x)) ** 2).sum(axis=1).mean() for n in (4, 8, 16, 32, 64)
    ]
    np.testing.assert_allclose(trained_on, np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(whole, errors[-1], rtol=1e-4)


def test_a_gate_decides_and_a_magnitude_measures(tokens):
    x = jnp.asarray(scaled(tokens[:50], train.measure(tokens)), jnp.float32)
    rng = np.random.default_rng(3)
    draw = lambda: jnp.asarray(rng.normal(size=64), jnp.float32)
    params = some_params()._replace(r_mag=draw(), b_gate=draw())
    out = architectures.forward(params, x, "gated", 5.0, 0.1, 0.0)
    product = np.asarray(x @ params.W_enc, np.float64)
    gate = product + np.asarray(params.b_gate)
    magnitude = np.exp(np.asarray(params.r_mag)) * product + np.asarray(params.b_enc)
    np.testing.assert_allclose(
        out.latents, (gate > 0) * np.maximum(magnitude, 0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(out.norm, np.maximum(gate, 0).sum(axis=1).mean(), rtol=1e-5)
    alone = np.maximum(gate, 0) @ np.asarray(params.W_dec) + np.asarray(params.b_dec)
    expected = ((alone - np.asarray(x)) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(out.auxiliary, expected, rtol=1e-4)
    pull = jax.grad(lambda p: architectures.forward(p, x, "gated", 5.0, 0.1, 0.0).auxiliary)(params)
    assert not np.any(pull.W_dec) and not np.any(pull.b_dec) and np.any(pull.b_gate)


def test_the_l1_weight_follows_the_l0(tokens):
    options = options_for("relu", l1_rate=0.5)
    scale, state = train.measure(tokens), train.start(options, 16)
    before = float(state.log_l1)
    state, report = train.train_step(options, state, jnp.asarray(tokens[:256]), scale)
    assert report["l0"] > 6  # half of 48 latents fire at random weights: the excess is clipped
    np.testing.assert_allclose(float(state.log_l1) - before, 0.5, rtol=1e-5)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(
        ValueError, match=r"--architecture=vanilla does not exist; choose from jump"
    ):
        options_for("vanilla")
    with pytest.raises(ValueError, match=r"--target_l0=50 of 48 latents: expected 1 to that"):
        options_for("topk", target_l0=50.0)

"""A product of float32 is one on every machine; a TPU rounds factors to bfloat16 by itself."""

import functools
import math
import traceback

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import probejax as px
from probejax.activations.ragged import Activations
from probejax.probes import baselines, nearest, token_methods
from probejax.solvers import arithmetic, codes, l1, l2
from tests import tiny_models
from tests.test_solvers_float32 import STRENGTHS, problem

rng = np.random.default_rng(0)
COUNTS = np.tile([3, 5, 4], 20)
TOKENS = rng.normal(size=(COUNTS.sum(), 8)).astype(np.float32)
X = Activations(TOKENS, np.cumsum(COUNTS) - COUNTS, COUNTS)
Y = (X.last()[:, 0] > 0).astype(int)
SAE = px.saes.SAE(
    W_enc=jnp.asarray(rng.normal(size=(8, 32)), jnp.float32),
    b_enc=jnp.zeros(32),
    W_dec=jnp.asarray(rng.normal(size=(32, 8)), jnp.float32),
    b_dec=jnp.zeros(8),
    threshold=jnp.zeros(32),
)


@pytest.fixture
def rounded(monkeypatch):
    """Lists where products of float32 are made that a TPU may round, and how many there are."""
    found, count = set(), [0]
    bind = jax.lax.dot_general_p.bind

    def spy(*arguments, **settings):
        if jnp.float32 in [each.dtype for each in arguments]:
            count[0] += 1
            precision = settings["precision"]
            if precision is None or set(jax.tree.leaves(precision)) != {jax.lax.Precision.HIGHEST}:
                ours = [each for each in traceback.extract_stack() if "/probejax/" in each.filename]
                found.add(f"{ours[-1].filename.rpartition('/probejax/')[2]}:{ours[-1].lineno}")
        return bind(*arguments, **settings)

    jax.clear_caches()  # what is traced already is not seen
    monkeypatch.setattr(nearest, "_on_host", lambda: False)  # as on an accelerator
    monkeypatch.setattr(jax.lax.dot_general_p, "bind", spy)
    before = jax.config.jax_default_matmul_precision  # pyright: ignore
    jax.config.update("jax_default_matmul_precision", "default")  # in all threads
    yield found, count
    jax.config.update("jax_default_matmul_precision", before)


QUICK = {"logreg", "lda", "logreg_l1", "sae_k4"}
METHODS = [*baselines.BASELINES, *token_methods.TOKEN_METHODS, "sae_k4"]
METHODS.remove("xgboost")
CASES = [
    *((each, "float64") for each in ("logreg", "sae_k4")),
    *(
        pytest.param(each, "float32", marks=[] if each in QUICK else pytest.mark.thorough)
        for each in METHODS
    ),
]


@pytest.mark.parametrize(("method", "engine"), CASES)
def test_fits_and_scores(method, engine, rounded):
    x = X if method in token_methods.TOKEN_METHODS else X.last()
    with arithmetic.using(engine):
        px.fit(x, Y, method, sae=SAE if method == "sae_k4" else None).probe(x)
    found, count = rounded
    assert not found
    assert count[0] or method in ("mean_difference", "ridge")  # in float64


def test_models_and_saes(rounded, tmp_path):
    model = px.load_model(tiny_models.write(tmp_path / "tiny"))
    model.activations(["One two.", "three"], "resid_post.1")
    px.top_latents(SAE, X.last(), Y)
    px.saes.quality(SAE, X.last())
    px.saes.decode(SAE, px.saes.encode(SAE, X.last()))
    found, count = rounded
    assert not found and count[0] > 10


def parts(x):
    """Returns three arrays of bfloat16 numbers whose sum is x, to float32's precision."""
    found = []
    for _ in range(3):
        found.append(x.astype(ml_dtypes.bfloat16).astype(np.float32))
        x = x - found[-1]
    return found


def six_products(a, b):
    """Returns products of matrices as a TPU makes them at `highest`, the smallest parts first."""
    a, b = parts(np.asarray(a)), parts(np.asarray(b))
    pairs = [(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)]
    return sum(np.matmul(a[i], b[j]) for i, j in pairs)


@pytest.fixture
def matrix_unit(monkeypatch):
    """Makes products of float32 of bfloat16 parts, on the host: XLA would compile for ever."""
    bind, made = jax.lax.dot_general_p.bind, [0]

    def six(a, b, **settings):
        if not a.dtype == b.dtype == jnp.float32:
            return bind(a, b, **settings)
        made[0] += 1
        (sum_a, sum_b), (same_a, same_b) = settings["dimension_numbers"]
        free_a = [i for i in range(a.ndim) if i not in (*sum_a, *same_a)]
        free_b = [i for i in range(b.ndim) if i not in (*sum_b, *same_b)]
        axes = [[a.shape[i] for i in each] for each in (same_a, free_a, sum_a)]
        axes.append([b.shape[i] for i in free_b])
        same, m, k, n = (math.prod(each) for each in axes)
        left = jnp.transpose(a, (*same_a, *free_a, *sum_a)).reshape(same, m, k)
        right = jnp.transpose(b, (*same_b, *sum_b, *free_b)).reshape(same, k, n)
        shape = jax.ShapeDtypeStruct((same, m, n), jnp.float32)
        found = jax.pure_callback(six_products, shape, left, right, vmap_method="expand_dims")
        return found.reshape(*axes[0], *axes[1], *axes[3])

    jax.clear_caches()
    monkeypatch.setattr(jax.lax.dot_general_p, "bind", six)
    yield made
    jax.clear_caches()


def test_the_simulation_is_better_than_bfloat16_and_no_better_than_float32(matrix_unit):
    a, b = rng.normal(size=(2, 200, 200)).astype(np.float32)
    exact = a.astype(float) @ b.astype(float)
    off = np.abs(np.asarray(jax.jit(jnp.matmul)(a, b)) - exact).max()
    assert 1e-7 < off < 1e-4 and matrix_unit[0] == 1


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.thorough), 0.3])
@pytest.mark.parametrize("d", [24, pytest.param(160, marks=pytest.mark.thorough)])
def test_the_matrix_unit_will_do_for_the_solvers(d, noise, matrix_unit):
    x, rows, mask, y = problem(100, d, noise)
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        l2_found = l2.solve_path(x, rows, mask, y, STRENGTHS)
        l1_found = l1.solve_path(np.maximum(x[rows], 0)[:, :, :24], mask, y, STRENGTHS)
    assert matrix_unit[0] > 10 and counted == {"fits": 80, "on_host": 0}
    for found in (l2_found, l1_found):
        assert (found.code[:3] == codes.CONVERGED).all() and (found.gap[:3] <= 1e-6).all()


@functools.cache
def real(name):
    """Returns 1,500 prompts of a task as gemma-3-270m's vectors of layer 9, and their labels."""
    task, drawn = px.tasks.load(name), np.random.default_rng(0).permutation
    some = drawn(len(task.prompts))[:1500]
    prompts = [task.prompts[i] for i in some]
    x = px.load_model("gemma-3-270m").activations(prompts, "resid_post.9", max_length=64).last()
    return x, np.asarray(task.labels)[some]


@pytest.mark.slow  # fetches weights and tasks
@pytest.mark.parametrize("method", ["logreg", "sae_k16", "sae_k128", "pca"])
@pytest.mark.parametrize("name", ["5_hist_fig_ismale", "87_glue_cola"])
@pytest.mark.parametrize(("n", "flipped"), [(1024, 0.0), (1024, 0.3), (64, 0.0)])
def test_the_matrix_unit_will_do_for_real_activations(n, flipped, name, method, request):
    x, y = real(name)
    train = np.where(np.random.default_rng(1).random(n) < flipped, 1 - y[:n], y[:n])
    sae = px.load_sae("gemma-3-270m/layer_9/width_4k/average_l0_78") if "sae" in method else None
    of = lambda fit: px.metrics.host_auc(np.asarray(fit.probe(x[1024:])), y[1024:])
    exact = of(px.fit(x[:n], train, method, sae=sae))
    made = request.getfixturevalue("matrix_unit")
    with arithmetic.using("float32"), arithmetic.counting() as counted:
        found = px.fit(x[:n], train, method, sae=sae)
    print(f"{name} {method} n={n} flipped={flipped}: {found}, AUC {of(found):.6f}, {exact:.6f}")
    assert counted["on_host"] == 0 and made[0] > 0
    assert found.scores.code == codes.CONVERGED
    # L1's solutions within the tolerance of the least objective lie further apart.
    assert abs(of(found) - exact) <= (1e-3 if sae else 1e-4)

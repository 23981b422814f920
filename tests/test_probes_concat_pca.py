import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from probejax import probes
from probejax.probes import concat_pca
from probejax.solvers import codes
from tests import probe_cases, token_cases

Y = probe_cases.labels()
COUNTS = np.random.default_rng(5).integers(1, 9, len(Y))
COUNTS[7] = 12
TOKENS = token_cases.tokens(COUNTS, Y, strength=6.0)
C = 5


def test_components_are_the_positions_own():
    prompts = np.arange(0, len(Y), 2)
    basis = concat_pca.components_of(TOKENS, np.append(prompts, 7), C, 1)
    assert basis.positions.tolist() == list(range(1, 12))
    for i, position in enumerate(basis.positions):
        there = [p for p in [*prompts, 7] if COUNTS[p] > position]
        x = TOKENS.x[TOKENS.starts[there] + position]
        np.testing.assert_allclose(basis.mean[i], x.mean(axis=0), atol=1e-5)
        v = basis.vectors[i]
        if len(there) == 1:  # prompt 7 alone gets so far: no variance, no component
            assert not v.any()
            continue
        expected = PCA(C).fit(x)
        np.testing.assert_allclose(v.T @ v, np.eye(C), atol=1e-5)
        found = ((x - x.mean(axis=0)) @ v).var(axis=0, ddof=1)
        np.testing.assert_allclose(found, expected.explained_variance_, rtol=2e-3)
    z = concat_pca.project(TOKENS, np.array([7, 0]), basis)
    assert z.shape == (2, 64) and (z[:, C * 11 :] == 0).all()
    assert (z[1, C * (COUNTS[0] - 1) :] == 0).all()  # the positions that prompt 0 does not have
    x = TOKENS.x[TOKENS.starts[7] + 3]
    np.testing.assert_allclose(
        z[0, 2 * C : 3 * C], (x - basis.mean[2]) @ basis.vectors[2], atol=1e-5
    )


@pytest.mark.parametrize("protocol", [pytest.param("paper", marks=pytest.mark.thorough), "strict"])
def test_fit(protocol):
    found = probe_cases.conditions(Y, (40, 140))
    results = probe_cases.run(
        lambda rows: concat_pca.fit(TOKENS, rows, protocol, components=C), found
    )
    for i in (0, 1):
        assert results[i]["code"] == codes.CONVERGED and results[i]["gap"] <= 1e-6
    assert results[1]["test_auc"] > 0.8 and results[1]["val_auc"] > 0.7


def test_the_final_fit_is_the_optimum_and_needs_no_components():
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (140,)), (256,))
    fitted = concat_pca.fit(TOKENS, rows, components=C)
    train, y = (a[0][rows.train_mask[0]] for a in (rows.train, rows.y_train))
    basis = concat_pca.components_of(TOKENS, train, C, 1)
    z = concat_pca.project(TOKENS, train, basis).astype(float)
    C_ = fitted.scores.hyperparameter[0]
    w, mean, b = (getattr(fitted.probe, name)[0] for name in ("w", "mean", "b"))
    own = np.einsum("pdc,pd->pc", basis.vectors, w[basis.positions]).ravel()

    def objective(w, b):
        logits = z[:, : len(w)] @ w + b
        return np.abs(w).sum() + C_ * np.logaddexp(0, -(2 * y - 1) * logits).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops early, which is its affair
        sk = LogisticRegression(l1_ratio=1, C=C_, solver="saga", max_iter=5000, tol=1e-7).fit(z, y)
    best = objective(sk.coef_[0], sk.intercept_[0])
    assert objective(own.astype(float), b) <= best * (1 + 1e-4)
    assert best < 0.99 * objective(np.zeros(1), 0.0)
    for prompt, row in zip(train, z, strict=True):
        count = min(COUNTS[prompt], len(w))
        x = TOKENS.x[TOKENS.starts[prompt] :][:count] - mean[:count]
        logit = (x * w[:count]).sum() + b
        np.testing.assert_allclose(logit, row[: len(own)] @ own + b, atol=1e-3)


def test_lanes_with_the_same_rows_share_components(monkeypatch):
    calls = []
    original = concat_pca.components_of
    monkeypatch.setattr(
        concat_pca, "components_of", lambda *args: calls.append(1) or original(*args)
    )
    clean = probe_cases.conditions(Y, (140,))
    noisy = probe_cases.conditions(Y, (140,), noise=0.2)
    ((_, rows),) = probes.batches([*clean, *noisy], (256,))
    concat_pca.fit(TOKENS, rows, components=C)
    assert len(calls) == 1

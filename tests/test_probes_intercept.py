"""A large intercept makes no equals of rows that differ, in no AUC of any linear probe."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from probejax import probes
from probejax.activations.ragged import Activations
from probejax.probes.families import ByPosition, Linear, OnLatents
from probejax.probes.families.on_latents import Latents
from probejax.tasks import Condition

ROWS, TRAIN, D = 1500, 500, 40
SMALL = 1e-7  # so that what features say is lost beside an intercept in float32


def _problem(size, train=TRAIN):
    """Returns features of that size, of which a tenth are positive; labels; and one condition."""
    rng = np.random.default_rng(0)
    y = (rng.random(ROWS) < 0.1).astype(int)
    y[:2] = 0, 1
    x = size * (rng.normal(size=(ROWS, D)) + 0.4 * y[:, None] * rng.normal(size=D))
    own, test = np.arange(train), np.arange(train, ROWS)
    condition = Condition("standard", None, 42, own, y[own], test, y[test])
    ((_, rows),) = probes.batches([condition])
    return x.astype(np.float32), y, rows


@pytest.mark.parametrize("method", ["logreg", "ridge", "lda", "mean_difference", "pca"])
def test_scores_are_those_of_float64(method):
    x, y, rows = _problem(SMALL)
    found = probes.BASELINES[method](x, rows, "strict")
    logits = (x.astype(float) @ np.asarray(found.probe.w[0], float))[TRAIN:]
    y = y[TRAIN:]
    auc = roc_auc_score(y, logits)
    assert auc > 0.9 and found.scores.val_auc[0] > 0.9
    np.testing.assert_allclose(found.scores.test_auc[0], auc, atol=1e-4)
    limit = np.sort(logits[y == 0])[-1 - int(0.01 * (y == 0).sum())]
    rate = (logits[y == 1] > limit).mean()
    np.testing.assert_allclose(found.scores.test_tpr[0], rate, atol=1.01 / y.sum())


def test_two_rows_are_told_apart():
    x, _, rows = _problem(SMALL, train=2)
    assert probes.BASELINES["logreg"](x, rows, "paper").scores.val_auc[0] == 1


def _linear(b, w):
    return Linear(w, b, np.zeros(w.shape[-1], np.float32)), lambda x: x


def _on_latents(b, w):
    probe = OnLatents(w, b, np.arange(w.shape[-1])[None], None)
    return probe, lambda x: Latents(x, np.arange(w.shape[-1])[None])


def _by_position(b, w):
    probe = ByPosition(w[:, None], b, np.zeros((1, 1, w.shape[-1]), np.float32))
    return probe, lambda x: Activations(x, np.arange(len(x)), np.ones(len(x), int))


@pytest.mark.parametrize("family", [_linear, _on_latents, _by_position])
def test_no_family_loses_ranks_beside_an_intercept(family):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(50, D)).astype(np.float32), rng.normal(size=(1, D)).astype(np.float32)
    x[3] = x[4]  # and equals stay equal
    rows, mask = np.arange(50)[None], np.ones((1, 50), bool)
    none, large = np.zeros(1, np.float32), np.array([1e8], np.float32)
    plain, moved = (
        rankdata(probe.of_rows(source(x), rows, mask)[0])
        for probe, source in (family(b, w) for b in (none, large))
    )
    np.testing.assert_array_equal(moved, plain)
    assert plain[3] == plain[4] and len(set(plain)) == 49

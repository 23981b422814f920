"""What the study's solvers leave undone: they stop at 1,000 iterations, ours at a certificate."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probejax import saes, sweep, tasks
from probejax.solvers import l1, l2
from tests.reference import rival_solvers, study_as_shipped, study_probes

ROWS, K = 1024, 128


def padded(x, y):
    """One lane of ROWS rows, so that one program fits all."""
    more = ROWS - len(y)
    x, mask = np.pad(x, ((0, more), (0, 0))), np.arange(ROWS) < len(y)
    return x.astype(np.float32), mask[None], np.pad(y, (0, more)).astype(np.int32)[None]


def fit_l2(x, y, C):
    mean = x.mean(axis=0)
    z, mask, labels = padded(x - mean, y)
    found = l2.solve(z, np.arange(ROWS)[None], mask, labels, np.array([C]))
    return found.w[0], found.b[0] - found.w[0] @ mean


def fit_l1(x, y, C):
    z, mask, labels = padded(x, y)
    found = l1.solve(*map(jnp.asarray, (z[None], mask, labels, np.array([C]))))
    return np.asarray(found.w[0]), found.b[0]


CASES = {
    "logreg": ("l2", fit_l2, study_as_shipped.fit_lbfgs),
    "sae_k128": ("l1", fit_l1, study_as_shipped.fit_saga),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_ours_is_nowhere_above_the_study_s_own_settings(method):
    """On layer 9 of gemma-3-270m, twenty tasks, standard condition, every C of the grid."""
    penalty, ours, theirs = CASES[method]
    excess, auc, probe = [], [], []
    for name in tasks.names()[::5][:20]:
        config = sweep.Config(tasks=(name,), methods=(method,), max_length=256)
        data = sweep.Execution(sweep.resolve(config)).data(name)
        x, one = np.asarray(data.features), data.conditions[0]
        assert one.regime == "standard"
        if penalty == "l1":
            z = np.asarray(saes.encode(saes.shipped("gemma-3-270m")[0].load(), x))
            x = z[:, study_probes.rank(z[one.train], one.y_train, K, normalised=True)]
        train, test = (x[one.train], one.y_train), (x[one.test], one.y_test)
        for C in study_probes.GRID.tolist():
            fits = [fit(*train, C) for fit in (ours, theirs)]
            low, high = (rival_solvers.objective(*train, C, *fit, penalty) for fit in fits)
            excess.append(high / low - 1)
            scores = [roc_auc_score(test[1], test[0] @ w) for w, _ in fits]
            auc.append(scores[0] - scores[1])
        found = [study_probes.probe(*train, *test, fit)["test_auc"] for fit in (ours, theirs)]
        probe.append(found[0] - found[1])
    quantiles = np.quantile(excess, (0, 0.5, 0.9, 1))
    print(
        f"{method}: theirs above ours by {quantiles} (least, median, 90 %, most); "
        f"at one C the AUC moves by {np.abs(auc).mean():.5f} (most {np.abs(auc).max():.5f}), "
        f"of the whole probe by {np.mean(probe):+.5f} +- {np.std(probe) / len(probe) ** 0.5:.5f} "
        f"(most {np.abs(probe).max():.5f})"
    )
    assert quantiles[0] > -1e-6 and quantiles[1] > 0

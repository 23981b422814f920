"""Small conditions for the tests of the probes, and the comparison with the study's rules."""

import numpy as np

from probejax.probes import batches
from probejax.tasks import Condition, flip_labels

N_TASK, N_TEST = 400, 150
SIZES = (2, 3, 4, 10, 13, 40, 140)
GROUPS = (64, 256)  # each is another set of programs for every family


def labels(seed=0):
    return np.random.default_rng(seed).permutation(np.arange(N_TASK) % 2)


def conditions(y, sizes=SIZES, noise=0.0, seed=1):
    """One condition per training size, balanced, the training rows in random order."""
    found = []
    for size in sizes:
        rng = np.random.default_rng((seed, size))
        pools = [rng.permutation(np.flatnonzero(y == label)) for label in (1, 0)]
        half = -(-size // 2)
        train = rng.permutation(np.r_[pools[0][:half], pools[1][: size - half]])
        test = rng.permutation(np.setdiff1d(np.arange(N_TASK), train))[:N_TEST]
        found.append(
            Condition(
                "label_noise" if noise else "scarcity",
                noise or float(size),
                42,
                train,
                flip_labels(y[train], noise),
                test,
                y[test],
            )
        )
    return found


def run(fit, found):
    """Fits all conditions; returns condition index -> the fields of `Scores`."""
    results = {}
    for lanes, rows in batches(found, GROUPS):
        scores = fit(rows).scores
        for position, lane in enumerate(lanes):
            results[lane] = {k: v[position] for k, v in scores._asdict().items()}
    return results


def check(ours, theirs, n_test=N_TEST):
    """Compares one lane with the reference.

    Where two values of C validate equally well up to 1e-3, either may be chosen, and what follows
    from the choice is not compared.
    """
    np.testing.assert_allclose(ours["val_auc"], theirs["val_auc"], atol=1e-3)
    C, means = theirs["C"], theirs["means"]
    if means is not None:
        rivals = np.sort(means)[-2:]
        if rivals[1] - rivals[0] > 1e-3 or rivals[1] == 1.0:
            np.testing.assert_allclose(ours["hyperparameter"], C, rtol=1e-6)
    if not np.isclose(ours["hyperparameter"], C, rtol=1e-6):
        return False
    np.testing.assert_allclose(ours["test_auc"], theirs["test_auc"], atol=3e-3)
    np.testing.assert_allclose(ours["test_acc"], theirs["test_acc"], atol=1.01 / n_test)
    np.testing.assert_allclose(ours["test_f1"], theirs["test_f1"], atol=2.02 / n_test)
    return True

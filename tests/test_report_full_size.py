"""The report on a run of the largest size anyone has planned."""

import resource
import time

import numpy as np
import pandas as pd
import pytest

from probejax import tasks
from probejax.analysis.report import report
from probejax.analysis.tables import as_results

CONDITIONS = (
    [("standard", np.nan)]
    + [("scarcity", float(n)) for n in tasks.SCARCITY_SIZES]
    + [("imbalance", float(x)) for x in tasks.IMBALANCE_FRACTIONS]
    + [("label_noise", float(x)) for x in tasks.NOISE_FRACTIONS]
)
BASELINES = ("logreg", "logreg_l1", "pca", "knn", "mlp", "xgboost", "lda", "mean_difference")


def generate(seeds=3):
    """Two protocols x 113 tasks x 44 arrows x 51 conditions x seeds, as a results table."""
    arrows = [(name, "", None) for name in BASELINES]
    for i in range(17):
        sae_id = f"layer_9/width_{16 * 2 ** (i // 4)}k/average_l0_{20 * (1 + i % 4)}"
        arrows += [(f"sae_k{k}", sae_id, k) for k in (16, 128)]
    arrows += [(f"sae_k16_{kind}", arrows[8][1], 16) for kind in ("shuffled", "random_latents")]
    names, protocols = tasks.names(), ("paper", "strict")
    shape = (len(protocols), len(names), len(arrows), len(CONDITIONS), seeds)
    p, t, a, c, s = np.indices(shape).reshape(5, -1)
    rng = np.random.default_rng(0)
    val = np.round(rng.beta(8, 2, len(p)), 3)
    take = lambda values, index: np.array(values, dtype=object)[index]
    return as_results(
        pd.DataFrame(
            {
                "task": take(names, t),
                "regime": take([regime for regime, _ in CONDITIONS], c),
                "level": np.array([level for _, level in CONDITIONS])[c],
                "num_train": 1024,
                "num_test": 1000,
                "method": take([name for name, _, _ in arrows], a),
                "seed": 42 + s,
                "protocol": take(protocols, p),
                "model": "gemma-3-270m",
                "site": "resid_post.9",
                "sae_id": take([sae_id for _, sae_id, _ in arrows], a),
                "k": pd.array([k for _, _, k in arrows], dtype="Int64")[a],
                "val_auc": val,
                "test_auc": val + rng.normal(0, 0.02, len(p)),
                "test_acc": 0.7,
                "test_f1": 0.7,
                "hyperparameter": 1.0,
                "gap": 1e-7,
                "code": 0,
            }
        )
    )


@pytest.mark.slow
def test_one_and_a_half_million_rows_take_a_minute_and_four_gigabytes(tmp_path):
    results = generate()
    assert len(results) > 1_500_000
    began = time.process_time()  # one thread, mostly; others on the machine do not count
    report(tmp_path, results)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB on Linux
    size = (tmp_path / "report.html").stat().st_size / 1e6
    assert seconds < 60 and peak < 4 and size < 15, (seconds, peak, size)
    quiver = pd.read_csv(tmp_path / "quiver.csv")
    overall = quiver[quiver["level"].isna() & (quiver["tie_rule"] == "documented")]
    assert overall["cells"].tolist() == [113 * 3 * n for n in (1, 20, 19, 11)] * 2

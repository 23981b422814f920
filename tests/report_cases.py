"""A run's units for the tests of the report: every regime, two protocols, controls, latents."""

import contextlib
from unittest import mock

import numpy as np

from probejax import storage
from probejax.stored_scores import Latents, ScoredRows, StoredScores
from probejax.tasks import registry

NARROW = "gemma-3-270m/layer_9/width_4k/average_l0_78"
WIDE = "gemma-3-270m/layer_9/width_16k/average_l0_40"
TASKS = registry.DEMO
LEVELS = {
    "standard": (None,),
    "scarcity": (2, 8, 32, 128),
    "imbalance": (0.1, 0.5, 0.9),
    "label_noise": (0.0, 0.25, 0.5),
    "covariate_shift": (None,),
}
ARROWS = (
    ("logreg", "", None),
    ("pca", "", None),
    ("sae_k16", NARROW, 16),
    ("sae_k128", NARROW, 128),
    ("sae_k16", WIDE, 16),
    ("sae_k128", WIDE, 128),
    *(("sae_k16_shuffled", sae_id, 16) for sae_id in (NARROW, WIDE, f"random/{NARROW}")),
    ("sae_k16", f"random/{NARROW}", 16),
    ("sae_k128", f"random/{NARROW}", 128),
)
CONFIG = {
    "model": "gemma-3-270m",
    "site": "resid_post.9",
    "tasks": ["demo"],
    "methods": ["logreg", "pca", "sae_k16", "sae_k128", "sae_k16_shuffled"],
    "sae": [NARROW, WIDE, f"random/{NARROW}"],
    "protocol": "paper",
}


def unit(
    task, method, sae_id, k, protocol="paper", site="resid_post.9", seeds=(42,), regimes=LEVELS
):
    """One unit with random but fixed numbers; an SAE probe is a little worse, a control much."""
    known = [arrow[:2] for arrow in ARROWS]
    place = [
        TASKS.index(task),
        [*known, (method, sae_id)].index((method, sae_id)),
        protocol == "paper",
    ]
    rng = np.random.default_rng([*place, int(site.partition(".")[2])])
    rows = [(r, level, seed) for r in regimes for level in LEVELS[r] for seed in seeds]
    shift = -0.02 * bool(sae_id) - 0.2 * ("shuffled" in method or sae_id.startswith("random"))
    base = 0.7 + 0.04 * TASKS.index(task)
    auc = base + shift + rng.normal(0, 0.01, len(rows))
    n = len(rows)
    payload = {
        "unit": {
            "task": task, "source": sae_id or "resid", "method": method, "protocol": protocol,
            "model": "gemma-3-270m", "weights": "a5fd3b62", "dtype": "float32", "site": site,
            "sae_id": sae_id, "sae_weights": "77aa" if sae_id else "", "k": k, "recipe": 2,
            "max_length": 1024,
        },
        "fits": {
            "regime": [row[0] for row in rows],
            "level": [row[1] for row in rows],
            "seed": [row[2] for row in rows],
            "num_train": [1024] * n,
            "num_test": [500] * n,
            "val_auc": np.round(auc + rng.normal(0, 0.02, n), 2).tolist(),
            "test_auc": auc.tolist(),
            "test_acc": [0.7] * n,
            "test_f1": [0.7] * n,
            "test_tpr": [0.3] * n,
            "test_ece": [0.05] * n,
            "hyperparameter": [1.0] * n,
            "gap": [1e-7] * n,
            "code": [int(i == 3 and method == "pca") for i in range(n)],
        },
    }  # fmt: skip
    if sae_id == NARROW and method == "sae_k16":
        card = {"index": 1234, "mean": [0.5, 2.25], "rate": [0.1, 0.9]}
        card["link"] = "https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/1234"
        payload["latents"] = [[card, {"index": 7, "mean": [1.0, 0.25], "link": None}]] * n
    return payload


def scores(payload):
    """What a unit keeps of its test rows: 40 of them; the latents are those of its cards."""
    rng = np.random.default_rng(7)
    rows, labels = np.arange(0, 120, 3), np.arange(40) % 2
    logits = (rng.normal(size=40) + labels - 0.5).astype(np.float32)
    fires = (np.array([[3, 6], [4, -1]]), np.array([[9.5, 9.25], [3.5, 0]], np.float32))
    found = Latents(np.array([1234, 7]), np.array([0.5, -0.25], np.float32), *fires)
    fits, latents = payload["fits"], found if payload["unit"]["k"] else None
    seeds = [s for s, r in zip(fits["seed"], fits["regime"], strict=True) if r == "standard"]
    draws = tuple(ScoredRows(seed, rows, labels, logits, latents) for seed in seeds)
    return StoredScores(("no", "yes"), draws) if draws else None


def write_run(root, *, tasks=TASKS, arrows=ARROWS, config=CONFIG, **options):
    """Writes a run's folder and returns it."""
    storage.write_config(root, config)
    store = storage.Store(root)
    for task in tasks:
        for method, sae_id, k in arrows:
            payload = unit(task, method, sae_id, k, **options)
            timing = {"seconds": {"fit": 30.0}, "device": "cpu", "jax": "0.10.2"}
            store.put(storage.unit_id(payload["unit"]), payload, timing, scores(payload))
    return root


@contextlib.contextmanager
def without_figures(*, charts=False):
    """Leaves out what takes most of a report's time, where the page alone is tested."""
    rest = contextlib.nullcontext() if charts else _without_charts()
    with mock.patch("probejax.analysis.report.write_figures", return_value=[]), rest:
        yield


def _without_charts():
    """Leaves out the chart of each page of examples, which takes most of that page's time."""
    return mock.patch("probejax.analysis.example_pages._figure", return_value="")


@contextlib.contextmanager
def quick_figures(*, laid_out=True):
    """Writes figures without painting them; laid out, everything that can fail does."""

    def save(figure, file, format, **options):
        if laid_out and format == "png":  # the second of the two has the same layout
            figure.draw_without_rendering()
        file.write(b"<svg/>")

    with mock.patch("matplotlib.figure.Figure.savefig", save), _without_charts():
        yield

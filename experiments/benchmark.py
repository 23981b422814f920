"""Measures probejax against reference implementations, both in this run, on the same cores.

    python -m experiments.benchmark --suite=harvest

Prints one JSON line per figure: what was measured, ours, theirs, their ratio and the target. Needs
the test extra and the repository, where the references live (tests/reference).
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from experiments import benchmark_multitoken, benchmark_probes, benchmark_saes
from experiments import flags as common
from experiments.entry import run
from probejax import artifacts, devices, models, tasks
from probejax.activations import forward
from probejax.models import tokens
from probejax.sites import parse

flags.declare_key_flag(common.CACHE_DIR)
_LAYER = 9
_SITE = parse(_LAYER)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Times each side runs; the median counts.", 1)


def seconds(function: Callable[[], object]) -> float:
    """Returns the median wall time of a function that has run once before."""
    times = []
    for _ in range(_REPEATS.value):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def harvest_suite() -> Iterator[dict]:
    """Yields tokens per second of last-token harvests of gemma-3-270m, layer 9, float32."""
    from tests.reference import torch_gemma

    cache = common.CACHE_DIR.value
    model = models.load("gemma-3-270m", (_LAYER,), cache_dir=cache)
    torch_model = torch_gemma.load(artifacts.gemma_3_270m(cache))
    rng = np.random.default_rng(0)
    distinct = sorted({p for name in tasks.DEMO for p in tasks.load(name, cache_dir=cache).prompts})
    distinct += sorted(set(tasks.load("87_glue_cola", cache_dir=cache).prompts))
    sample = [distinct[i] for i in rng.choice(len(distinct), 1024, replace=False)]
    ids = tokens.encode(model.tokenizer, sample, 1024)
    few = ids[:128]  # one by one is slow

    def ours(prompts: list[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(prompts), model.config.d_model), np.float32)
        for part in forward.run(model.transformer, forward.batches(prompts), (_SITE,)):
            found[part.prompts] = part.rows[_SITE]
        return found

    error = np.linalg.norm(
        ours(few) - torch_gemma.harvest_one_by_one(torch_model, few, _LAYER), axis=1
    )
    worst = float((error / np.linalg.norm(ours(few), axis=1)).max())
    assert worst < 1e-4, f"the two harvests differ by {worst:.1e}"
    rate = len(np.concatenate(ids)) / seconds(lambda: ours(ids))
    batched = len(np.concatenate(ids)) / seconds(
        lambda: torch_gemma.harvest_in_batches(torch_model, ids, _LAYER)
    )
    single = len(np.concatenate(few)) / seconds(
        lambda: torch_gemma.harvest_one_by_one(torch_model, few, _LAYER)
    )
    unit = "tokens/s"
    yield _figure("harvest vs batches of 32, all hidden states", rate, batched, 2.0, unit)
    yield _figure("harvest vs one prompt at a time, with logits", rate, single, 8.0, unit)


def _figure(name: str, ours: float, theirs: float, target: float, unit: str) -> dict:
    """Returns one line; for rates the ratio is ours over theirs."""
    return {
        "name": name,
        "ours": round(ours, 1),
        "theirs": round(theirs, 1),
        "unit": unit,
        "ratio": round(ours / theirs, 2),
        "target": target,
    }


SUITES = {
    "harvest": harvest_suite,
    "probes": lambda: benchmark_probes.suite(_REPEATS.value, common.CACHE_DIR.value),
    "saes": lambda: benchmark_saes.suite(seconds),
    "multitoken": lambda: benchmark_multitoken.suite(common.CACHE_DIR.value),
}
_SUITE = flags.DEFINE_enum("suite", None, list(SUITES), "What to measure.", required=True)


def main(_: list[str]) -> None:
    """Runs one suite."""
    devices.compilation_cache(artifacts.cache_dir(common.CACHE_DIR.value))
    for figure in SUITES[_SUITE.value]():
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    run(main)

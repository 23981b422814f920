"""Tokens per second of a harvest, beside the study's own ways of making one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from probejax import artifacts, models, tasks
from probejax.activations import forward
from probejax.models import tokens
from probejax.sites import parse

_LAYER = 9
_SITE = parse(_LAYER)


def suite(
    seconds: Callable[[Callable[[], object]], float], cache: str | Path | None
) -> Iterator[dict]:
    """Yields tokens per second of last-token harvests of gemma-3-270m, layer 9, float32."""
    from tests.reference import torch_gemma

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

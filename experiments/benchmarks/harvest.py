"""Tokens per second of a harvest, beside the study's own ways of making one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probejax import artifacts, models, tasks
from probejax.activations import forward
from probejax.models import tokens
from probejax.sites import Site

_PROMPTS, _FEW = 1024, 128  # one by one is slow


class _Case(NamedTuple):
    """A model, the layer that the study would read, and three that are read in one pass."""

    name: str
    layer: int
    layers: tuple[int, ...]
    load: Callable[[], Any]  # as a class of transformers


def suite(
    seconds: Callable[[Callable[[], object]], float], cache: str | Path | None
) -> Iterator[dict]:
    """Yields tokens per second of last-token harvests in float32, of both models at hand.

    Beside transformers in PyTorch, at the middle layer; and of three layers in one pass beside the
    deepest alone.
    """
    from tests.reference import torch_gemma, torch_llama

    gemma = lambda: torch_gemma.load(artifacts.gemma_3_270m(cache))
    smollm2 = lambda: torch_llama.load(artifacts.smollm2_135m(cache))
    rng = np.random.default_rng(0)
    distinct = sorted({p for name in tasks.DEMO for p in tasks.load(name, cache_dir=cache).prompts})
    distinct += sorted(set(tasks.load("87_glue_cola", cache_dir=cache).prompts))
    sample = [distinct[i] for i in rng.choice(len(distinct), _PROMPTS, replace=False)]
    for case in (
        _Case("gemma-3-270m", 9, (4, 9, 14), gemma),
        _Case("smollm2-135m", 14, (7, 14, 23), smollm2),
    ):
        yield from _figures(case, sample, seconds, cache)


def _figures(case: _Case, sample: list[str], seconds, cache) -> Iterator[dict]:
    from tests.reference import torch_harvest

    theirs = case.load()
    theirs.set_attn_implementation("sdpa")  # their own choice, where nobody asks for another
    found = models.find(case.name, cache_dir=cache)
    model = models.load(case.name, (case.layer,), cache_dir=cache)
    ids = tokens.encode(model.tokenizer, sample, 1024, bos=found.bos_token("auto"))
    few, count = ids[:_FEW], len(np.concatenate(ids))

    def ours(model, prompts: list[np.ndarray], layers: tuple[int, ...]) -> np.ndarray:
        sites = tuple(Site("resid_post", layer) for layer in layers)
        found = np.zeros((len(prompts), model.config.d_model), np.float32)
        for part in forward.run(model.transformer, forward.batches(prompts), sites):
            found[part.prompts] = part.rows[sites[0]]
        return found

    middle = (case.layer,)
    expected = torch_harvest.one_by_one(theirs, few, case.layer)
    error = np.linalg.norm(ours(model, few, middle) - expected, axis=1)
    worst = float((error / np.linalg.norm(expected, axis=1)).max())
    assert worst < 1e-4, f"the two harvests of {case.name} differ by {worst:.1e}"
    rate = count / seconds(lambda: ours(model, ids, middle))
    batched = count / seconds(lambda: torch_harvest.in_batches(theirs, ids, case.layer))
    single = len(np.concatenate(few)) / seconds(
        lambda: torch_harvest.one_by_one(theirs, few, case.layer)
    )
    name = f"harvest {case.name}"
    yield _figure(f"{name} vs batches of 32, all hidden states", rate, batched, 3.0)
    yield _figure(f"{name} vs one prompt at a time, with logits", rate, single, 8.0)
    deep = models.load(case.name, case.layers, cache_dir=cache)
    alone = count / seconds(lambda: ours(deep, ids, case.layers[-1:]))
    several = count / seconds(lambda: ours(deep, ids, case.layers))
    yield _figure(f"{name}, layers {case.layers} vs the deepest alone", several, alone, 0.95)


def _figure(name: str, ours: float, theirs: float, target: float) -> dict:
    """Returns one line; the ratio is ours over theirs."""
    return {
        "name": name,
        "ours": round(ours, 1),
        "theirs": round(theirs, 1),
        "unit": "tokens/s",
        "ratio": round(ours / theirs, 2),
        "target": target,
    }

"""The suite `multitoken` of the benchmark: the attention probe, and pooled SAE latents.

The prompts have the lengths of real tasks; their activations are noise, which takes as long. Peak
memory is that of a process of its own, above what it had when its inputs were there.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.saes import figure, memory
from probejax import models, saes, storage, tasks
from probejax.activations.ragged import Activations, join
from probejax.models import tokens as texts
from probejax.probes import aggregators, sae_pooled
from probejax.probes import token_training as training
from probejax.probes.token_training import Fits
from probejax.solvers import engine

_D_MODEL, _D_SAE, _LIMIT = 640, 65_536, 256
_TASKS, _SEEDS, _ROWS = 20, 5, 1024  # a standard condition each
_STEPS, _THEIR_STEPS = 50, 4  # of a thousand equal ones; theirs are of one seed per task
_PROMPTS = 256  # of the pooling; with all latents of all tokens in memory, more would not fit


def suite(cache_dir: str | None = None) -> Iterator[dict]:
    """Yields the figures."""
    yield from _attention(lengths(cache_dir))
    ours, theirs = (_alone(side) for side in ("ours", "theirs"))
    difference = abs(ours["sum"] / theirs["sum"] - 1)
    assert difference < 1e-5, f"the two pooled latents differ by {difference:.1e}"
    name = f"max-pool {_D_SAE} latents over {ours['tokens']} tokens vs encode, then pool"
    yield figure(name, ours["seconds"], theirs["seconds"], 2.0, "s")
    yield figure("peak memory of the same", ours["gib"], theirs["gib"], 20.0, "GiB")


def lengths(cache_dir: str | None = None) -> list[np.ndarray]:
    """Returns the tokens of the prompts of 20 tasks, every fifth of the study's that is whole."""
    tokenizer = models.find("gemma-3-270m", cache_dir=cache_dir).tokenizer()
    found = []
    for name in tasks.names()[::5]:
        prompts = tasks.load(name, cache_dir=cache_dir).prompts[:_ROWS]
        if len(prompts) < _ROWS or len(found) == _TASKS:
            continue
        found.append(np.array([len(x) for x in texts.encode(tokenizer, prompts, _LIMIT)]))
    return found


def noise(counts: np.ndarray, seed: int = 0) -> Activations:
    """Returns tokens of random activations."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((counts.sum(), _D_MODEL), np.float32)
    return Activations(x, np.cumsum(counts) - counts, counts)


def fits(first: int, count: int, seeds: int, steps: int) -> Fits:
    """Returns fits on `count` prompts from `first` on, one per seed, that end after `steps`."""
    rng = np.random.default_rng(first)
    order = np.stack([rng.permutation(count) for _ in range(seeds)])
    train = order < int(0.8 * count)
    return Fits(
        rows=first + order,
        train=train,
        val=~train,
        y=np.broadcast_to(np.arange(count) % 2, order.shape),
        w=rng.normal(0, 1e-3, (seeds, 2, _D_MODEL)),
        b=np.zeros(seeds),
        setting=np.zeros(seeds),
        rate=np.full(seeds, 1e-4),
        stop=np.full(seeds, steps - 1),
    )


def _attention(
    counts: list[np.ndarray],
    seeds: int = _SEEDS,
    steps: int = _STEPS,
    their_steps: int = _THEIR_STEPS,
) -> Iterator[dict]:
    """Yields the time per step of a fit, all fits of all tasks in one call against one by one."""
    import torch

    from tests.reference import study_attention

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parts = [noise(each, seed) for seed, each in enumerate(counts)]
    tokens = join(parts)
    first = np.cumsum([0, *map(len, counts)])[:-1]
    each = [fits(int(f), len(c), seeds, steps) for f, c in zip(first, counts, strict=True)]
    every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)
    run = lambda: training.train(tokens, every, aggregators.attention, steps=steps)
    run()  # compiles
    began = time.perf_counter()
    ours = run()
    seconds = (time.perf_counter() - began) / (len(every.w) * steps)
    took = 0.0
    for task, part in enumerate(parts):
        one = engine.take(each[task], np.arange(1))
        rows = one.rows[0] - first[task]
        longest = int(part.counts.max())
        halves = []
        for mask in (one.train[0], one.val[0]):
            some = rows[mask]
            x = study_attention.padded(part.x, part.starts[some], part.counts[some], longest)
            halves += [x, one.y[0][mask]]
        w = one.w[0]
        began = time.perf_counter()
        x, y, x_val, y_val = halves
        _, _, losses = study_attention.fit(x, y, x_val, y_val, w[:1], w[1:], steps=their_steps)
        took += time.perf_counter() - began
        worst = np.abs(ours.loss[task * seeds, :their_steps] - losses).max()
        assert worst < 1e-5, f"the losses differ by {worst:.1e}"
    yield figure(
        f"train attention, {len(counts)} tasks x {seeds} seeds, vs one by one (per step of a fit)",
        1e3 * seconds,
        1e3 * took / (len(parts) * their_steps),
        5.0,
        "ms",
    )


def _alone(side: str) -> dict:
    """Runs one side of the pooling in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.multitoken", side],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def measure(side: str, prompts: int = _PROMPTS, d_sae: int = _D_SAE) -> dict:
    """Pools latents one way; returns what it took."""
    rng = np.random.default_rng(0)
    tokens = noise(rng.integers(16, 113, prompts))  # 64 in the mean
    W_enc = rng.standard_normal((_D_MODEL, d_sae), np.float32) / np.float32(_D_MODEL**0.5)
    b_enc, threshold = np.zeros(d_sae, np.float32), np.ones(d_sae, np.float32)
    pooled = np.zeros((prompts, d_sae), np.float32)
    if side == "theirs":
        import torch

        from tests.reference import pool_latents

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        arrays = [torch.tensor(each) for each in (tokens.x, W_enc, b_enc, threshold)]
        before, began = memory("VmRSS"), time.perf_counter()
        found = pool_latents.max_pool(arrays[0], tokens.starts, tokens.counts, *arrays[1:])
        pooled[:] = found.numpy()
    else:
        arrays = [jnp.asarray(each) for each in (W_enc, b_enc, threshold)]
        sae = saes.SAE(arrays[0], arrays[1], None, jnp.zeros(_D_MODEL), arrays[2])
        before, began = memory("VmRSS"), time.perf_counter()
        for block in sae_pooled.blocks(tokens, np.arange(prompts), sae, "max", block=4096):
            pooled[:, block.start : block.start + block.latents.shape[1]] = block.latents
    seconds, peak = time.perf_counter() - began, memory("VmHWM")
    return {
        "seconds": seconds,
        "gib": (peak - before) / 2**30,
        "sum": float(pooled.sum(dtype=np.float64)),
        "tokens": int(tokens.counts.sum()),
    }


if __name__ == "__main__":
    print(storage.encode_json(measure(sys.argv[1])))

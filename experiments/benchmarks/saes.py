"""The suite `saes` of the benchmark: encoding, training, selecting latents, a million latents.

Peak memory is that of a process of its own, above what it had when its libraries were loaded.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from probejax import saes, storage
from probejax.rules import ARCHITECTURES
from probejax.saes import train

_ROWS, _LANES, _K = 1024, 53, 128  # the conditions of one task, the study's largest k
_GIB = 2**30


def suite(seconds: Callable[[Callable], float], *, d_model: int = 2304) -> Iterator[dict]:
    """Yields the figures; the files are made on the fly and deleted afterwards.

    Args:
      seconds: times a function.
      d_model: width of the residual stream.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer_1_width_16k_l0_small" / "params.safetensors"
        write(path, d_model, 1 << 14)
        yield from _encoding(path, seconds)
        path.unlink()
        yield from training(seconds)
        write(path, d_model, 1 << 17)
        ours, theirs = (_alone(side, path) for side in ("ours", "theirs"))
        path.unlink()
        same = np.mean(np.array(ours.pop("chosen")) == np.array(theirs.pop("chosen")))
        name = "select 128 latents of 131,072 for 53 conditions vs encode, then rank"
        yield figure(name, ours["seconds"], theirs["seconds"], 3.0, "s", same=round(same, 4))
        name = "peak memory of the same"
        yield figure(name, ours["gib"], theirs["gib"], 10.0, "GiB")
        write(path, d_model, 1 << 20)
        wide = _alone("ours", path)
        yield {
            "name": "select 128 latents of 1,048,576 for 53 conditions, weights in their file",
            "ours": round(wide["total_gib"], 2),
            "unit": "GiB, the whole process",
            "target": 6.0,
            "seconds": round(wide["seconds"], 1),
        }


def write(path: Path, d_model: int, d_sae: int) -> None:
    """Writes a random SAE in Gemma Scope 2's layout; its decoder is a hole in the file."""
    shapes = {"w_enc": (d_model, d_sae), "b_enc": (d_sae,), "threshold": (d_sae,)}
    shapes |= {"b_dec": (d_model,), "w_dec": (d_sae, d_model)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    # Rows are windows of one long noise, because drawing a million columns would take a minute.
    noise = rng.standard_normal(d_sae + 997 * d_model, np.float32) / np.float32(d_model**0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for row in range(d_model):
            file.write(noise[997 * row : 997 * row + d_sae].data)
        file.write(np.zeros(d_sae, np.float32).data)
        file.write(np.full(d_sae, 1.0, np.float32).data)
        file.write(np.zeros(d_model, np.float32).data)
        file.truncate(8 + len(text) + end)


def problem(d_model: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows, and for each condition training rows, which of them are real, and labels."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((_ROWS, d_model), np.float32)
    train = np.stack([rng.permutation(_ROWS) for _ in range(_LANES)])
    mask = np.arange(_ROWS) < np.linspace(64, _ROWS, _LANES).astype(int)[:, None]
    return x, train, mask, rng.integers(0, 2, train.shape)


def _encoding(path: Path, seconds: Callable[[Callable], float]) -> Iterator[dict]:
    import torch

    from tests.reference import rank_latents

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sae, twin = saes.load(str(path)), rank_latents.load(path)
    x = problem(sae.d_model)[0]
    rows, tensor = jnp.asarray(x), torch.tensor(x)
    multiply = jax.jit(lambda x, W: jnp.matmul(x, W, precision="highest"))
    sides = (
        lambda: jax.block_until_ready(saes.encode(sae, rows)),
        lambda: rank_latents.encode(twin, tensor),
        lambda: jax.block_until_ready(multiply(rows, sae.W_enc)),
    )
    for side in sides:
        side()  # compiles
    ours, theirs, product = map(seconds, sides)
    yield figure(
        "encode 1,024 rows with 16,384 latents",
        *(_ROWS / ours, _ROWS / theirs, 1.0, "rows/s"),
        share_of_matmul=round(product / ours, 2),
    )


def training(
    seconds: Callable[[Callable], float],
    *,
    d_model: int = 640,
    d_sae: int = 4096,
    batch: int = 1024,
) -> Iterator[dict]:
    """Yields the rate of a training step of every architecture.

    Its share of the matrix multiplications' rate counts six products of a batch with a matrix: one
    forward and two backward for the encoder and the decoder each. A gated SAE needs eight.
    """
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((batch, d_model), np.float32))
    W = jnp.asarray(rng.standard_normal((d_model, d_sae), np.float32))
    multiply, scale = jax.jit(jnp.matmul), train.measure(np.asarray(x))
    sides: dict[str, Callable] = {"": lambda: jax.block_until_ready(multiply(x, W))}
    for name in ARCHITECTURES:
        options = train.TrainOptions(name, d_sae=d_sae, batch=batch)
        state = [train.start(options, d_model)]

        def step(options=options, state=state):
            state[0], report = train.train_step(options, state[0], x, scale)
            jax.block_until_ready(report)

        sides[name] = step
    took = {}
    for name, side in sides.items():
        side()  # compiles
        took[name] = seconds(side)
    for name in ARCHITECTURES:
        products = 8 if name == "gated" else 6
        yield {
            "name": f"train a {name} SAE with {d_sae:,} latents of {d_model} dimensions",
            "ours": round(batch / took[name]),
            "unit": "tokens/s",
            "share_of_matmul": round(products * took[""] / took[name], 2),
        }


def _alone(side: str, path: Path) -> dict:
    """Runs one side in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.saes", side, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def measure(side: str, path: Path) -> dict:
    """Selects latents one way; returns what it took and what was chosen."""
    if side == "theirs":
        import torch

        from tests.reference import rank_latents

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    found = saes.find(str(path.parent))
    x, train, mask, labels = problem(found.d_model or 0)
    rows = jax.block_until_ready(jnp.asarray(x))
    before, began = memory("VmRSS"), time.perf_counter()
    if side == "ours":
        chosen = saes.top_latents(found.open(), rows, train, mask, labels, _K)
    else:
        latents = rank_latents.encode(rank_latents.load(path), torch.tensor(x))
        places, real, classes = (torch.tensor(each) for each in (train, mask, labels))
        chosen = rank_latents.top_latents(latents, places, real, classes, _K).numpy()
    took, peak = time.perf_counter() - began, memory("VmHWM")
    return {
        "seconds": took,
        "gib": (peak - before) / _GIB,
        "total_gib": peak / _GIB,
        "chosen": chosen.tolist(),
    }


def memory(field: str) -> int:
    """Returns the resident bytes now (VmRSS) or at most so far (VmHWM).

    Not getrusage: a process inherits that peak from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def figure(name: str, ours: float, theirs: float, target: float, unit: str, **more) -> dict:
    """Returns one line; the ratio is above one where ours is better."""
    ratio = ours / theirs if unit.endswith("/s") else theirs / ours
    return {
        "name": name,
        "ours": round(ours, 2),
        "theirs": round(theirs, 2),
        "unit": unit,
        "ratio": round(ratio, 2),
        "target": target,
        **more,
    }


if __name__ == "__main__":
    print(storage.encode_json(measure(sys.argv[1], Path(sys.argv[2]))))

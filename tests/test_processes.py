"""The real entry point in two processes: none needs the other, and killed they end the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from probejax.saes import gemma_scope
from tests import tiny_models

TASKS = 4
TIMEOUT = 300


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """A tiny model folder, a tiny SAE and four tasks of 120 rows."""
    root = tmp_path_factory.mktemp("inputs")
    folder, tasks = root / "tiny-gemma-3", root / "tasks"
    folder.mkdir()
    tasks.mkdir()
    config = tiny_models.GEMMA3
    model = tiny_models.language_model(config)
    model.tokenizer.save(str(folder / "tokenizer.json"))
    save_file(tiny_models.arrays(config).arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_models.hf_config(config)))
    rng = np.random.default_rng(0)
    d, m = config.d_model, 12
    arrays = {
        "W_enc": rng.normal(size=(d, m)).astype(np.float32),
        "b_enc": np.zeros(m, np.float32),
        "W_dec": rng.normal(size=(m, d)).astype(np.float32),
        "b_dec": np.zeros(d, np.float32),
        "threshold": np.full(m, 0.1, np.float32),
    }
    (root / "params.npz").write_bytes(gemma_scope.to_bytes(arrays))
    for number in range(TASKS):
        texts = tiny_models.prompts(120, 6, seed=number)
        labels = [("yes", "no")[i % 2] for i in range(len(texts))]
        rows = "\n".join(
            f"{text or 'w0'},{label}" for text, label in zip(texts, labels, strict=True)
        )
        (tasks / f"own_{number}.csv").write_text(f"prompt,target\n{rows}\n")
    return {"model": folder, "tasks": tasks, "sae": root / "params.npz", "cache": root / "cache"}


def start(inputs, out: Path, which=(0, 1), methods="mean_difference,knn") -> list:
    """Starts processes of two; each shares one core with itself alone."""
    command = [
        *(sys.executable, "-m", "experiments.sweep", f"--out={out}"),
        *(f"--model={inputs['model']}", "--layer=1"),
        *("--tasks=own_*", f"--data={inputs['tasks']}", f"--cache_dir={inputs['cache']}"),
        *("--regimes=standard", f"--methods={methods}", "--num_processes=2"),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "1"}
    return [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            env=environment,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in which
    ]


def finish(running: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate(timeout=TIMEOUT)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(outputs)
    return outputs


def units(out: Path) -> dict[str, bytes]:
    """The bytes of each finished unit, and behind them those of its test scores."""
    scores = lambda path: out / "scores" / f"{path.stem}.safetensors"
    found = (out / "units").glob("*.json")
    return {path.name: path.read_bytes() + scores(path).read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A run whose first process comes when the second is gone: the units that it left, all units,
    and what the two printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    (second,) = finish(start(inputs, out, which=(1,)))
    half = units(out)
    (first,) = finish(start(inputs, out, which=(0,)))
    return half, units(out), second, first


@pytest.mark.thorough
def test_no_process_needs_another(inputs, whole, tmp_path):
    """The first never comes, or is killed at once: the second finishes its share all the same."""
    half, all_units, second_said, first_said = whole
    assert len(half) == TASKS and f"{TASKS} of {2 * TASKS} units are still" in second_said

    first, second = start(inputs, tmp_path / "killed")
    first.kill()
    first.communicate()
    finish([second])
    assert units(tmp_path / "killed") == half

    # Whoever is last prints the table, of methods because no quivers are compared.
    assert "\nmean_difference " in first_said and len(all_units) == 2 * TASKS


@pytest.mark.thorough
def test_killed_and_rerun_gives_the_same_bytes(inputs, whole, tmp_path):
    _, expected, *_ = whole
    assert len(expected) == 2 * TASKS

    running = start(inputs, tmp_path / "killed")
    deadline = time.monotonic() + TIMEOUT
    while not units(tmp_path / "killed"):
        assert time.monotonic() < deadline, "no unit was finished"
        time.sleep(0.01)
    for process in running:
        process.kill()
        process.communicate()
    done = units(tmp_path / "killed")
    assert 0 < len(done) < len(expected), "the run was not killed in its middle"

    finish(start(inputs, tmp_path / "killed"))
    assert units(tmp_path / "killed") == expected

"""Every program of a sweep compiles for a TPU and a GPU, and what it will cost there is held.

float64, donated buffers, factorisations and all. Neither machine is needed, only their compilers.
"""

import importlib.util
import json
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probejax.sweep import memory
from tests.test_sweep import place, write_sae

__all__ = ["place"]  # a fixture

LAUNCHES = {"l1._advance": [75], "l2_float64._walk": [113, 56, 13, 3]}  # of each loop, at most
METHODS = "default,logreg_l1,multitoken,sae_k16_binarised"


needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is missing: pip install -e '.[tpu]'"
)


needs_nvcc = pytest.mark.skipif(
    not (importlib.util.find_spec("jax_cuda12_plugin") and importlib.util.find_spec("nvidia")),
    reason="the CUDA compiler is missing: pip install -e '.[cuda]'",
)


def compiled(target, report, flags):
    """Runs a sweep on the CPU; returns what became of each program on the target, and of bytes."""
    command = [sys.executable, "-m", "tests.ahead_of_time", target, str(report), *flags]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=dict(os.environ), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    programs = [json.loads(line) for line in report.read_text().splitlines()]
    print(f"{len(programs) - 1} programs, {sum(p.get('seconds', 0) for p in programs):.0f} s")
    assert not [program for program in programs if program.get("error")]
    return programs


@pytest.fixture
def real_sizes(tmp_path):
    """1,024 rows of Gemma 2 2B's width: shapes decide what a compiler makes of a factorisation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 2304)).astype(np.float32)
    x[:, 0] *= 200
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, 1:40].sum(axis=1) + 3 * rng.normal(size=1500) > 0)
    return [
        *(f"--activations={tmp_path / 'x.npy'}", f"--labels={tmp_path / 'y.npy'}"),
        *("--sae=random:4096:64", "--regimes=standard", f"--cache_dir={tmp_path / 'cache'}"),
    ]


@pytest.mark.slow
@needs_libtpu
def test_every_program_of_a_sweep_compiles_for_a_tpu(place, tmp_path):
    """Few rows in sample space, more in feature space."""
    sae = write_sae(tmp_path / "sae", d_sae=160)
    flags = [
        *(f"--model={place / 'tiny'}", "--layer=1", f"--sae={sae}"),
        *("--tasks=own_a", f"--data={place / 'tasks'}", f"--methods={METHODS}"),
        *("--max_length=16", f"--cache_dir={tmp_path / 'cache'}", "--controls"),
        "--regimes=standard,scarcity,label_noise",
    ]
    *programs, _ = compiled("v5e", tmp_path / "programs.jsonl", [*flags, "--engine=float32"])
    assert not [program["name"] for program in programs if program["float64_loops"]]
    rooms = {program["name"].split(".")[1] for program in programs}
    assert {"activations", "saes", "solvers", "probes"} <= rooms


@pytest.mark.slow
@needs_libtpu
def test_at_the_sizes_of_a_real_model_a_tpu_is_served(real_sizes, tmp_path):
    *programs, _ = compiled("v5e", tmp_path / "programs.jsonl", [*real_sizes, "--engine=float32"])
    assert not [program["name"] for program in programs if program["float64_loops"]]
    longest = sorted(programs, key=lambda program: program["seconds"])[-5:]
    print(longest)
    assert longest[-1]["seconds"] <= 30
    assert sum(program["seconds"] for program in programs) <= 300
    picked = max(programs, key=lambda program: program["gathered"])
    print(picked["name"], picked["gathered"])
    assert picked["gathered"] <= 2**16


@pytest.mark.slow
@needs_nvcc
def test_at_the_sizes_of_a_real_model_a_gpu_is_served(real_sizes, tmp_path):
    """Launches decide how fast a GPU is; the goals are 40 for a trip of L1, 10 for products."""
    *programs, traffic = compiled("h100", tmp_path / "programs.jsonl", real_sizes)
    print(traffic)
    assert traffic["sent"] <= 6e8  # where every batch is sent its rows, 5.7e9
    most, held = {}, max(program["bytes"] for program in programs)
    for program in programs:
        name = program["name"].removeprefix("probejax.solvers.")
        most[name] = max(most.get(name, []), program["kernels"])
    print({name: kernels for name, kernels in most.items() if kernels}, held / 1e9)
    for name, known in LAUNCHES.items():
        assert len(most[name]) == len(known), name
        assert all(map(operator.le, most[name], known)), name
    assert memory.batch_bytes(1024, 2304) == pytest.approx(held, rel=0.25)

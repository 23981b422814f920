"""Every program of a sweep compiles for a TPU: float64, donated buffers, factorisations and all."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_sweep import place, write_sae

__all__ = ["place"]  # a fixture

METHODS = "default,logreg_l1,multitoken,sae_k16_binarised"


needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is missing: pip install -e '.[tpu]'"
)


def compiled(report, flags):
    """Runs a sweep with the arithmetic of a TPU, and returns what became of each program."""
    command = [sys.executable, "-m", "tests.tpu_programs", str(report), "--engine=float32", *flags]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=dict(os.environ), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    programs = [json.loads(line) for line in report.read_text().splitlines()]
    print(f"{len(programs)} programs, {sum(p['seconds'] for p in programs):.0f} s")
    assert not [program for program in programs if program["error"]]
    assert not [program["name"] for program in programs if program["float64_loops"]]
    return programs


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
    programs = compiled(tmp_path / "programs.jsonl", flags)
    rooms = {program["name"].split(".")[1] for program in programs}
    assert {"activations", "saes", "solvers", "probes"} <= rooms


@pytest.mark.slow
@needs_libtpu
def test_at_the_sizes_of_a_real_model_none_takes_half_a_minute(tmp_path):
    """1,024 rows of Gemma 2 2B's width: shapes decide what a compiler makes of a factorisation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 2304)).astype(np.float32)
    x[:, 0] *= 200
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, 1:40].sum(axis=1) + 3 * rng.normal(size=1500) > 0)
    flags = [
        *(f"--activations={tmp_path / 'x.npy'}", f"--labels={tmp_path / 'y.npy'}"),
        *("--sae=random:4096:64", "--regimes=standard", f"--cache_dir={tmp_path / 'cache'}"),
    ]
    programs = compiled(tmp_path / "programs.jsonl", flags)
    longest = sorted(programs, key=lambda program: program["seconds"])[-5:]
    print(longest)
    assert longest[-1]["seconds"] <= 30
    assert sum(program["seconds"] for program in programs) <= 300

"""Every program of a sweep compiles for a TPU: float64, donated buffers, factorisations and all."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_sweep import place, write_sae

__all__ = ["place"]  # a fixture

METHODS = "default,logreg_l1,multitoken,sae_k16_binarised"


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is missing: pip install -e '.[tpu]'"
)
def test_every_program_of_a_sweep_compiles_for_a_tpu(place, tmp_path):
    """Few rows in sample space, more in feature space."""
    report = tmp_path / "programs.jsonl"
    sae = write_sae(tmp_path / "sae", d_sae=160)
    command = [
        *(sys.executable, "-m", "tests.tpu_programs", str(report)),
        *(f"--model={place / 'tiny'}", "--layer=1", f"--sae={sae}"),
        *("--tasks=own_a", f"--data={place / 'tasks'}", f"--methods={METHODS}"),
        *("--max_length=16", f"--cache_dir={tmp_path / 'cache'}", "--controls"),
        "--regimes=standard,scarcity,label_noise",
        "--engine=float32",  # as it is on a TPU
    ]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=dict(os.environ), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    programs = [json.loads(line) for line in report.read_text().splitlines()]
    print(f"{len(programs)} programs, {sum(p['seconds'] for p in programs):.0f} s")
    assert not [program for program in programs if program["error"]]
    assert not [program["name"] for program in programs if program["float64_loops"]]
    rooms = {program["name"].split(".")[1] for program in programs}
    assert {"activations", "saes", "solvers", "probes"} <= rooms

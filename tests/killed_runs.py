"""Kills real runs at random moments and compares what they end with.

    python -m tests.killed_runs --kills=100 --workers=1,2,3 --work=/tmp/killed

A run of two real tasks on gemma-3-270m is made once and never disturbed. Then the same command is
started and killed, all its processes at once, until it has finished in spite of it; then again from
nothing, activations included, until the kills are used up. Every finished run must hold the same
bytes as the first, nothing half-written, and as many units.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASKS = "5_hist_fig_ismale,119_us_state_TX"
METHODS = "logreg,pca,sae_k16"


def start(out: Path, cache: Path, workers: int, tasks: str) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "experiments.sweep", f"--out={out}", f"--cache_dir={cache}"),
        *(f"--tasks={tasks}", "--regimes=standard", f"--methods={METHODS}"),
        *("--max_length=64", f"--workers={workers}"),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


def units(out: Path) -> dict[str, bytes]:
    scores = lambda path: out / "scores" / f"{path.stem}.safetensors"
    found = (out / "units").glob("*.json")
    return {path.name: path.read_bytes() + scores(path).read_bytes() for path in found}


def leftovers(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*.part*")]


def killed(work: Path, kills: int, workers: list[int], seed: int = 0, tasks: str = TASKS):
    """Yields a line for every run that has finished after kills.

    Args:
      work: folder for caches and results; compiled programs are kept there between runs.
      kills: how many in all.
      workers: as many workers as each run in turn has.
      seed: of the moments.
      tasks: two tasks.
    """
    cache, draw = work / "cache", random.Random(seed)
    for _ in range(2):  # the second takes as long as those that follow: its programs are there
        shutil.rmtree(work / "whole", ignore_errors=True)
        shutil.rmtree(cache / "activations", ignore_errors=True)
        began = time.monotonic()
        finish(start(work / "whole", cache, workers[0], tasks))
        whole = time.monotonic() - began
    expected, left = units(work / "whole"), kills
    yield f"undisturbed: {len(expected)} units in {whole:.0f} s"
    for number, count in enumerate(itertools.cycle(workers)):
        if not left:
            return
        out, mine, began = work / "killed", 0, time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache / "activations", ignore_errors=True)
        while True:
            process = start(out, cache, count, tasks)
            try:
                moment = draw.uniform(0, draw.choice((0.3, 1.2)) * whole)
                process.wait(moment if left else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                left, mine = left - 1, mine + 1
                continue
            finish(process)
            break
        assert units(out) == expected, f"run {number} with {count} workers differs after {mine}"
        assert not (found := leftovers(out, cache / "activations")), found
        took = time.monotonic() - began
        whole = whole if mine else min(whole, took)  # other work beside may have made it long
        yield f"run {number}: {count} workers, killed {mine} times, same bytes ({took:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", default="1,2,3")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    workers = [int(each) for each in given.workers.split(",")]
    for line in killed(given.work, given.kills, workers, given.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""The real command on one machine: worker processes, their errors, and their end."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from probejax.sweep import Execution, Unit, processes, workers
from tests.test_processes import TASKS, TIMEOUT, inputs, units

__all__ = ["inputs"]  # a fixture


def start(inputs, out: Path, *flags: str) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "experiments.sweep", f"--out={out}"),
        *(f"--model={inputs['model']}", "--layer=1", f"--sae={inputs['sae']}"),
        *("--tasks=own_*", f"--data={inputs['tasks']}", f"--cache_dir={inputs['cache']}"),
        *("--regimes=standard", "--methods=lda,sae_k4", "--log_json", *flags),
    ]
    return subprocess.Popen(
        command,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.thorough
def test_workers_find_what_one_process_finds(inputs, tmp_path):
    for count in (1, 2):
        process = start(inputs, tmp_path / str(count), f"--workers={count}", "--save_probes")
        output, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        assert len(lines) == 2 * TASKS and {line["method"] for line in lines} == {
            "lda",
            "sae_k4",
        }
        assert len(list((tmp_path / str(count) / "probes").iterdir())) == 2 * TASKS
    alone, together = (units(tmp_path / str(count)) for count in (1, 2))
    assert alone == together and len(alone) == 2 * TASKS
    # A unit of another file, or of another version, is not mixed with these.
    (tmp_path / "1" / "units" / "0123456789abcdef.json").write_text("{}")
    process = start(inputs, tmp_path / "1", "--workers=1")
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1 and "1 units that this one would not make" in errors


def test_workers_begin_with_different_units():
    group = [UNIT._replace(task=name) for name in "abcd"]
    turns = [[unit.task for unit in processes.in_turn(group, turn, 2)] for turn in (0, 1)]
    assert turns == [["a", "b", "c", "d"], ["c", "d", "a", "b"]]


def test_an_error_in_a_worker_is_the_command_s(inputs, tmp_path):
    """One damaged SAE file: found when a worker loads it, told in one sentence."""
    damaged = tmp_path / "damaged" / "params.npz"
    damaged.parent.mkdir()
    damaged.write_bytes(inputs["sae"].read_bytes()[:-200])
    process = start(inputs | {"sae": damaged}, tmp_path / "out", "--workers=2")
    _, errors = process.communicate(timeout=TIMEOUT)
    last = errors.strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("Error: ") and str(damaged) in last


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.thorough), signal.SIGINT]
)
def test_workers_end_with_the_command(inputs, tmp_path, number):
    process = start(inputs, tmp_path / "out", "--workers=2")
    deadline = time.monotonic() + TIMEOUT
    while len(alive(process.pid)) < 3 or not (tmp_path / "out" / "config.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:  # as a terminal sends it: to all of them
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)  # to the end of the workers' output, too
    if number == signal.SIGINT:
        assert errors.endswith("\nInterrupted; the same command goes on.\n"), errors
        assert "Traceback" not in errors and process.returncode == 130
    while alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlived its command"
        time.sleep(0.1)


UNIT = Unit(*[None] * len(Unit._fields))


@pytest.mark.parametrize("code", [0, 1, 130, -signal.SIGINT, -signal.SIGKILL])
def test_a_worker_that_is_gone_is_an_error_however_it_went(code):
    """Code 0 too: a library may end a process, and the command would wait for ever."""
    ours, theirs = connection.Pipe()
    worker = processes._Worker(SimpleNamespace(wait=lambda: code), ours)
    theirs.send(UNIT)
    theirs.close()
    assert processes.receive(worker) == UNIT  # what it said comes first
    with pytest.raises(RuntimeError, match=f"ended with exit code {code} before its work was done"):
        processes.receive(worker)
    processes._send(worker, "work for the dead")  # told when it is asked for what it has done


class Odd(Exception):
    """As some libraries' errors: it cannot be made again from its text."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("error", [ValueError("x"), Odd(1, 2), OSError(28, "full", "/x")])
def test_an_error_survives_the_way_to_the_command(error):
    found = pickle.loads(pickle.dumps(processes.portable(error)))
    assert str(error) in str(found) and isinstance(found, Exception)


@pytest.mark.parametrize("workers_given", [1, 3])
def test_one_task_left_is_fitted_as_many_are(workers_given, tmp_path, monkeypatch):
    """In a process of one thread: with all threads the last digits are others."""
    began = []
    monkeypatch.setattr(
        processes, "run", lambda *given: began.append(given[2]) or (unit for unit in ())
    )
    job = object.__new__(Execution)
    job.plan = SimpleNamespace(reads_tokens=False, config=None, cache_dir=None)
    job.memory_gb = None
    workers.run_units(job, [UNIT._replace(task="last")], str(tmp_path), workers=workers_given)
    assert began == [1] and set(processes._ALONE.values()) == {"1", "cpu"}

"""A sweep on a Ray cluster of three nodes, of which one dies, and which a fourth joins."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from probejax import devices
from probejax.runs import start as runs
from probejax.sweep import cluster
from tests.test_processes import TASKS, TIMEOUT, inputs, units

__all__ = ["inputs"]  # a fixture
# Ray forks to start its programs at once, which is no use of JAX in two processes.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork\\(\\) was called:RuntimeWarning")

ALONE = {"JAX_PLATFORMS": "cpu", "NPROC": "1", "RAY_USAGE_STATS_ENABLED": "0"}
SOON = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}


def start(inputs, out: Path, *flags: str) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "experiments.sweep", f"--out={out}", "--regimes=standard"),
        *(f"--model={inputs['model']}", "--layer=1", f"--sae={inputs['sae']}"),
        *("--tasks=own_*", f"--data={inputs['tasks']}", "--log_json", *flags),
    ]
    return subprocess.Popen(
        command,
        env=os.environ | ALONE | {"PROBEJAX_CACHE": str(out.parent / "driver")},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def add(nodes: Cluster, cache: Path):
    """Adds a node of one core with a cache of its own, as every machine has."""
    with devices.environment(ALONE | {"PROBEJAX_CACHE": str(cache)}):
        return nodes.add_node(num_cpus=1)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[tuple[Cluster, dict[str, object]]]:
    """Three nodes, by the names of their caches."""
    root = tmp_path_factory.mktemp("caches")
    found = Cluster()
    with devices.environment(ALONE | {"PROBEJAX_CACHE": str(root / "head")}):
        head = found.add_node(num_cpus=1, include_dashboard=False, _system_config=SOON)
    named = {root / "head": head} | {root / name: add(found, root / name) for name in "ab"}
    yield found, named
    found.shutdown()


def fitting(cache: Path) -> list[int]:
    """The processes of a node that fit."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"processes.work(" in (folder / "cmdline").read_bytes():
                if f"PROBEJAX_CACHE={cache}\0".encode() in (folder / "environ").read_bytes():
                    pids.append(int(folder.name))
    return pids


def wait(driver: subprocess.Popen, until) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not until():
        assert time.monotonic() < deadline and driver.poll() is None, driver.communicate()
        time.sleep(0.02)


@pytest.mark.thorough
def test_a_node_dies_and_one_joins_and_the_bytes_are_those_of_one_process(inputs, nodes, tmp_path):
    """All nodes are held in their first block: what the dead one had can only go to the new one."""
    methods = "--methods=mean_difference,knn"
    alone = start(inputs, tmp_path / "alone", "--workers=1", methods)
    _, errors = alone.communicate(timeout=TIMEOUT)
    assert alone.returncode == 0, errors
    expected = units(tmp_path / "alone")
    assert len(expected) == 2 * TASKS

    found, named = nodes
    out = tmp_path / "out"
    driver = start(inputs, out, "--cluster=ray", f"--ray_address={found.address}", methods)
    held: dict[Path, list[int]] = {}

    def all_held() -> bool:
        for cache in named:
            for pid in fitting(cache) if cache not in held else ():
                os.kill(pid, signal.SIGSTOP)
                held.setdefault(cache, []).append(pid)
        return len(held) == len(named)

    wait(driver, all_held)
    assert not units(out)
    *_, dies = named
    found.remove_node(named.pop(dies), allow_graceful=False)
    joined = dies.with_name("joined")
    named[joined] = add(found, joined)
    wait(driver, lambda: len(units(out)) == 2 * (TASKS - 2))
    assert fitting(joined) or list((joined / "activations").iterdir())
    for cache in set(held) & set(named):
        for pid in held[cache]:
            os.kill(pid, signal.SIGCONT)
    output, errors = driver.communicate(timeout=TIMEOUT)
    assert driver.returncode == 0, errors
    assert units(out) == expected and "\nmean_difference " in output
    assert output.count('{"task"') == 2 * TASKS  # each told once
    assert not any(map(fitting, named))


@pytest.mark.thorough
def test_an_error_comes_at_the_end_and_the_other_tasks_are_done(inputs, nodes, tmp_path):
    """A folder stands where the probes of one task belong."""
    taken = tmp_path / "out" / "probes" / "own_1__resid__lda__resid_post.1.safetensors"
    taken.mkdir(parents=True)
    flags = ("--cluster=ray", f"--ray_address={nodes[0].address}", "--methods=lda,knn")
    driver = start(inputs, tmp_path / "out", *flags, "--save_probes")
    _, errors = driver.communicate(timeout=TIMEOUT)
    last = errors.strip().splitlines()[-1]
    assert driver.returncode == 1 and last.startswith("Error: ") and str(taken) in last
    assert len(units(tmp_path / "out")) == 2 * (TASKS - 1)


@pytest.mark.thorough
def test_an_interrupt_ends_what_the_hosts_do(inputs, nodes, tmp_path):
    found, named = nodes
    flags = ("--cluster=ray", f"--ray_address={found.address}", "--methods=lda,sae_k4")
    driver = start(inputs, tmp_path / "out", *flags)
    wait(driver, lambda: any(map(fitting, named)))
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=TIMEOUT)
    assert errors.endswith("\nInterrupted; the same command goes on.\n"), errors
    assert "Traceback" not in errors and driver.returncode == 130
    deadline = time.monotonic() + TIMEOUT
    while any(map(fitting, named)):
        assert time.monotonic() < deadline, "a worker outlived its command"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], ({"num_cpus": 4}, 4)),
        ([{"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}], ({"num_gpus": 1}, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0, "TPU": 4.0}], ({"resources": {"TPU": 1}}, 0)),
    ],
)
def test_an_actor_has_a_host_a_gpu_or_a_chip(resources, expected):
    dead = {"Alive": False, "Resources": {"TPU": 4.0, "GPU": 1.0, "CPU": 1.0}}
    nodes = [{"Alive": True, "Resources": each} for each in resources]
    assert cluster._place([dead, *nodes]) == expected
    with pytest.raises(ValueError, match="no node with a CPU, a GPU or a TPU"):
        cluster._place([dead])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("ray", None, 1), r"--cluster=ray needs Ray: pip install 'probejax\[ray\]'"),
        (("ray", "auto", 2), "shares the tasks itself; start it once"),
        ((None, "auto", 1), "--ray_address=auto is that of --cluster=ray"),
        (("dask", None, 1), "--cluster=dask does not exist; choose from ray"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_told_in_a_sentence(settings, says, monkeypatch):
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=says):
        runs._check_cluster(*settings, 1)


def test_an_address_where_nobody_answers_is_told_in_a_sentence():
    """At once: Ray itself tries for minutes."""
    with pytest.raises(ValueError, match=r"--ray_address=127.0.0.1:1: no cluster answers there"):
        with cluster._connection("127.0.0.1:1"):
            pass

"""Shares of a run: each process knows its own, and none needs another."""

import json
import os
import subprocess
import sys

import pytest

from probejax import hosts


def test_shares_are_disjoint_and_cover_all_units():
    units = list(range(11))
    shares = [hosts.share(units, i, 3) for i in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_process_that_does_not_exist_is_refused(index, count):
    with pytest.raises(ValueError, match=f"Process {index} of {count} does not exist"):
        hosts.share([1], index, count)
    with pytest.raises(ValueError, match=f"Process {index} of {count} does not exist"):
        hosts.rank(True, index, count)


def test_one_process_is_the_first_of_one():
    assert hosts.rank(False) == (0, 1)


@pytest.mark.parametrize("numbers", [(1, None), (None, 2)])
def test_half_of_the_numbers_is_not_enough(numbers):
    with pytest.raises(ValueError, match="Give both --process_id and --num_processes"):
        hosts.rank(False, *numbers)


SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4"},
    **{"SLURM_PROCID": "2", "SLURM_LOCALID": "0"},
}
OPEN_MPI = {
    **{"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:7", "OMPI_COMM_WORLD_SIZE": "3"},
    **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
}
GKE = {
    **{"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"},
    **{"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"},
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,4,1",
}


@pytest.mark.parametrize(
    ("environment", "expected"), [(SLURM, (2, 4)), (OPEN_MPI, (1, 3)), ({}, None)]
)
def test_the_environment_tells_which_process_this_is(environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(ValueError, match="--multihost finds no TPU slice, Slurm"):
            hosts.rank(True)
    else:
        assert hosts.rank(True) == expected


def test_an_indexed_job_of_kubernetes_tells_its_index_only(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert hosts.rank(True, None, 4) == (2, 4)
    assert hosts.rank(True, 1, 3) == (1, 3)  # flags come first
    assert hosts.rank(False) == (0, 1)
    with pytest.raises(ValueError, match="give them as --num_processes"):
        hosts.rank(True)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert hosts.rank(True, None, 8) == (2, 8) and hosts.rank(True) == (2, 4)
    for name in SLURM:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="Process 2 of 2 does not exist"):
        hosts.rank(True, None, 2)
    with pytest.raises(ValueError, match="Give both --process_id and --num_processes"):
        hosts.rank(False, None, 4)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "two")
    with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX='two' is no number of a comple"):
        hosts.rank(True, None, 4)


ALONE = {name: value for name, value in GKE.items() if name != "TPU_CHIPS_PER_HOST_BOUNDS"} | {
    **{"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
}
METADATA = {
    **{"agent-worker-number": "2", "worker-network-endpoints": "u:8:10.0.0.1,v:9:10.0.0.2,w"},
    "tpu-env": "ZONE: 'here'\nCHIPS_PER_HOST_BOUNDS: '2,2,1'",
}


@pytest.mark.parametrize(
    ("environment", "metadata", "expected"),
    [
        (GKE, {}, [1, 2, "1,1,1", "2,4,1"]),
        (GKE | {"JOB_COMPLETION_INDEX": "5"}, {}, [1, 2, "1,1,1", "2,4,1"]),
        (ALONE | {"JOB_COMPLETION_INDEX": "5"}, {}, None),
        ({}, METADATA, [2, 3, "1,1,1", "2,2,1"]),
    ],
    ids=["gke", "indexed", "indexed, each on a host of its own", "vm"],
)
def test_a_host_of_a_tpu_slice_uses_its_own_chips_only(environment, metadata, expected):
    """Else the TPU runtime waits for the other hosts. JAX looks for libtpu when it is imported."""
    code = """
import json, os, sys, jax
from jax._src.clusters import cloud_tpu_cluster
cloud_tpu_cluster.running_in_cloud_tpu_vm = True
metadata = json.loads(sys.argv[1])
if metadata:  # JAX sets it where it finds no libtpu
    os.environ.pop("TPU_SKIP_MDS_QUERY", None)
found = lambda key: (metadata.get(key, ""), 200 if key in metadata else 404)
cloud_tpu_cluster.get_metadata = found
from probejax import hosts
try:
    found = hosts.rank(True, None, json.loads(sys.argv[2]))
except ValueError as error:
    found = [str(error)]
print(json.dumps([*found, os.environ.get("TPU_PROCESS_BOUNDS"),
                  os.environ.get("TPU_CHIPS_PER_PROCESS_BOUNDS")]))
"""

    def ask(completions=None):
        run = subprocess.run(
            [sys.executable, "-c", code, json.dumps(metadata), json.dumps(completions)],
            env=os.environ | environment | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    if expected is not None:
        assert ask() == expected
    if "JOB_COMPLETION_INDEX" in environment:  # the completions, given by hand, go first
        bounds = [None, None] if expected is None else expected[2:]
        assert ask(10) == [5, 10, *bounds]
    if expected is None:  # a pod that is alone in its slice would else run all of the job
        assert "which does not say how many completions" in ask()[0]

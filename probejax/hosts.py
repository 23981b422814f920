"""Which share of a run this process takes, where several processes or hosts run it together.

No process waits for another, and none can take another down: each knows its rank and how many
there are, works on its share with its own devices and writes what it has finished. A share whose
process was lost is made good by starting the same command again, anywhere.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_INDEX = "JOB_COMPLETION_INDEX"


def rank(
    multihost: bool, process_id: int | None = None, num_processes: int | None = None
) -> tuple[int, int]:
    """Returns this process's number and how many there are; call it before JAX sees a device.

    Args:
        multihost: whether to ask the environment: a TPU slice, Slurm, Open MPI, or an indexed job
            of Kubernetes, which tells the number only.
        process_id: the number, where it is given by hand.
        num_processes: how many there are, likewise; of an indexed job of Kubernetes, on TPUs too,
            its completions.

    Raises:
        ValueError: only one of the numbers is given, they do not fit, or no environment is found.
    """
    indexed = multihost and _INDEX in os.environ
    if (process_id is None) != (num_processes is None) and not (indexed and process_id is None):
        raise ValueError("Give both --process_id and --num_processes, or neither.")
    if process_id is not None and num_processes is not None:
        _check(process_id, num_processes)
        return process_id, num_processes
    if not multihost:
        return 0, 1
    found = _cluster()
    on_tpus = found is not None and found.name.endswith("tpu")
    if indexed and (num_processes is not None or found is None or _is_alone(found)):
        # What is given by hand goes first, and each pod on a host of its own is alone in its slice.
        process_id, num_processes = _completion(num_processes)
        if on_tpus and not _is_alone(found):
            _use_own_chips_only()
        return process_id, num_processes
    if found is None:
        raise ValueError(
            "--multihost finds no TPU slice, Slurm, Open MPI or Kubernetes job here; give "
            "--process_id and --num_processes."
        )
    process_id, num_processes = found.get_process_id(), found.get_process_count()
    _check(process_id, num_processes)
    if on_tpus and num_processes > 1:
        _use_own_chips_only()
    return process_id, num_processes


def share(units: Sequence[T], process_index: int, process_count: int) -> list[T]:
    """Returns the units of one process: every `process_count`-th, so that costs balance.

    All processes must pass the same list in the same order, dearest units first.

    Raises:
        ValueError: the index is not one of the processes.
    """
    _check(process_index, process_count)
    return list(units[process_index::process_count])


def _check(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ValueError(f"Process {index} of {count} does not exist; ids run from 0 to count - 1.")


def _completion(completions: int | None) -> tuple[int, int]:
    """Returns which of an indexed job's completions this is; no variable tells their number."""
    if completions is None:
        raise ValueError(
            "This is an indexed job of Kubernetes, which does not say how many completions it "
            "has; give them as --num_processes."
        )
    if not (text := os.environ[_INDEX]).isdecimal():
        raise ValueError(f"{_INDEX}={text!r:.50} is no number of a completion; leave it unset.")
    index = int(text)
    _check(index, completions)
    return index, completions


def _cluster():
    """Returns JAX's description of the cluster that this process is part of, None if of none."""
    from jax._src import clusters  # nothing public tells rank and count without joining

    # JAX asks Kubernetes itself, which takes a package and rights, for pods at a time, not in all.
    kinds = clusters.ClusterEnv._cluster_types
    known = [each for each in kinds if each.__name__ != "K8sCluster"]
    return next((each for each in known if not each.opt_in_only_method and _is_here(each)), None)


def _is_alone(cluster) -> bool:
    return cluster.get_process_count() == 1


def _is_here(cluster) -> bool:
    try:
        return cluster.is_env_present()
    except Exception:  # no metadata server answers: not there
        return False


def _use_own_chips_only() -> None:
    """Tells the TPU runtime that this host is all there is; else it waits for the whole slice."""
    from jax._src.clusters import cloud_tpu_cluster

    # On Kubernetes the environment tells, on a plain TPU VM the metadata server.
    chips = os.environ.get("TPU_CHIPS_PER_HOST_BOUNDS")
    chips = chips or cloud_tpu_cluster.get_tpu_env_value("CHIPS_PER_HOST_BOUNDS") or "2,2,1"
    os.environ.setdefault("TPU_PROCESS_BOUNDS", "1,1,1")
    os.environ.setdefault("TPU_CHIPS_PER_PROCESS_BOUNDS", chips)

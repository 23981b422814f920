"""What one process runs on: its share of the units, its devices and their memory."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from etils import epath

T = TypeVar("T")

# The rest is left to the runtime, to the compiled programs and, on a CPU, to other processes.
_DEVICE_FRACTION = 0.8
_HOST_FRACTION = 0.5
_MAPS, _MOST_MAPS = pathlib.Path("/proc/self/maps"), 20_000
_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


def initialize(
    multihost: bool,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process to the others of the run; call it before anything touches a device.

    On Cloud TPU, Slurm and Kubernetes the three numbers are found by JAX and stay out; elsewhere
    all three are given. Without `multihost` nothing happens.

    Raises:
        ValueError: the numbers are incomplete, out of range, or given without `multihost`.
        RuntimeError: JAX finds no cluster, has started already, or cannot reach the coordinator.
    """
    numbers = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in numbers.items() if value is None]
    if len(missing) < 3 and not multihost:
        raise ValueError("A coordinator, process count or id was given; add --multihost.")
    if not multihost:
        return
    if missing and len(missing) < 3:
        raise ValueError(
            f"Give all of {', '.join(numbers)} or none; missing: {', '.join(missing)}."
        )
    if num_processes is not None and process_id is not None:
        _check_process(process_id, num_processes)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        advice = (
            "run it on a TPU pod, Slurm or Kubernetes, or give the coordinator's address, the "
            "process count and this process's id"
            if missing
            else f"check that {num_processes} processes start within minutes of each other, that "
            f"{coordinator_address} is process 0, and that nothing used JAX before"
        )
        raise RuntimeError(f"Could not join a multi-host run ({error}); {advice}.") from error


def share(units: Sequence[T], process_index: int, process_count: int) -> list[T]:
    """Returns the units of one process: every `process_count`-th, so that costs balance.

    All processes must pass the same list in the same order, dearest units first.

    Raises:
        ValueError: the index is not one of the processes.
    """
    _check_process(process_index, process_count)
    return list(units[process_index::process_count])


def _check_process(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ValueError(f"Process {index} of {count} does not exist; ids run from 0 to count - 1.")


def own() -> list[Any]:
    """Returns the devices that this thread computes on: its default device, else all local ones.

    Never those of other processes: they work on other units, and a collective would hang.
    """
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return [default] if isinstance(default, jax.Device) else jax.local_devices()


def compilation_cache(cache_dir: epath.PathLike) -> epath.Path:
    """Keeps every compiled program in `<cache_dir>/compiled` and returns that folder."""
    folder = epath.Path(cache_dir) / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    # The sweep runs many small programs: JAX's default would only keep those over a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def limit_programs() -> None:
    """Drops compiled programs before there are too many; those still needed are read again.

    Each holds several of the 65,530 memory maps that Linux grants a process, and the compiler kills
    the process where it is refused another one: after a hundred tasks of many sizes.
    """
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


def cores() -> int:
    """Returns how many cores this process may use: $NPROC, which XLA reads too, else all."""
    limit = os.environ.get("NPROC", "")
    return int(limit) if limit.isdigit() and int(limit) else len(os.sched_getaffinity(0))


@contextlib.contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes that start meanwhile, which XLA and LAPACK read then."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def memory_budget() -> int:
    """Returns the bytes that one unit may use on one local device.

    That is 80 % of the device's limit; on a CPU half of the machine's (or container's) memory,
    divided among the local devices.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_DEVICE_FRACTION * stats["bytes_limit"])
    return int(_HOST_FRACTION * _host_memory()) // jax.local_device_count()


def _host_memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical

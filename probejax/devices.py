"""What one process runs on: its devices, their memory and its compiled programs."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

# The rest is left to the runtime, to the compiled programs and, on a CPU, to other processes.
_DEVICE_FRACTION = 0.8
_HOST_FRACTION = 0.5
_MAPS, _MOST_MAPS = pathlib.Path("/proc/self/maps"), 20_000
_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


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


def workers() -> int:
    """Returns how many tasks are best in work: one per core of a CPU, one per GPU or TPU chip."""
    return cores() if jax.default_backend() == "cpu" else jax.local_device_count()


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
    """Returns the bytes that one unit may use.

    That is 80 % of the device's limit; on a CPU half of the machine's (or container's) memory,
    divided among its cores, however many of them are used.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_DEVICE_FRACTION * stats["bytes_limit"])
    return int(_HOST_FRACTION * _host_memory()) // cores()


def _host_memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical

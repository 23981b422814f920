"""What one process runs on: its devices, their memory and its compiled programs."""

import contextlib
import os
import pathlib
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import zstandard
from etils import epath

if sys.platform != "win32":
    import grp
    import pwd

# The rest is left to the runtime, to the compiled programs and, on a CPU, to other processes.
DEVICE_SHARE = 0.8
TASKS = 8
"""In work on one accelerator, at most: a task alone fills a fifth to two thirds of its batches of
lanes; eight fill those of L2 logistic regression to nine tenths, and more have little to add."""
_HOST_FRACTION = 0.5
_MAPS, _MOST_MAPS = pathlib.Path("/proc/self/maps"), 20_000
_AT_HOME = "~/.cache/probejax/compiled"
_LEAST_FREE = 1 << 26  # bytes without which compiled programs are cut short
_FRAME_HEADER = 18  # bytes that the header of a zstd frame may have
_NEVER = 1e9  # seconds that no compilation takes
_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


def default() -> Any:
    """Returns the device that this thread has been given; threads do not inherit it."""
    return jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]


SPREADS_ON_CPU = False  # tests, whose devices are a CPU's, set it, and give each one lane


def own() -> list[Any]:
    """Returns the devices that this thread computes on: its default device, else all local ones.

    Never those of other processes: they work on other units, and a collective would hang. Of a CPU
    that was cut into several devices the first alone: see `engine.each` on LAPACK.
    """
    place = default()
    if isinstance(place, jax.Device):
        return [place]
    every = jax.local_devices()
    return every if every[0].platform != "cpu" or SPREADS_ON_CPU else every[:1]


def apart() -> bool:
    """Says whether this thread computes on a device whose memory is not the host's."""
    return own()[0].platform != "cpu"


def host() -> Any:
    """Returns the host's CPU, which judges in float64 what devices have solved.

    Raises:
      ValueError: JAX may not use it.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise ValueError(
            f"JAX_PLATFORMS={asked} leaves out the host's CPU, which certifies what devices solve: "
            f"give JAX_PLATFORMS={asked},cpu, or leave it unset."
        ) from None


def mesh(count: int) -> jax.sharding.Mesh | None:
    """Returns so many local devices, from this thread's on, for one model; None for a single one.

    Raises:
      ValueError: there are not as many.
    """
    if count == 1:
        return None
    local = jax.local_devices()
    first = local.index(own()[0])
    if first + count > len(local):
        raise ValueError(
            f"--model_parallel={count} cuts the model over as many devices, and this machine has "
            f"{len(local)} ({jax.default_backend()})."
        )
    return jax.sharding.Mesh(np.array(local[first : first + count]), ("model",))


def compilation_cache(cache_dir: epath.PathLike, *, says: bool = True) -> epath.Path | None:
    """Keeps every compiled program in `<cache_dir>/compiled` and returns that folder.

    JAX's own `$JAX_COMPILATION_CACHE_DIR` goes first, which may be a place in a bucket.

    Programs are run, so none is read from where other users may write: the folder in the own home
    takes its place, or none, and a line says so. What cannot be written to is only read.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = epath.Path(given) if given else epath.Path(cache_dir) / "compiled"
    writes = True
    if "://" not in os.fspath(folder):
        chosen, said = _own_folder(pathlib.Path(folder))
        folder = None if chosen is None else epath.Path(chosen)
        if chosen and not (writes := os.access(chosen, os.W_OK)):
            said = ""  # what is in it is used
        elif chosen and shutil.disk_usage(chosen).free < _LEAST_FREE:
            writes, said = False, f"{chosen} has no room left, so new programs are not kept"
        if said and says:
            sys.stderr.write(f"{said}; choose another folder with --cache_dir\n")
    jax.config.update("jax_compilation_cache_dir", folder and os.fspath(folder))
    # The sweep runs many small programs: JAX's default would only keep those over a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if writes else _NEVER)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _own_folder(wanted: pathlib.Path) -> tuple[pathlib.Path | None, str]:
    """Returns a folder that nobody else may write to, and what is wrong with the one wanted."""
    said = ""
    for folder in (wanted, pathlib.Path(os.path.expanduser(_AT_HOME))):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            fault = _others_write(folder)
        except OSError as error:
            fault = f"cannot be used ({error.strerror})"
        if not fault:
            return folder, said and f"{said} kept in {folder}"
        said = said or f"{folder} {fault}, so compiled programs are"
    return None, f"{said} not kept"


def _others_write(folder: pathlib.Path) -> str:
    """Says how other users could put a program into a folder; removes what a full disk cut short.

    A folder above it may be open to all if nobody may rename what is not theirs, like /tmp.
    """
    above = folder.parent.stat()
    if _is_open(above) and not (above.st_mode & stat.S_ISVTX and above.st_uid in _trusted()):
        return f"lies in {folder.parent}, where other users may write"
    if _is_open(folder.stat()):
        return "may be written to by other users"
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_open(found := entry.stat()):
                return f"holds {entry.name}, which another user may have written"
            if entry.name.endswith("-cache") and not _is_whole(entry.path, found.st_size):
                with contextlib.suppress(OSError):  # a read-only cache
                    os.unlink(entry)
    return ""


def _is_whole(path: str, size: int) -> bool:
    """Says whether a compiled program, one frame of zstd, ends where its last block does.

    JAX never writes an entry again, so that one cut short would cost a compilation in each run.
    """
    with open(path, "rb") as file:
        head = file.read(_FRAME_HEADER)
        if head[:4] != zstandard.FRAME_HEADER:
            return size > 0  # compressed in another way
        try:
            file.seek(zstandard.frame_header_size(head))
        except zstandard.ZstdError:
            return False
        last = False
        while not last:
            if len(block := file.read(3)) < 3:
                return False
            number = int.from_bytes(block, "little")
            last, repeats, length = number & 1, number >> 1 & 3 == 1, number >> 3
            file.seek(1 if repeats else length, os.SEEK_CUR)
        return file.tell() <= size


def _is_open(found: os.stat_result) -> bool:
    """Says whether others than this user and root may write to a file or folder."""
    if sys.platform == "win32":
        return False
    group = found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid)
    return bool(found.st_uid not in _trusted() or found.st_mode & stat.S_IWOTH or group)


def _trusted() -> tuple[int, int]:
    return (0, os.getuid())


def _is_private(gid: int) -> bool:
    """Says whether a group is one user's own, as many systems give to each."""
    try:
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


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
    if limit.isdigit() and int(limit):
        return int(limit)
    there = hasattr(os, "sched_getaffinity")  # on Linux alone
    return len(os.sched_getaffinity(0)) if there else os.cpu_count() or 1


def workers(model_parallel: int = 1) -> int:
    """Returns how many tasks are best in work: one per core of a CPU, `TASKS` per GPU or TPU chip.

    Args:
      model_parallel: devices that hold one language model together.
    """
    if jax.default_backend() == "cpu":
        return cores()
    return TASKS * max(1, jax.local_device_count() // model_parallel)


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


def memory_room() -> int:
    """Returns the bytes that all units in work may use together.

    That is 80 % of a device's limit; on a CPU half of the machine's (or container's) memory.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(DEVICE_SHARE * stats["bytes_limit"])
    return host_room()


def host_room() -> int:
    """Returns the bytes of the host's memory that all units in work may use together."""
    return int(_HOST_FRACTION * host_memory())


def host_memory() -> int:
    """Returns the bytes of memory that the machine has, or its container may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical

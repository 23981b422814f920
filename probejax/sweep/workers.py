"""Runs units: in this process, or on a CPU in one process per core.

XLA gives its second core little to do in programs full of small steps, and LAPACK none, so two
processes of one thread each do twice the work of one process with two. The parent harvests
activations, task by task; workers take tasks whose activations are there.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from typing import Any

from etils import epath

from probejax import devices, storage
from probejax.sweep.config import Config
from probejax.sweep.job import Sweep
from probejax.sweep.units import Unit


def run_units(
    job: Sweep,
    units: Sequence[Unit],
    out: str,
    *,
    workers: int = 1,
    save_probes: bool = False,
    compiled: epath.PathLike | None = None,
) -> Iterator[Unit]:
    """Runs units, writes each when it is finished, and yields it.

    Args:
      job: the run they belong to.
      units: what to run; those of one task stand together.
      out: folder of the results.
      workers: processes that fit; 1 is this one.
      save_probes: whether the final probes are written too, to `probes/<unit>.safetensors`.
      compiled: where worker processes keep compiled programs.

    Raises:
      ValueError, OSError: what stopped a unit; those before it are written.
      RuntimeError: a worker died.
    """
    groups = list(_by_task(units).values())
    if workers > 1:
        yield from _in_processes(job, groups, out, workers, save_probes, compiled)
        return
    for unit in units:
        _run(job, unit, out, save_probes)
        yield unit


def _by_task(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.task, []).append(unit)
    return groups


def _run(job: Sweep, unit: Unit, out: str, save_probes: bool) -> None:
    result = job.run(unit)
    if save_probes:
        job.save(unit, result, epath.Path(out) / "probes" / f"{unit.name}.safetensors")
    storage.Store(out).put(unit.name, result.payload, result.timing)


def _in_processes(
    job: Sweep, groups: list[list[Unit]], out, workers, save_probes, compiled
) -> Iterator[Unit]:
    context = multiprocessing.get_context("spawn")
    work, done = context.SimpleQueue(), context.SimpleQueue()
    options = (job.config, job.cache_dir, job.memory_gb, out, save_probes, compiled)
    with _one_thread_each(workers):
        processes = [
            context.Process(target=_work, args=(work, done, options), daemon=True)
            for _ in range(workers)
        ]
        for process in processes:
            process.start()
    try:
        failure: list[Exception] = []
        harvester = threading.Thread(
            target=_prepare, args=(job, groups, work, workers, failure), daemon=True
        )
        harvester.start()
        for _ in range(sum(map(len, groups))):
            message = _next(done, processes, failure)
            if isinstance(message, Exception):
                raise message
            yield message
    finally:
        for process in processes:
            process.terminate()


def _prepare(job: Sweep, groups, work, workers: int, failure: list[Exception]) -> None:
    """Hands out tasks whose activations are there, then the sign to stop."""
    try:
        for group in groups:
            job.prepare(group[0].task)
            work.put(group)
    except Exception as error:  # raised again by the process that waits
        failure.append(error)
    for _ in range(workers):
        work.put(None)


def _next(done, processes, failure: list[Exception]) -> Any:
    """Waits for a finished unit; a worker that is gone, or a failed harvest, is an error."""
    while True:
        if not done.empty():
            return done.get()
        if failure:
            return failure[0]
        for process in processes:
            if process.exitcode not in (None, 0):
                return RuntimeError(
                    f"A worker process died with exit code {process.exitcode}; if memory ran out, "
                    "give a smaller --memory_gb or --workers=1. The same command goes on."
                )
        connection.wait([done._reader], timeout=1)


@contextlib.contextmanager
def _one_thread_each(workers: int) -> Iterator[None]:
    """Sets the environment of worker processes, which XLA and LAPACK read when they start."""
    threads = str(max(1, devices.cores() // workers))
    wanted = {"NPROC": threads, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": threads}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(work, done, options: tuple[Config, Any, float | None, str, bool, Any]) -> None:
    """Takes tasks until there are none."""
    config, cache_dir, memory_gb, out, save_probes, compiled = options
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if compiled is not None:
            devices.compilation_cache(compiled)
        job = Sweep(config, cache_dir, memory_gb)
        while (group := work.get()) is not None:
            for unit in group:
                _run(job, unit, out, save_probes)
                done.put(unit)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        done.put(error)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)

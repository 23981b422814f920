"""Runs units where they run best: on a CPU in processes, else in one thread per device.

Several GPUs or TPU chips of a host work on a task each, harvest included. A unit never spreads over
devices, so that its numbers do not depend on how many there are.
"""

import queue
import threading
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from probejax import storage
from probejax.sweep import processes
from probejax.sweep.execute import Execution
from probejax.sweep.token_disk import TokenDisk
from probejax.sweep.units import Unit


def run_units(
    job: Execution,
    units: Sequence[Unit],
    out: str,
    *,
    workers: int = 0,
    save_probes: bool = False,
    keep_tokens: bool = False,
    compiled: epath.PathLike | None = None,
) -> Iterator[Unit]:
    """Runs units, writes each when it is finished, and returns an iterator over them that does it.

    Args:
      job: of the run that they belong to.
      units: what to run; those of one task stand together.
      out: folder of the results.
      workers: processes that fit, or threads with a device each where there is an accelerator; 0
        is this process, with all its threads.
      save_probes: whether the final probes are written too, to
        `probes/<task>__<source>__<method>.safetensors`.
      keep_tokens: whether all-token activations that the run has harvested stay in the cache when
        the units of their task are written.
      compiled: where worker processes keep compiled programs.

    Raises:
      ValueError, OSError: what stopped a unit; those before it are written.
      RuntimeError: a worker died.
    """
    groups = by_task(units)
    disk = TokenDisk(job, out, keep_tokens)
    disk.release_finished(storage.Store(out).done())
    workers = min(workers, len(groups))
    if workers and jax.default_backend() == "cpu":
        plan = job.plan
        settings = (plan.config, plan.cache_dir, job.memory_gb, out, save_probes, compiled)
        return processes.run(processes.Work(*settings), groups, workers, disk)
    if workers > 1:
        return _on_devices(
            job, groups, out, _places(workers, job.model_parallel), save_probes, keep_tokens
        )
    return _here(job, groups, out, save_probes, disk)


def by_task(units: Sequence[Unit]) -> list[list[Unit]]:
    """Returns the units of each task."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.task, []).append(unit)
    return list(groups.values())


def _here(job: Execution, groups, out: str, save_probes: bool, disk: TokenDisk) -> Iterator[Unit]:
    for group in groups:
        disk.prepare(group[0].task)
        for unit in job.write_all(group, out, save_probes):
            if unit is group[-1]:
                disk.release(unit.task)
            yield unit


def _places(workers: int, model_parallel: int) -> list:
    """Returns the device of each worker, the first of those that hold its model."""
    return jax.local_devices()[::model_parallel][:workers]


def _on_devices(
    job: Execution, groups, out: str, places, save_probes: bool, keep_tokens: bool
) -> Iterator[Unit]:
    """Runs tasks in a thread per device, each with weights, activations and SAEs of its own."""
    work: queue.SimpleQueue[list[Unit]] = queue.SimpleQueue()
    done: queue.SimpleQueue[Unit | Exception] = queue.SimpleQueue()
    for group in groups:
        work.put(group)

    def serve(place) -> None:
        try:
            with jax.default_device(place):
                own = Execution(job.plan, job.memory_gb, job.model_parallel)
                disk = TokenDisk(own, out, keep_tokens)
                while True:
                    for unit in _here(own, [work.get_nowait()], out, save_probes, disk):
                        done.put(unit)
        except queue.Empty:
            pass
        except Exception as error:  # raised again by the thread that waits
            done.put(error)

    for place in places:
        threading.Thread(target=serve, args=(place,), daemon=True).start()
    for _ in range(sum(map(len, groups))):
        message = done.get()
        if isinstance(message, Exception):
            raise message
        yield message

"""Runs units where they run best: on a CPU in processes, else in threads that share the devices.

On GPUs or TPU chips several tasks are in work, each in a thread with a device of its own, where it
is harvested and its latents are ranked. When it has lanes to fit it waits for the other tasks, and
their lanes go over all devices together, in one program (`solvers.meeting`).
"""

import contextlib
import queue
from collections.abc import Generator, Iterator, Sequence

import jax
from etils import epath

from probejax import storage
from probejax.solvers import meeting
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
) -> Generator[Unit, None, None]:
    """Runs units, writes each when it is finished, and returns an iterator over them that does it.

    Args:
      job: of the run that they belong to.
      units: what to run; those of one task stand together.
      out: folder of the results.
      workers: processes that fit, or tasks that are fitted together where there is an accelerator;
        0 is one task at a time in this process, with all its threads.
      save_probes: whether the final probes are written too, to
        `probes/<task>__<source>__<method>.safetensors`.
      keep_tokens: whether all-token activations that the run has harvested stay in the cache when
        the units of their task are written.
      compiled: where worker processes keep compiled programs.

    Raises:
      ValueError: there are fewer than 0 workers.
      ValueError, OSError: what stopped a unit; those before it are written.
      RuntimeError: a worker died.
    """
    if workers < 0:
        raise ValueError(f"workers={workers} cannot run units; give 0 for this process, or more.")
    groups = by_task(units)
    disk = TokenDisk(job, out, keep_tokens)
    disk.release_finished(storage.Store(out).done())
    workers = min(workers, len(groups))
    if workers and jax.default_backend() == "cpu":
        plan = job.plan
        settings = (plan.config, plan.cache_dir, job.memory_gb, out, save_probes, compiled)
        return processes.run(processes.Work(*settings), groups, workers, disk)
    if workers > 1:
        return _side_by_side(job, groups, out, workers, save_probes, keep_tokens)
    return _here(job, groups, out, save_probes, disk)


def by_task(units: Sequence[Unit]) -> list[list[Unit]]:
    """Returns the units of each task."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.task, []).append(unit)
    return list(groups.values())


def _here(
    job: Execution, groups, out: str, save_probes: bool, disk: TokenDisk
) -> Generator[Unit, None, None]:
    for group in groups:
        disk.prepare(group[0].task)
        for unit in job.write_all(group, out, save_probes):
            if unit is group[-1]:
                disk.release(unit.task)
            yield unit


def _side_by_side(
    job: Execution,
    groups: list[list[Unit]],
    out: str,
    count: int,
    save_probes: bool,
    keep_tokens: bool,
    at_once: int | None = None,
) -> Generator[Unit, None, None]:
    """Runs so many tasks at a time; those on one device share its weights and SAEs."""
    cut, every = job.model_parallel, jax.local_devices()
    places = every[: len(every) // cut * cut : cut]  # a rest that holds no model is idle
    owners = {place: Execution(job.plan, job.memory_gb, job.model_parallel) for place in places}
    todo: queue.SimpleQueue[list[Unit]] = queue.SimpleQueue()
    for group in groups:
        todo.put(group)

    def work(place) -> Iterator[Unit]:
        own = owners[place].beside()
        disk = TokenDisk(own, out, keep_tokens)
        with contextlib.suppress(queue.Empty):
            while True:
                yield from _here(own, [todo.get_nowait()], out, save_probes, disk)

    return meeting.together([work] * count, places, at_once)

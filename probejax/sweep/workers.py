"""Runs units: on a CPU in processes of one thread each, else in one thread per device.

XLA gives its second core little to do in programs full of small steps, and LAPACK none, so two
processes of one thread each do twice the work of one process with two. One worker has one thread
too, and a process of its own: decompositions differ in their last digits with the number of
threads, and no number may depend on how many workers there are or on how few tasks are left. The
parent harvests activations, task by task; workers take tasks whose activations are there. Where
these are all tokens, the parent is at most as many tasks ahead as there are workers, and deletes
what is done.

Several GPUs or TPU chips of a host work on a task each, harvest included. A unit never spreads over
devices, so that its numbers do not depend on how many there are.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection, resource_tracker
from typing import Any

import jax
from etils import epath

from probejax import devices, probes, storage
from probejax.sweep.config import Config
from probejax.sweep.execute import Execution
from probejax.sweep.plan import resolve
from probejax.sweep.token_disk import TokenDisk, tasks_at_once
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
      ValueError: the probes of a method cannot be saved; raised at once.
      ValueError, OSError: what stopped a unit; those before it are written.
      RuntimeError: a worker died.
    """
    if save_probes:
        _check_saving(job.plan.methods)
    groups = list(_by_task(units).values())
    disk = TokenDisk(job, out, keep_tokens)
    disk.release_finished(storage.Store(out).done())
    if workers and jax.default_backend() == "cpu":
        workers = min(workers, len(groups))
        return _in_processes(job, groups, out, workers, save_probes, compiled, disk)
    if workers > 1 and len(groups) > 1:
        places = jax.local_devices()[: min(workers, len(groups))]
        return _on_devices(job, groups, out, places, save_probes, keep_tokens)
    return _here(job, groups, out, save_probes, disk)


def _check_saving(methods: Sequence[str]) -> None:
    if pooled := [name for name in methods if probes.parse(name).reads_tokens]:
        raise ValueError(
            f"--save_probes writes probes of the last token only, and {', '.join(pooled)} read all "
            "tokens; run them without --save_probes, or leave them out of --methods."
        )


def _here(job: Execution, groups, out: str, save_probes: bool, disk: TokenDisk) -> Iterator[Unit]:
    for group in groups:
        disk.prepare(group[0].task)
        for unit in group:
            _run(job, unit, out, save_probes)
            if unit is group[-1]:
                job.forget()
                disk.release(unit.task)
            yield unit


def _by_task(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.task, []).append(unit)
    return groups


def _run(job: Execution, unit: Unit, out: str, save_probes: bool) -> None:
    result = job.run(unit)
    if save_probes:
        job.save(unit, result, epath.Path(out) / "probes" / f"{unit.label}.safetensors")
    storage.Store(out).put(unit.name, result.payload, result.timing)
    devices.limit_programs()


def _in_processes(
    job: Execution, groups: list[list[Unit]], out, workers, save_probes, compiled, disk: TokenDisk
) -> Iterator[Unit]:
    context = multiprocessing.get_context("spawn")
    work, done = context.SimpleQueue(), context.SimpleQueue()
    plan = job.plan
    options = (plan.config, plan.cache_dir, job.memory_gb, out, save_probes, compiled)
    processes = [
        context.Process(target=_work, args=(work, done, options), daemon=True)
        for _ in range(workers)
    ]
    try:
        with devices.environment(_ONE_THREAD), _deaf_to_interrupts():
            for process in processes:
                process.start()
        failure: list[Exception] = []
        ended: set[int] = set()
        room = threading.Semaphore(tasks_at_once(workers) if plan.reads_tokens else len(groups))
        names = [group[0].task for group in groups]
        left = dict(zip(names, map(len, groups), strict=True))
        harvester = threading.Thread(
            target=_prepare, args=(disk, groups, work, workers, room, failure), daemon=True
        )
        harvester.start()
        for _ in range(sum(map(len, groups))):
            message = _next(done, processes, ended, failure)
            left[message.task] -= 1
            if not left[message.task]:
                disk.release(message.task)
                room.release()
            yield message
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()


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
                own = Execution(job.plan, job.memory_gb)
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


def _prepare(
    disk: TokenDisk, groups, work, workers: int, room: threading.Semaphore, failure: list[Exception]
) -> None:
    """Hands out tasks whose activations are there, as long as there is room, then a stop."""
    try:
        for i, group in enumerate(groups):
            # Workers begin with different units: what one compiles, others find in the cache.
            turn = i % workers * len(group) // workers
            room.acquire()
            disk.prepare(group[0].task)
            work.put(group[turn:] + group[:turn])
    except Exception as error:  # raised again by the process that waits
        failure.append(error)
    for _ in range(workers):
        work.put(None)


def _next(done, processes, ended: set[int], failure: list[Exception]) -> Unit:
    """Waits for a finished unit; `ended` are the workers that have said that they run out of work.

    Raises:
      RuntimeError: a worker is gone, however it went.
      Exception: what stopped a worker or the harvest.
    """
    while True:
        # Looked at before the queue: what a worker said before it ended is there by then.
        gone = [each for each in processes if each.exitcode is not None and each.pid not in ended]
        if not done.empty():
            message = done.get()
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Unit):
                return message
            ended.add(message)
            continue
        if failure:
            raise failure[0]
        if gone:
            raise RuntimeError(
                f"A worker process ended with exit code {gone[0].exitcode} before its work was "
                "done; if memory ran out, give a smaller --memory_gb or --workers=1. The same "
                "command goes on."
            )
        connection.wait([done._reader], timeout=1)


_ONE_THREAD = {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Lets processes that start meanwhile be deaf to Ctrl-C, which reaches all: this one ends them.

    They inherit what is blocked; here it arrives as soon as nothing is blocked any more.
    """
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work, done, options: tuple[Config, Any, float | None, str, bool, Any]) -> None:
    """Takes tasks until there are none."""
    config, cache_dir, memory_gb, out, save_probes, compiled = options
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if compiled is not None:
            devices.compilation_cache(compiled)
        job = Execution(resolve(config, cache_dir), memory_gb)
        while (group := work.get()) is not None:
            for unit in group:
                _run(job, unit, out, save_probes)
                if unit is group[-1]:
                    job.forget()  # before the parent deletes its files
                done.put(unit)
        done.put(os.getpid())
    except Exception as error:
        done.put(_portable(error))


def _portable(error: Exception) -> Exception:
    """Returns an error that survives the way to another process; not every library's does."""
    try:
        copied = pickle.loads(pickle.dumps(error))
    except Exception:
        copied = None
    if type(copied) is type(error) and str(copied) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)

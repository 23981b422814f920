"""Units in worker processes of one thread each, on a CPU.

XLA gives its second core little to do in programs full of small steps, and LAPACK none, so two
processes of one thread each do twice the work of one process with two. One worker has one thread
too, and a process of its own: decompositions differ in their last digits with the number of
threads, and no number may depend on how many workers there are or on how few tasks are left. The
parent harvests activations, task by task; workers take tasks whose activations are there. Where
these are all tokens, the parent is at most as many tasks ahead as there are workers, and deletes
what is done.

A worker is a program of its own, never a copy of the script that calls: notebooks and scripts
without a main guard work. A pipe joins it to the parent. Tasks go one way and finished units the
other, and when either side is gone, the other side's end of the pipe says so.
"""

import collections
import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from probejax import devices
from probejax.sweep.config import Config
from probejax.sweep.execute import Execution
from probejax.sweep.plan import resolve
from probejax.sweep.token_disk import TokenDisk, tasks_at_once
from probejax.sweep.units import Unit

_ALONE = {
    **{"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    **{"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
}
_PROGRAM = "import sys; sys.path[:] = {path!r}; from probejax.sweep import processes; "
_PROGRAM += "processes.work({end})"


class Work(NamedTuple):
    """What every worker does with the units it is given.

    Attributes:
      config: the run.
      cache_dir: where downloads and activations live.
      memory_gb: what a unit may take; None is no limit.
      out: folder of the results.
      save_probes: whether the final probes are written, too.
      compiled: where compiled programs are kept.
    """

    config: Config
    cache_dir: str | Path | None
    memory_gb: float | None
    out: str
    save_probes: bool
    compiled: epath.PathLike | None


class _Worker(NamedTuple):
    process: subprocess.Popen
    pipe: connection.Connection


def run(
    work: Work, groups: Sequence[Sequence[Unit]], count: int, disk: TokenDisk
) -> Generator[Unit, None, None]:
    """Runs units in so many processes and yields each when it is written.

    Args:
      work: what they do with them.
      groups: the units of one task in each.
      count: of processes.
      disk: harvests their activations, in this process.

    Raises:
      RuntimeError: a worker is gone, however it went.
      Exception: what stopped a worker or the harvest.
    """
    with started(work, count) as workers:
        yield from serve(workers, groups, disk)


@contextlib.contextmanager
def started(work: Work, count: int) -> Iterator[list[_Worker]]:
    """Starts so many workers, and ends them afterwards."""
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_start())
            _send(workers[-1], work)
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.wait()
            worker.pipe.close()


def serve(
    workers: Sequence[_Worker], groups: Sequence[Sequence[Unit]], disk: TokenDisk
) -> Iterator[Unit]:
    """Runs units in workers, which then are free again, and yields each when it is written.

    Args:
      workers: as they are started, or have served before without an error.
      groups: the units of one task in each.
      disk: harvests their activations, in this process.

    Raises:
      RuntimeError, Exception: as for `run`.
    """
    failure: list[BaseException] = []
    ended = threading.Event()
    harvested, says = connection.Pipe(duplex=False)
    count = len(workers)
    room = threading.Semaphore(tasks_at_once(count) if disk.plan.reads_tokens else len(groups))
    arguments = (disk, [group[0].task for group in groups], says, room, failure, ended)
    threading.Thread(target=_harvest, args=arguments, daemon=True).start()
    ready, idle = collections.deque[int](), list(workers)
    left = {group[0].task: len(group) for group in groups}
    try:
        while any(left.values()):
            while ready and idle:
                number = ready.popleft()
                _send(idle.pop(0), in_turn(groups[number], number % count, count))
            speak = connection.wait([harvested, *(worker.pipe for worker in workers)])
            if harvested in speak:
                ready.append(_number(harvested, failure))
            for worker in (worker for worker in workers if worker.pipe in speak):
                unit = receive(worker)
                left[unit.task] -= 1
                if not left[unit.task]:
                    idle.append(worker)
                    disk.release(unit.task)
                    room.release()
                yield unit
    finally:  # whatever ended it, nobody waits for more activations
        ended.set()
        room.release()


def in_turn(group: Sequence[Unit], turn: int, turns: int) -> list[Unit]:
    """Returns a task's units so that workers begin with different ones.

    What one compiles, others find in the cache.
    """
    first = turn * len(group) // turns
    return [*group[first:], *group[:first]]


def _start() -> _Worker:
    ours, theirs = socket.socketpair()
    path = [each for each in sys.path if isinstance(each, str)]  # Python imports from no other
    program = _PROGRAM.format(path=path, end=theirs.fileno())
    with _deaf_to_interrupts(), theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | _ALONE,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    return _Worker(process, connection.Connection(ours.detach()))


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Lets processes that start meanwhile be deaf to Ctrl-C, which reaches all: this one ends them.

    They inherit what is blocked; here it arrives as soon as nothing is blocked any more.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(worker: _Worker, message: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # told by `receive`
        worker.pipe.send(message)


def receive(worker: _Worker) -> Unit:
    """Returns what a worker has finished.

    Raises:
      RuntimeError: it is gone, however it went.
      Exception: what stopped it.
    """
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError(
            f"A worker process ended with exit code {worker.process.wait()} before its work was "
            "done; if memory ran out, give a smaller --memory_gb or --workers=1. The same "
            "command goes on."
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _harvest(
    disk: TokenDisk,
    names: list[str],
    says: connection.Connection,
    room: threading.Semaphore,
    failure: list[BaseException],
    ended: threading.Event,
) -> None:
    """Says the numbers of tasks whose activations are there, as long as there is room."""
    try:
        for number, name in enumerate(names):
            room.acquire()
            if ended.is_set():
                return
            disk.prepare(name)
            says.send(number)
    except BaseException as error:  # raised again by the thread that waits
        failure.append(error)
        says.close()


def _number(harvested: connection.Connection, failure: list[BaseException]) -> int:
    try:
        return harvested.recv()
    except EOFError:
        raise failure[0] from None


def work(end: int) -> None:
    """Runs in a worker: does what comes through the pipe, until the parent hangs up.

    Args:
      end: file descriptor of this end of the pipe.
    """
    pipe = connection.Connection(end)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    try:
        told: Work = inbox.get()
        if told.compiled is not None:
            devices.compilation_cache(told.compiled, says=False)
        job = Execution(resolve(told.config, told.cache_dir), told.memory_gb)
        while True:
            for unit in job.write_all(inbox.get(), told.out, told.save_probes):
                pipe.send(unit)
    except Exception as error:
        pipe.send(portable(error))


def _listen(pipe: connection.Connection, inbox: queue.SimpleQueue) -> None:
    """Takes what the parent sends; ends this process when the parent is gone, however it went."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(pipe.recv())
    os._exit(1)


def portable(error: Exception) -> Exception:
    """Returns an error that survives the way to another process; not every library's does."""
    try:
        copied = pickle.loads(pickle.dumps(error))
    except Exception:
        copied = None
    if type(copied) is type(error) and str(copied) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")

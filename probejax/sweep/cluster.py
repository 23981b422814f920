"""Units on a Ray cluster: one actor per host, or per GPU or TPU chip, that takes block after block.

Ray decides where everything runs. As many actors are asked for as there are blocks; those without
a place wait, and get one on a node that joins. An actor says that it has a place by finishing an
empty block; then it is given tasks. It keeps the model and all it has loaded, and runs a block as a
single machine would. When its node dies, Ray starts it elsewhere and repeats its block, of which
only the units that are not written are run. An actor without work is ended: its place goes to one
that waits. Ray moves the names of units only; results go from the host to `out`.
"""

import collections
import contextlib
import functools
import logging
import os
import shutil
import socket
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from probejax import artifacts, devices, storage
from probejax.sweep import memory, processes, token_disk
from probejax.sweep.config import Config
from probejax.sweep.execute import Execution
from probejax.sweep.plan import resolve
from probejax.sweep.processes import portable
from probejax.sweep.token_disk import TokenDisk
from probejax.sweep.units import Unit
from probejax.sweep.workers import run_units

_RETRIES = 3  # of one block whose host dies; more, and the block is at fault
_PATIENCE = 10  # seconds for a cluster to answer
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}

Block = list[list[Unit]]  # the units of each of its tasks


class Work(NamedTuple):
    """What every host does with the units it is given.

    Attributes:
      config: the run.
      out: folder of the results, which all hosts see, or a bucket.
      cache_dir: where each host keeps downloads, activations and compiled programs.
      workers: tasks at a time on a host without accelerator; None is one per core.
      memory_gb: memory for one process; None is what the host can give.
      disk_gb: what all-token activations may take on a host; None is no limit.
      save_probes: whether the final probes are written, too.
      keep_tokens: whether all-token activations stay when they have served.
      folder: what relative paths start from, where a host has it.
    """

    config: Config
    out: str
    cache_dir: str | Path | None = None
    workers: int | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None
    save_probes: bool = False
    keep_tokens: bool = False
    folder: str = "."


def run(
    work: Work, groups: Sequence[Sequence[Unit]], address: str | None
) -> Generator[Unit, None, None]:
    """Runs units on a cluster and yields those of a block when its host has written them.

    A task that cannot be run does not keep the others from running; its error comes at the end.

    Args:
      work: what the hosts do with them.
      groups: the units of one task in each.
      address: of a Ray cluster, or `auto`; None starts one on this machine.

    Raises:
      ValueError: no cluster answers, or it has no node that computes.
      RuntimeError: a node has no probejax, or several hosts died over one block.
      Exception: what stopped a task.
    """
    if not groups:
        return
    with _connection(address) as ray:
        needs, cores = _place(ray.nodes())
        size = work.workers or cores or devices.TASKS
        blocks = collections.deque(
            [list(map(list, groups[at : at + size])) for at in range(0, len(groups), size)]
        )
        kind = ray.remote(Host).options(max_restarts=-1, max_task_retries=_RETRIES, **needs)
        calls: dict[Any, tuple[Any, Block]] = {}
        for _ in range(len(blocks)):
            host = kind.remote(work, cores)
            calls[host.run.remote([])] = (host, [])
        written: set[str] = set()
        failures: list[Exception] = []
        while calls:
            (call,), _ = ray.wait(list(calls), num_returns=1)
            host, block = calls.pop(call)
            units, error = _reply(ray, call, block)
            for unit in (unit for unit in units if unit.name not in written):
                written.add(unit.name)
                yield unit
            if error is not None and len(block) > 1:
                blocks.extend([group] for group in block)  # finds the one that fails
            elif error is not None:
                failures.append(error)
            if blocks:
                block = blocks.popleft()
                calls[host.run.remote(block)] = (host, block)
                continue
            idle = [host, *(host for host, block in calls.values() if not block)]
            calls = {call: given for call, given in calls.items() if given[1]}
            for host in idle:
                ray.kill(host)
        if failures:
            raise failures[0]


class Host:
    """Runs blocks in a process of Ray's; what it has loaded stays for the next."""

    def __init__(self, work: Work, cores: int):
        """Loads nothing yet.

        Args:
          work: what is done with the units.
          cores: how many this process and its workers may use; 0 is as many as there are.
        """
        self.work = work
        self.open = contextlib.ExitStack()  # worker processes
        if cores:
            os.environ["NPROC"] = str(cores)
        if os.path.isdir(work.folder):
            os.chdir(work.folder)

    def run(self, block: Block) -> tuple[list[Unit], Exception | None]:
        """Runs what is not written of a block; returns what is, and what stopped it."""
        if not block:
            return [], None
        finished: list[Unit] = []
        error = None
        try:
            done = self._written(block)
            finished += [unit for group in block for unit in group if unit.name in done]
            left = [[unit for unit in group if unit.name not in done] for group in block]
            for unit in self._units([group for group in left if group]):
                finished.append(unit)
        except Exception as found:
            error = portable(found)
            self.open.close()
            vars(self).pop("_workers", None)  # they may be in the middle of something
        return finished, error

    def _written(self, block: Block) -> set[str]:
        """Returns the names of the units that are finished, probes and all if they are wanted."""
        done = storage.Store(self.work.out).done()
        if not self.work.save_probes:
            return done
        units = [unit for group in block for unit in group]
        return done - self._job.plan.without_probes(self.work.out, units)

    def _units(self, groups: Block) -> Iterator[Unit]:
        """Runs units as one machine would."""
        work, job = self.work, self._job
        if groups and job.plan.reads_tokens:
            self._check_disk([group[0].task for group in groups])
        if jax.default_backend() == "cpu":
            disk = TokenDisk(job, work.out, work.keep_tokens)
            return processes.serve(self._workers, groups, disk)
        units = [unit for group in groups for unit in group]
        return run_units(
            job,
            units,
            work.out,
            workers=work.workers or devices.TASKS,
            save_probes=work.save_probes,
            keep_tokens=work.keep_tokens,
        )

    def _check_disk(self, tasks: list[str]) -> None:
        """Raises ValueError where this host's disk cannot hold the tokens, or may not."""
        work, root = self.work, artifacts.cache_dir(self.work.cache_dir)
        root.mkdir(parents=True, exist_ok=True)
        limits = {"keep": work.keep_tokens, "allowed_gb": work.disk_gb}
        free = shutil.disk_usage(root).free
        found = token_disk.plans(self._job.plan, tasks)
        token_disk.forecast(found, workers=len(tasks), free=free, **limits)

    @functools.cached_property
    def _job(self) -> Execution:
        """The run as this host has it: model and SAEs are loaded once."""
        work = self.work
        devices.compilation_cache(artifacts.cache_dir(work.cache_dir))
        plan = resolve(work.config, work.cache_dir)
        _, usual = memory.at_once(plan, work.workers)
        return Execution(plan, usual if work.memory_gb is None else work.memory_gb)

    @functools.cached_property
    def _workers(self):
        """The processes that fit on a CPU, see `processes`."""
        work, job = self.work, self._job
        root = artifacts.cache_dir(work.cache_dir)
        told = (work.config, work.cache_dir, job.memory_gb, work.out, work.save_probes, root)
        count, _ = memory.at_once(job.plan, work.workers)
        return self.open.enter_context(processes.started(processes.Work(*told), count))


@contextlib.contextmanager
def _connection(address: str | None) -> Iterator[Any]:
    """Gives Ray, joined to a cluster; leaves it afterwards, and ends one that it has started.

    Without Ray's reports to its makers, its dashboard, and the output of its processes. A caller
    who has joined a cluster before stays in it.
    """
    with devices.environment(_QUIET):
        import ray

        if ray.is_initialized():
            yield ray
            return
        own = {"num_cpus": devices.cores(), "include_dashboard": False} if address is None else {}
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is not None and address.count(":") == 1:  # Ray itself tries for minutes
                host, _, port = address.partition(":")
                socket.create_connection((host, int(port)), _PATIENCE).close()
            ray.init(address or "local", **quiet, **own)
        except (OSError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            said = f"--ray_address={address}: no cluster answers there ({why})."
            raise ValueError(said) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _place(nodes: Sequence[dict]) -> tuple[dict[str, Any], int]:
    """Returns what an actor needs of a node, and of how many cores it makes use (0: of any).

    That is a TPU chip or a GPU where the cluster has them. Else it is a whole host: as many cores
    as the smallest has.
    """
    sizes = [node["Resources"] for node in nodes if node["Alive"]]
    if any(size.get("TPU", 0) >= 1 for size in sizes):
        return {"resources": {"TPU": 1}}, 0
    if any(size.get("GPU", 0) >= 1 for size in sizes):
        return {"num_gpus": 1}, 0
    cores = [int(size.get("CPU", 0)) for size in sizes if size.get("CPU", 0) >= 1]
    if not cores:
        raise ValueError("The Ray cluster has no node with a CPU, a GPU or a TPU.")
    return {"num_cpus": min(cores)}, min(cores)


def _reply(ray, call, block: Block) -> tuple[list[Unit], Exception | None]:
    """Returns what a host says of its block.

    Raises:
      RuntimeError: it cannot begin, which others could not either.
    """
    try:
        return ray.get(call)
    except ray.exceptions.RayError as error:
        why = " ".join(str(error).split())
        if not block:
            raise RuntimeError(f"A node of the cluster cannot run probejax: {why}") from None
        names = ", ".join(group[0].task for group in block)
        return [], RuntimeError(f"{_RETRIES + 1} hosts died over {names}: {why}")

"""A run from its configuration to its report: what is left to do, by whom, and what is said."""

import collections
import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from etils import epath

from probejax import artifacts, hosts, storage, sweep, tasks
from probejax.runs import claim
from probejax.runs.folder import Run, read
from probejax.runs.limits import check_limits
from probejax.sweep.config import Config

SHOWS = ("bars", "json", "nothing")
CLUSTERS = ("ray",)


def run(
    config: Config,
    out: epath.PathLike,
    *,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    memory_gb: float | None = None,
    model_parallel: int = 1,
    disk_gb: float | None = None,
    rank: int = 0,
    count: int = 1,
    cluster: str | None = None,
    ray_address: str | None = None,
    extend: bool = False,
    save_probes: bool = False,
    keep_tokens: bool = False,
    check_sae: bool = False,
    verbose: bool = False,
    show: str = "bars",
) -> Run:
    """Fits every probe of every task in every regime, and writes the report.

    Killed at any moment, the same call finishes the rest; several processes may share one `out`.
    Works from a notebook and from a script as it stands: workers never run the caller's code.

    Args:
      config: what is run; see `Config`.
      out: folder or gs:// prefix for the results; one configuration each, but see `extend`.
      cache_dir: where downloads and activations live, see `probejax.artifacts.cache_dir`.
      workers: tasks at a time; None is one per core of a CPU, eight per GPU or TPU chip, fewer
        where memory does not hold so many.
      memory_gb: memory for one process; None is half of the machine's, shared.
      model_parallel: devices of this machine that hold the language model together.
      disk_gb: what all-token activations may take; None is no limit.
      rank: which share of the tasks is this process's, from 0.
      count: how many processes share the tasks.
      cluster: `ray` hands the tasks to the nodes of a Ray cluster; None runs them here.
      ray_address: of that cluster, or `auto`; None starts one on this machine.
      extend: whether the run in `out` may be another that this one contains: its units stay, and
        tasks, methods, SAEs and sites are added.
      save_probes: whether the final probes are written too, to `out/probes`; finished units that
        have none are fitted again.
      keep_tokens: whether all-token activations stay when the units of their task are written.
      check_sae: whether L0, explained variance and dead latents of every SAE are measured first.
      verbose: whether what is known of the SAEs and the memory is said.
      show: `bars` (in a log lines), `json` (a line for each unit) or `nothing`.

    Returns:
      The run as `read(out)` has it. Its report is in `out/report.html` when no unit is missing.

    Raises:
      ValueError: the configuration names what does not exist or does not fit, a limit is no
        number or too small, nothing can run, or the tokens need more disk than there is.
      ConfigMismatch: `out` holds another run.
      StorageError, ArtifactError: a place cannot be written, or a download fails.
      RuntimeError: a worker process died, or a cluster's hosts again and again.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> x = np.random.default_rng(0).normal(size=(300, 8))
      >>> np.save("x.npy", x); np.save("y.npy", x[:, 0] > 0)
      >>> config = px.Config(activations="x.npy", labels="y.npy", methods=("mean_difference",))
      >>> found = px.run(config, out="mine", workers=1, show="nothing")
      >>> found.results["regime"].unique().tolist()
      ['standard', 'scarcity', 'imbalance', 'label_noise']
    """
    place = os.fspath(out)
    if show not in SHOWS:
        raise ValueError(f"show={show} does not exist; choose from {', '.join(SHOWS)}.")
    check_limits(
        workers=workers, memory_gb=memory_gb, disk_gb=disk_gb, model_parallel=model_parallel
    )
    storage.check_place(place)
    hosts.share((), rank, count)
    _check_cluster(cluster, ray_address, count, model_parallel)
    if config.activations is None:
        tasks.match(config.tasks or (), config.own)
    from probejax import devices  # imports JAX: after what can be told without it

    root = artifacts.cache_dir(cache_dir)
    devices.compilation_cache(root)
    if cluster is None:
        devices.host()
    plan = sweep.resolve(config, cache_dir)
    plan.check_parallel(model_parallel)
    at_once, room = 0, None
    if cluster is None:  # else the devices are for the cluster's processes
        at_once, room = sweep.at_once(plan, workers, model_parallel)
    memory_gb = room if memory_gb is None else memory_gb
    job = sweep.Execution(plan, memory_gb, model_parallel)
    units, store = plan.units(), storage.Store(place)
    done = store.done()
    claim.claim(plan, place, done, extend)  # before anything of another run is written over
    names = {"units": [unit.name for unit in units]}
    storage.write_atomic(f"{place}/plan.json", storage.encode_json(names))
    storage.write_atomic(f"{place}/left_out.json", storage.encode_json(plan.left_out))
    if families := plan.families():
        storage.write_atomic(f"{place}/families.json", storage.encode_json(families))
    for folder in (place, root / "activations"):
        storage.remove_leftovers(folder)
    from probejax.runs import progress  # slow to import

    says = (lambda line: None) if show == "nothing" else progress.say
    for why in tasks.sentences(plan.left_out):
        sys.stderr.write(f"Left out: {why}\n")
    for note in plan.notes:
        says(note)
    if verbose:
        for sae in plan.saes.values():
            says(f"{sae.sae_id}: {sae.description().get('quality', 'not measured')}")
        limit = (
            f"at most {memory_gb:.1f} GB" if memory_gb is not None else "half of a host's, shared"
        )
        says(f"memory: {limit} in each process")
    if check_sae:
        sweep.TokenDisk(job, place, keep_tokens).prepare(plan.tasks[0])
        says("\n".join(job.check_saes()))
    ours, todo = claim.left(plan, place, done, (rank, count), save_probes)
    if again := done & {unit.name for unit in todo}:
        says(f"{len(again)} finished units have no probes yet; they are fitted again.")
        done -= again
    kept = {"save_probes": save_probes, "keep_tokens": keep_tokens}
    if cluster is not None:
        limits = {"workers": workers, "memory_gb": memory_gb, "disk_gb": disk_gb, **kept}
        where = place if "://" in place else os.path.abspath(place)
        work = sweep.cluster.Work(config, where, cache_dir, folder=os.getcwd(), **limits)
        finished = sweep.cluster.run(work, sweep.by_task(todo), ray_address)
    else:
        finished = sweep.run_units(job, todo, place, workers=at_once, compiled=root, **kept)
        left = list(dict.fromkeys(unit.task for unit in todo))
        if left and plan.reads_tokens:
            root.mkdir(parents=True, exist_ok=True)
            ahead, free = min(at_once, len(left)), shutil.disk_usage(root).free
            limits = {"workers": ahead, "keep": keep_tokens, "allowed_gb": disk_gb, "free": free}
            says(sweep.forecast(sweep.token_plans(plan, left), **limits))
    with contextlib.closing(finished):  # whatever ends the run ends its workers too
        _watch(finished, ours, done, store, show)
    if missing := len({unit.name for unit in units} - store.done()):
        says(f"{missing} of {len(units)} units are still missing; other processes run them.")
    else:
        from probejax.analysis.report import report  # slow to import, and only the last needs it

        says(report(place, cache_dir=root))
    return read(place)


def _check_cluster(cluster: str | None, address: str | None, count: int, parallel: int) -> None:
    """Raises ValueError for a cluster that does not exist, is not installed, or shares twice."""
    if cluster is None and address is not None:
        raise ValueError(f"--ray_address={address} is that of --cluster=ray; give both.")
    if cluster is None:
        return
    if cluster not in CLUSTERS:
        raise ValueError(f"--cluster={cluster} does not exist; choose from {', '.join(CLUSTERS)}.")
    if count > 1:
        raise ValueError(
            f"--cluster={cluster} shares the tasks itself; start it once, without --multihost and "
            "--num_processes."
        )
    if parallel > 1:
        raise ValueError(
            f"--cluster={cluster} gives each device a model of its own; leave out "
            f"--model_parallel={parallel}."
        )
    if importlib.util.find_spec(cluster) is None:
        raise ValueError("--cluster=ray needs Ray: pip install 'probejax[ray]'.")


def _watch(finished, ours, done: set[str], store: storage.Store, show: str) -> None:
    """Shows units as they are finished."""
    from probejax.runs import progress

    if show == "bars":
        before = {unit.name: store.read(unit.name) for unit in ours if unit.name in done}
        progress.watch(finished, ours, before, store.read)
    elif show == "json":
        progress.log(finished)
    else:
        collections.deque(finished, maxlen=0)

"""What a run would take, told without starting it."""

from pathlib import Path

from etils import epath

from probejax import hosts, storage, sweep
from probejax.runs import claim
from probejax.runs.limits import check_limits
from probejax.sweep.config import Config


def foresee(
    config: Config,
    out: epath.PathLike | None = None,
    *,
    target: str = "cpu",
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    memory_gb: float | None = None,
    model_parallel: int = 1,
    disk_gb: float | None = None,
    rank: int = 0,
    count: int = 1,
    extend: bool = False,
    save_probes: bool = False,
    keep_tokens: bool = False,
) -> "sweep.Outlook":
    """Says what `run` would take with the same arguments, and refuses what it would refuse.

    Nothing is downloaded for it that the tokenizer does not need, and nothing is written.

    Args:
      config: what is run; see `Config`.
      out: folder of the run: what is finished there is left out; None is a run from its start.
      target: the machine, see `probejax.rules.TARGETS`; `cpu` is this one.
      cache_dir: as for `run`, like all that follow.
      workers: tasks at a time.
      memory_gb: memory for one process.
      model_parallel: devices that hold the language model together.
      disk_gb: what all-token activations may take.
      rank: which share of the tasks is this process's, from 0.
      count: how many processes share the tasks.
      extend: whether this run may have more units than the one in `out`.
      save_probes: whether finished units without their probes are fitted again.
      keep_tokens: whether all-token activations stay when the units of their task are written.

    Returns:
      Units, fits, programs, memory, disk and time of this process's share; printed, a page.

    Raises:
      ValueError, ConfigMismatch, StorageError, ArtifactError: as `run` does.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> x = np.random.default_rng(0).normal(size=(300, 8))
      >>> np.save("x.npy", x); np.save("y.npy", x[:, 0] > 0)
      >>> config = px.Config(activations="x.npy", labels="y.npy", methods=("mean_difference",))
      >>> px.runs.foresee(config, target="h100").tasks
      1
    """
    check_limits(
        workers=workers, memory_gb=memory_gb, disk_gb=disk_gb, model_parallel=model_parallel
    )
    hosts.share((), rank, count)
    if out is not None:
        storage.check_place(str(out))
    plan = sweep.resolve(config, cache_dir)
    done = set() if out is None else storage.Store(out).done()
    if out is not None:
        claim.check(plan, out, done, extend)
    ours, todo = claim.left(plan, out or "", done, (rank, count), save_probes and bool(done))
    limits = {"workers": workers, "disk_gb": disk_gb, "keep_tokens": keep_tokens}
    which = {"units": todo, "finished": len(ours) - len(todo)}
    return sweep.look(plan, target, model_parallel, memory_gb, **limits, **which)

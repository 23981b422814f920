"""A run's tokens on the disk: what they will take, and which of them the run may delete.

A task's tokens go when its units are written, and those of all other tasks that read the same, as
the classes of one file may. Only those go that the run has harvested itself:
`<out>/harvested/<task>.json` notes which, before the harvest begins, so that a run that was killed
knows its own. What was in the cache before stays there.
"""

import functools
import heapq
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence

from etils import epath

from probejax import activations, foreign, storage
from probejax.sites import Site
from probejax.sweep.execute import Execution
from probejax.sweep.plan import Plan
from probejax.tasks import Task

_GB = 1e9


def tasks_at_once(workers: int) -> int:
    """Returns how many tasks lie on the disk at most: those in work, and as many ahead of them."""
    return 1 if workers <= 1 else 2 * workers


class TokenDisk:
    """The tokens of one run; where no method reads tokens, nothing is noted and nothing deleted."""

    def __init__(self, job: Execution, out: epath.PathLike, keep: bool):
        """Reads nothing yet.

        Args:
          job: harvests the run's activations.
          out: folder of its results.
          keep: whether the tokens stay when they have served.
        """
        self.plan = job.plan
        self.harvest = job.prepare
        self.deletes = job.plan.reads_tokens and not keep
        self.store, self.notes = storage.Store(out), epath.Path(out) / "harvested"

    def prepare(self, task: str) -> None:
        """Sees to it that a task's activations are in the cache, and notes which are the run's.

        Raises:
          StorageError, ValueError: as for `activations.harvest`; or the note cannot be written.
        """
        if self.deletes:
            missing = {key for key, part in self._parts(task) if not self._is_cached(*part)}
            if missing - (noted := self._noted(task)):
                storage.write_atomic(self._note(task), json.dumps(sorted(noted | missing)))
        self.harvest(task)

    def release(self, task: str) -> None:
        """Deletes what the run has harvested for a task, once no other needs it."""
        if not self.deletes:
            return
        others = self._sharing(task)
        noted = {one: self._noted(one) for one in (task, *others)}
        if not any(noted.values()):
            return
        if others and self._open_tasks(self.store.done()) & set(others):
            return  # the last of them deletes
        plan = self.plan
        for one, keys in noted.items():
            for key, (each, site) in self._parts(one):
                if key in keys:
                    where = ([site], plan.recipe)
                    activations.discard(each.prompts, *where, cache_dir=plan.cache_dir)
            self._note(one).unlink(missing_ok=True)

    def release_finished(self, done: Collection[str]) -> None:
        """Deletes what a run left that was killed between a task's last unit and its release.

        Args:
          done: names of the finished units; a task with others may be in work elsewhere.
        """
        if not self.deletes:
            return
        open_tasks = self._open_tasks(done)
        for task in self.plan.tasks:
            if task not in open_tasks:
                self.release(task)

    def _open_tasks(self, done: Collection[str]) -> set[str]:
        return {unit.task for unit in self.plan.units() if unit.name not in done}

    def _sharing(self, task: str) -> list[str]:
        """Returns the other tasks that have a list of prompts in common with one."""
        own = self._keys.get(task, set())
        return [other for other, keys in self._keys.items() if other != task and keys & own]

    @functools.cached_property
    def _keys(self) -> dict[str, set[str]]:
        """The lists of each task of one's own; the study's have none in common."""
        own = [task for task in self.plan.tasks if self.plan.source.fingerprint(task)]
        return {task: {key for key, _ in self._parts(task)} for task in own}

    def _parts(self, task: str) -> Iterator[tuple[str, tuple[Task, Site]]]:
        """Yields what a task has in the cache, a list of prompts at a site, by its key."""
        plan = self.plan
        for each, site in itertools.product(plan.prompts(task), plan.sites):
            yield activations.key(plan.recipe, site, each.prompts), (each, site)

    def _is_cached(self, each: Task, site: Site) -> bool:
        plan = self.plan
        where = (plan.recipe, site, each.prompts)
        return activations.is_cached(*where, cache_dir=plan.cache_dir)

    def _note(self, task: str) -> epath.Path:
        return self.notes / f"{foreign.file_name(task)}.json"

    def _noted(self, task: str) -> set[str]:
        path = self._note(task)
        if not path.exists():
            return set()
        return foreign.read_json(path, set[str], "delete it: what it names then stays in the cache")


def plans(plan: Plan, tasks: Sequence[str]) -> dict[str, list[activations.Plan]]:
    """Returns what the harvest of each task takes, exactly: it counts their tokens."""
    tokenizer, config = plan.checkpoint.tokenizer(), plan.checkpoint.config
    how = {
        "bos": plan.checkpoint.bos_token(plan.config.bos),
        "template": plan.checkpoint.template(plan.config.chat_template),
        "cache_dir": plan.cache_dir,
    }
    owners, lists = [], {}
    for task in tasks:
        own, *shifted = plan.prompts(task)
        some = {task: own.prompts} | {f"{task}, shifted": each.prompts for each in shifted}
        owners += [task] * len(some)
        lists |= some
    every = activations.plan(lists, plan.sites, plan.recipe, tokenizer, config, **how)
    found: dict[str, list[activations.Plan]] = {task: [] for task in tasks}
    for task, each in zip(owners, every, strict=True):
        found[task].append(each)
    return found


def peak(found: Mapping[str, Sequence[activations.Plan]], at_once: int, keep: bool) -> int:
    """Returns the bytes on the disk at most, those in the cache already among them.

    Args:
      found: of `plans`.
      at_once: tasks that lie there together.
      keep: whether all stay.
    """
    every = [plan for lists in found.values() for plan in lists]
    if keep:
        return activations.peak_kept(every)
    there = sum(plan.bytes for plan in every if plan.cached)
    todo = [sum(plan.bytes for plan in lists if not plan.cached) for lists in found.values()]
    joined = max((plan.bytes for plan in every if not plan.cached), default=0)
    return there + sum(heapq.nlargest(at_once, todo)) + joined


def forecast(
    found: Mapping[str, Sequence[activations.Plan]],
    *,
    workers: int,
    keep: bool,
    allowed_gb: float | None,
    free: int,
) -> str:
    """Returns in a line what the tokens of the tasks take on the disk.

    Args:
      found: of `plans`, for the tasks that are not finished.
      workers: processes that fit.
      keep: whether the tokens stay.
      allowed_gb: what they may take; None is no limit.
      free: bytes free where the cache is.

    Raises:
      ValueError: the disk cannot hold them, or may not.
    """
    every = [plan for lists in found.values() for plan in lists]
    at_once = min(tasks_at_once(workers), len(found))
    most = peak(found, at_once, keep)
    advice = (
        ""
        if keep and workers == 1
        else (
            f" {'leave out --keep_tokens' if keep else 'give --workers=1'},"
            f" which takes {peak(found, 1, False) / _GB:.2f} GB, or"
        )
    )
    advice = f"{advice} run fewer tasks or halve them with --dtype=bfloat16."
    if allowed_gb is not None and most > allowed_gb * _GB:
        raise ValueError(
            f"The tokens need {most / _GB:.2f} GB, more than --disk_gb={allowed_gb:g}:{advice}"
        )
    missing = most - sum(plan.bytes for plan in every if plan.cached)
    if missing > free:
        raise ValueError(
            f"The tokens need {missing / _GB:.2f} GB more, but only {free / _GB:.2f} GB are free "
            f"where the cache is:{advice}"
        )
    how = "all are kept" if keep else f"{at_once} of {len(found)} tasks together, then deleted"
    total = sum(plan.bytes for plan in every)
    return (
        f"tokens: {sum(plan.tokens for plan in every):,}, {total / _GB:.2f} GB in all, on the disk "
        f"at most {most / _GB:.2f} GB ({how})"
    )

"""The conditions of one task under either protocol, and which it cannot have."""

import dataclasses
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from probejax.tasks import registry, splits
from probejax.tasks.catalog import Task
from probejax.tasks.distinct import distinct_rows
from probejax.tasks.plans import lacking
from probejax.tasks.regimes import ALL_REGIMES, Drawn, Pool
from probejax.tasks.splits import Condition

Seen = Callable[[Sequence[str]], Sequence[Hashable]]
"""Prompts -> what a model reads of each: equal where it cannot tell them apart."""

LeftOut = dict[str, str | dict[str, str]]
"""Task -> why it cannot run, or regime -> why this or a part of it cannot be had."""


class Drawing(NamedTuple):
    """The conditions of a task.

    Attributes:
        task: the prompts that are needed. Of own data these are the rows that a condition draws.
        shifted: those of its shifted test set, if there is one.
        conditions: as rows of the task's prompts and the shifted ones behind them.
        left_out: regime -> why it, or a part of it, cannot be had.
        rows: which rows of the whole task those of `task` are.
        groups: the task's groups by the level that `group_shift` has for them.
    """

    task: Task
    shifted: Task | None
    conditions: list[Condition]
    left_out: dict[str, str]
    rows: Int[np.ndarray, " n"]
    groups: tuple[str, ...] = ()

    @property
    def sets(self) -> list[Task]:
        """The task, and its shifted test set if there is one."""
        return [self.task] if self.shifted is None else [self.task, self.shifted]


def draw(
    task: Task,
    shifted: Task | None,
    regimes: Collection[str],
    seeds: Sequence[int],
    protocol: str,
    seen: Seen = tuple,
) -> Drawing:
    """Draws the conditions of a task, by regime, then seed, then level.

    A task of the study, by its name, is drawn as the study has it; any other by its own balance,
    see `regimes`. `strict` draws from distinct prompts, and tests on no shifted prompt that it
    trained on. A regime that the task cannot have is left out.

    Args:
        task: all of it.
        shifted: its shifted test set, if it has one and `covariate_shift` is wanted.
        regimes: which.
        seeds: of the draws.
        protocol: `paper` or `strict`.
        seen: what a model reads of prompts; without it a prompt is its text. Only `strict` asks.

    Raises:
        ValueError: a regime, a protocol or a seed does not exist.
    """
    if unknown := [regime for regime in regimes if regime not in ALL_REGIMES]:
        raise ValueError(
            f"there is no regime {unknown[0]!r}; the regimes are {', '.join(ALL_REGIMES)}"
        )
    studied = task.name in registry.NAMES
    rows, rows_shifted, not_drawn = _rows(task, shifted, protocol, seen, balanced=studied)
    pool = Pool(
        task.labels[rows],
        task.class_names,
        None if shifted is None else shifted.labels[rows_shifted],
        tuple(task.groups[row] for row in rows) if task.groups else (),
    )
    found: list[Condition] = []
    left_out: dict[str, str] = {}
    if not studied and not_drawn:
        left_out[protocol] = not_drawn
    for regime in regimes:
        for seed in seeds:
            drawn = (_as_the_study if studied else _by_own_balance)(pool, regime, seed)
            found += drawn.conditions
            if drawn.left_out:
                left_out[regime] = "; ".join(drawn.left_out)
    rows = np.concatenate([rows, len(task.labels) + rows_shifted])
    found = [dataclasses.replace(c, train=rows[c.train], test=rows[c.test]) for c in found]
    if studied:
        return Drawing(task, shifted, found, left_out, np.arange(len(task.labels)))
    return _needed(task, shifted, found)._replace(
        left_out=left_out, groups=tuple(sorted(set(pool.groups)))
    )


def sentences(missing: LeftOut) -> list[str]:
    """Returns a sentence for each task or regime; regimes of one reason share it."""
    found = []
    for task, why in missing.items():
        if isinstance(why, str):
            found.append(why)
            continue
        by_reason: dict[str, list[str]] = {}
        for regime, reason in why.items():
            by_reason.setdefault(reason, []).append(regime)
        found += [
            f"{task}, {' and '.join(regimes)}: {reason}." for reason, regimes in by_reason.items()
        ]
    return found


def _as_the_study(pool: Pool, regime: str, seed: int) -> Drawn:
    if regime not in splits.REGIMES:
        return Drawn([])
    if why := lacking(regime, pool.labels, pool.shifted):
        return Drawn([], (f"it {why}",))
    return Drawn(splits.conditions(pool.labels, (regime,), (seed,), pool.shifted))


def _by_own_balance(pool: Pool, regime: str, seed: int) -> Drawn:
    splits.check_seed(seed)
    return ALL_REGIMES[regime].draw(pool, seed)


def _needed(task: Task, shifted: Task | None, conditions: list[Condition]) -> Drawing:
    """Keeps the prompts that a condition draws: of 200,000 nobody wants all activations."""
    drawn = [rows for c in conditions for rows in (c.train, c.test)]
    used = np.unique(np.concatenate(drawn)) if drawn else np.arange(1)  # nothing is no task
    kept = [
        dataclasses.replace(
            c, train=np.searchsorted(used, c.train), test=np.searchsorted(used, c.test)
        )
        for c in conditions
    ]
    n = len(task.labels)
    other = None if shifted is None else _part(shifted, used[used >= n] - n)
    return Drawing(_part(task, used[used < n]), other, kept, {}, used[used < n])


def _not_drawn(task: Task, prompts: Sequence[Hashable], rows: np.ndarray) -> str:
    """Says which rows a protocol does not draw from; nothing if it draws from all."""
    drawn = {prompts[row] for row in rows}
    both = sum(prompt not in drawn for prompt in prompts)
    copies, n = len(prompts) - both - len(rows), len(prompts)
    read = "" if len({*prompts}) == len({*task.prompts}) else ", as the model reads them"
    parts = [f"{copies} are copies of others{read}"] * bool(copies)
    parts += [f"{both} have a prompt that stands there with both labels{read}"] * bool(both)
    return f"{n - len(rows)} of {n} rows are not drawn: {' and '.join(parts)}" if parts else ""


def _part(task: Task, rows: np.ndarray) -> Task:
    groups = tuple(task.groups[row] for row in rows) if task.groups else ()
    prompts = tuple(task.prompts[row] for row in rows)
    return dataclasses.replace(task, prompts=prompts, labels=task.labels[rows], groups=groups)


def _rows(
    task: Task, shifted: Task | None, protocol: str, seen: Seen, *, balanced: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the rows of both sets that may be drawn from, and says which of the first may not."""
    count = 0 if shifted is None else len(shifted.labels)
    if protocol == "paper":
        return np.arange(len(task.labels)), np.arange(count), ""
    if protocol != "strict":
        raise ValueError(f"there is no protocol {protocol!r}; expected paper or strict")
    own = seen(task.prompts)
    rows = distinct_rows(own, task.labels, balanced=balanced)
    known = {own[row] for row in rows}
    others = () if shifted is None else seen(shifted.prompts)
    new = np.array([row for row, prompt in enumerate(others) if prompt not in known], int)
    return rows, new, _not_drawn(task, own, rows)

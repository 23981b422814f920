"""The conditions of one task under either protocol, and which it cannot have."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from probejax.tasks.catalog import Task
from probejax.tasks.distinct import distinct_rows
from probejax.tasks.plans import lacking
from probejax.tasks.splits import Condition, conditions


def draw(
    task: Task,
    shifted: Task | None,
    regimes: Sequence[str],
    seeds: Sequence[int],
    protocol: str,
) -> list[Condition]:
    """Draws the conditions of a task, as rows of its features.

    `strict` draws from distinct prompts, and tests on no shifted prompt that it trained on.

    Raises:
        ValueError: the task is too small or unbalanced for a regime, see `unfit`; a regime, a
            protocol or a seed does not exist.
    """
    if reason := unfit(task, shifted, regimes, protocol):
        raise ValueError(reason)
    rows, rows_shifted = _rows(task, shifted, protocol)
    labels, of_shifted = _labels(task, shifted, rows, rows_shifted)
    drawn = conditions(labels, regimes, seeds, of_shifted)
    if protocol == "paper":
        return drawn
    rows = np.concatenate([rows, len(task.labels) + rows_shifted])
    return [dataclasses.replace(c, train=rows[c.train], test=rows[c.test]) for c in drawn]


def unfit(
    task: Task, shifted: Task | None, regimes: Sequence[str], protocol: str = "paper"
) -> str | None:
    """Says which regimes a task cannot have, why and what to do; None if it can have them all.

    It looks at prompts and labels alone, so it can be asked before anything is run.

    Args:
        task: the task.
        shifted: its shifted test set, if it has one.
        regimes: some of `REGIMES`.
        protocol: `paper`, or `strict`, which has each prompt once.

    Raises:
        ValueError: a regime or the protocol does not exist.
    """
    labels, of_shifted = _labels(task, shifted, *_rows(task, shifted, protocol))
    reasons: dict[str, list[str]] = {}
    for regime in regimes:
        if reason := lacking(regime, labels, of_shifted):
            reasons.setdefault(reason, []).append(regime)
    if not reasons:
        return None
    once = " where each prompt counts once (strict)" if protocol == "strict" else ""
    parts = "; ".join(f"for {', '.join(names)} it {why}" for why, names in reasons.items())
    return f"task {task.name!r} will not do{once}: {parts}; or leave these regimes out."


def _rows(task: Task, shifted: Task | None, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of both sets that may be drawn from."""
    count = 0 if shifted is None else len(shifted.labels)
    if protocol == "paper":
        return np.arange(len(task.labels)), np.arange(count)
    if protocol != "strict":
        raise ValueError(f"there is no protocol {protocol!r}; expected paper or strict")
    rows = distinct_rows(task.prompts, task.labels)
    if shifted is None:
        return rows, np.arange(0)
    known = {task.prompts[row] for row in rows}
    return rows, np.array([i for i, p in enumerate(shifted.prompts) if p not in known], int)


def _labels(task: Task, shifted: Task | None, rows, rows_shifted):
    return task.labels[rows], None if shifted is None else shifted.labels[rows_shifted]

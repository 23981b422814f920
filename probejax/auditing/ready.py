"""What an audit will look at: a configuration, resolved and checked before any harvest."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from probejax import models, saes, sweep, tasks
from probejax.auditing import dataset, neutral_texts, units
from probejax.auditing import keep as keep_file
from probejax.auditing.shifted import draw
from probejax.sweep.config import Config
from probejax.sweep.source import Vectors
from probejax.tasks import Task


class Ready(NamedTuple):
    """An audit that can begin.

    Attributes:
      plan: the model, the site and the SAE.
      tasks: what is audited.
      shifted: the shifted set of each task that has one.
      missing: why a task's shifted set is not looked at.
      keep: latents that the user would keep there, the best first.
      given: neutral texts of the user's.
      about: where they are from.
    """

    plan: sweep.Plan
    tasks: list[Task]
    shifted: dict[str, Task]
    missing: dict[str, str]
    keep: tuple[int, ...] | None
    given: tuple[str, ...] | None
    about: str

    def neutral_texts(self) -> tuple[str, ...]:
        """Returns the user's neutral texts, or else prompts of the study's other tasks."""
        if self.given is not None:
            return self.given
        return neutral_texts.of_other_tasks(self.plan.source.names(), self.plan.cache_dir)


def ready(
    config: Config,
    *,
    corpus: str | Path | None = None,
    keep: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Ready:
    """Resolves a configuration to what an audit reads; arguments and errors are those of `run`."""
    if corpus is not None and config.activations is not None:
        raise ValueError("--corpus is read by a model, and --activations stand in place of one.")
    ranking = None if keep is None else keep_file.read(keep)
    given = None if corpus is None else neutral_texts.read(corpus)
    plan = sweep.resolve(_judging(config, cache_dir), cache_dir)
    if len(plan.sites) > 1:
        named = ", ".join(map(str, plan.sites))
        raise ValueError(f"An audit looks at one site, and this is about {named}; give one --site.")
    wanted = [plan.source.whole(name) for name in plan.source.names()]
    for task in wanted:
        try:
            dataset.check(task.labels, units.equal(task.prompts))
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}.") from None
    others, missing = _shifted(plan, wanted)
    if ranking is not None:
        _check_keep(plan, others, ranking, f"--keep={keep}")
    about = "the study's other tasks" if corpus is None else str(corpus)
    return Ready(plan, wanted, others, missing, ranking, given, about)


def _judging(config: Config, cache_dir) -> Config:
    """Returns a configuration that resolves to what an audit reads."""
    names: tuple[str, ...] = ("logreg", "sae_k16")
    if not config.sae and config.activations is None:
        checkpoint = models.find(config.model, cache_dir=cache_dir)
        names = names if saes.shipped(checkpoint.name) else ("logreg",)
    if len(config.sae) > 1:
        raise ValueError(f"An audit looks at one SAE, and --sae names {len(config.sae)}.")
    chosen = None if config.activations else config.tasks
    judged = {"methods": names, "regimes": ("standard",), "tasks": chosen}
    return dataclasses.replace(config, **judged)


def _shifted(plan: sweep.Plan, wanted: Sequence[Task]) -> tuple[dict[str, Task], dict[str, str]]:
    """Returns the shifted set of each task that has one, and why some are not looked at."""
    config, found, missing = plan.config, {}, {}
    if isinstance(plan.source, Vectors):
        return found, missing
    there = tasks.shifted_names(config.own)
    for task in (each for each in wanted if each.name in there):
        other = tasks.load_shifted(task.name, data=config.own, cache_dir=plan.cache_dir)
        why = "there is no SAE; give one with --sae"
        try:
            draw(task, other, config.seeds[0])
        except ValueError as error:
            why = str(error)
        else:
            if plan.saes:
                found[task.name] = other
                continue
        missing[task.name] = f"Left out: what to keep under a shift ({why})."
    return found, missing


def _check_keep(
    plan: sweep.Plan, others: Mapping[str, Task], ranking: tuple[int, ...], where: str
) -> None:
    """Raises ValueError unless a ranking is of one task's latents, and the SAE has them."""
    if not plan.saes:
        raise ValueError(f"{where} names latents, and there is no SAE; give one with --sae.")
    if len(others) != 1:
        raise ValueError(
            f"{where} ranks latents for one task's shifted set, and {len(others)} of these tasks "
            f"have one; name one of {', '.join(tasks.shifted_names(plan.config.own))}."
        )
    (sae,) = plan.saes.values()
    keep_file.check(ranking, sae.d_sae, where)

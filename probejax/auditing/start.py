"""An audit of tasks or files: from a configuration to pages in a folder."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from probejax import artifacts, devices, foreign, models, saes, storage, sweep, tasks
from probejax.activations.language_model import LanguageModel
from probejax.analysis.left_out import attempt
from probejax.auditing import dataset, neutral_texts
from probejax.auditing import keep as keep_file
from probejax.auditing.corpus import Corpus, activate
from probejax.auditing.report import Audit, examine
from probejax.auditing.shifted import Shifted, draw
from probejax.sweep.config import Config
from probejax.sweep.source import Vectors


def run(
    config: Config,
    out: epath.PathLike,
    *,
    corpus: str | Path | None = None,
    keep: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Iterator[tuple[str, Audit]]:
    """Audits every task that a configuration names, and writes a page for each.

    Args:
      config: which tasks, model, site and SAE; of a run's other settings none counts.
      out: folder for `audit.html` and its tables; of several tasks each has a folder of its own.
      corpus: file or folder of neutral texts, see `neutral_texts.read`; None takes prompts of the
        study's other tasks.
      keep: file of latents that the user would keep on a task's shifted set, see `keep.read`.
      cache_dir: where downloads and activations live, see `probejax.artifacts.cache_dir`.

    Yields:
      Each task's folder and audit, once they are written.

    Raises:
      ValueError: the configuration names what does not exist or does not fit, or a task cannot be
        audited; nothing is harvested before all of them have been looked at.
      StorageError, ArtifactError: a place cannot be written, or a download fails.
    """
    storage.check_place(str(out))
    if corpus is not None and config.activations is not None:
        raise ValueError("--corpus is read by a model, and --activations stand in place of one.")
    ranking = None if keep is None else keep_file.read(keep)
    given_texts = None if corpus is None else neutral_texts.read(corpus)
    devices.compilation_cache(artifacts.cache_dir(cache_dir))
    plan = sweep.resolve(_judging(config, cache_dir), cache_dir)
    job = sweep.Execution(plan)
    wanted = [plan.source.whole(name) for name in plan.source.names()]
    for task in wanted:
        try:
            dataset.check(task.labels, dataset.equal(task.prompts))
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}.") from None
    left_out: list[str] = []
    others, not_drawn = _shifted(plan, wanted)
    if ranking is not None:
        _check_keep(plan, others, ranking, f"--keep={keep}")
    neutral = None
    if not isinstance(plan.source, Vectors):
        make = lambda: _corpus(plan, given_texts, str(corpus), cache_dir)
        neutral = attempt(left_out, "the probe's direction on single tokens", make)
    sae = next(iter(plan.saes.values()), None)
    for task in wanted:
        x = job.activations(task).last()
        data = dataset.dataset(
            x,
            task.labels,
            texts=None if isinstance(plan.source, Vectors) else task.prompts,
            groups=task.groups or None,
            sae=None if sae is None else sae.load(x),
            classes=task.class_names,
            page=None if sae is None else sae.neuronpedia,
            name=task.name,
        )
        facts = {"read": f"{plan.checkpoint.name}, {plan.site_name}"}
        facts |= {} if sae is None else {"latents of": sae.sae_id}
        missing = left_out + [line for line in (not_drawn.get(task.name),) if line]
        facts |= {"left out": " ".join(missing)} if missing else {}
        other = None
        if there := others.get(task.name):
            values = job.activations(there).last()
            other = Shifted(np.asarray(values, np.float32), there.labels, there.prompts)
        how = {"shifted": other, "keep": ranking, "seed": config.seeds[0], "facts": facts}
        found = examine(data, neutral, **how)
        place = epath.Path(out)
        place = place if len(wanted) == 1 else place / foreign.file_name(task.name)
        found.save(place)
        yield str(place), found


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


def _shifted(
    plan: sweep.Plan, wanted: Sequence[tasks.Task]
) -> tuple[dict[str, tasks.Task], dict[str, str]]:
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
    plan: sweep.Plan, others: Mapping[str, tasks.Task], ranking: tuple[int, ...], where: str
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


def _corpus(plan: sweep.Plan, texts, about: str, cache_dir) -> Corpus:
    if texts is None:
        texts = neutral_texts.of_other_tasks(plan.source.names(), cache_dir)
        about = "the study's other tasks"
    model = LanguageModel(plan.checkpoint, plan.config.dtype, plan.config.bos)
    return activate(model, plan.site, texts, about)

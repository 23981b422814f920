"""An audit of tasks or files: from a configuration to pages in a folder."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from probejax import artifacts, devices, foreign, models, saes, storage, sweep
from probejax.activations.language_model import LanguageModel
from probejax.analysis.left_out import attempt
from probejax.auditing import dataset, neutral_texts
from probejax.auditing.corpus import Corpus, activate
from probejax.auditing.report import Audit, examine
from probejax.sweep.config import Config
from probejax.sweep.source import Vectors


def run(
    config: Config,
    out: epath.PathLike,
    *,
    corpus: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Iterator[tuple[str, Audit]]:
    """Audits every task that a configuration names, and writes a page for each.

    Args:
      config: which tasks, model, site and SAE; of a run's other settings none counts.
      out: folder for `audit.html` and its tables; of several tasks each has a folder of its own.
      corpus: file or folder of neutral texts, see `neutral_texts.read`; None takes prompts of the
        study's other tasks.
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
    given_texts = None if corpus is None else neutral_texts.read(corpus)
    devices.compilation_cache(artifacts.cache_dir(cache_dir))
    plan = sweep.resolve(_judging(config, cache_dir), cache_dir)
    site, *others = plan.sites
    if others:
        named = ", ".join(map(str, plan.sites))
        raise ValueError(f"An audit looks at one site, and this is about {named}; give one --site.")
    where = plan.name_of(site)
    job = sweep.Execution(plan)
    wanted = [plan.source.whole(name) for name in plan.source.names()]
    for task in wanted:
        try:
            dataset.check(task.labels, dataset.equal(task.prompts))
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}.") from None
    left_out: list[str] = []
    neutral = None
    if not isinstance(plan.source, Vectors):
        make = lambda: _corpus(plan, given_texts, str(corpus), cache_dir)
        neutral = attempt(left_out, "the probe's direction on single tokens", make)
    sae = next(iter(plan.saes.values()), None)
    for task in wanted:
        x = job.activations(task)[where].last()
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
        facts = {"read": f"{plan.checkpoint.name}, {where}"}
        facts |= {} if sae is None else {"latents of": sae.sae_id}
        facts |= {"left out": " ".join(left_out)} if left_out else {}
        found = examine(data, neutral, seed=config.seeds[0], facts=facts)
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


def _corpus(plan: sweep.Plan, texts, about: str, cache_dir) -> Corpus:
    if texts is None:
        texts = neutral_texts.of_other_tasks(plan.source.names(), cache_dir)
        about = "the study's other tasks"
    model = LanguageModel(plan.checkpoint, plan.config.dtype, plan.config.bos)
    return activate(model, plan.sites[0], texts, about)

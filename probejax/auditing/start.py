"""An audit of tasks or files: from a configuration to pages in a folder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath

from probejax import artifacts, devices, foreign, storage, sweep
from probejax.analysis.left_out import attempt
from probejax.auditing import corpus as corpora
from probejax.auditing import dataset
from probejax.auditing.ready import ready
from probejax.auditing.report import Audit, examine
from probejax.auditing.shifted import Shifted
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
    devices.compilation_cache(artifacts.cache_dir(cache_dir))
    about = ready(config, corpus=corpus, keep=keep, cache_dir=cache_dir)
    storage.try_place(out)
    plan, wanted = about.plan, about.tasks
    where = plan.name_of(plan.sites[0])
    job = sweep.Execution(plan)
    left_out: list[str] = []
    neutral = None
    if not isinstance(plan.source, Vectors):
        make = lambda: corpora.read(job, about.neutral_texts(), about.about)
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
        missing = left_out + [line for line in (about.missing.get(task.name),) if line]
        facts |= {"left out": " ".join(missing)} if missing else {}
        other = None
        if there := about.shifted.get(task.name):
            values = job.activations(there)[where].last()
            other = Shifted(np.asarray(values, np.float32), there.labels, there.prompts)
        how = {"shifted": other, "keep": about.keep, "seed": config.seeds[0], "facts": facts}
        found = examine(data, neutral, **how)
        place = epath.Path(out)
        place = place if len(wanted) == 1 else place / foreign.file_name(task.name)
        found.save(place)
        yield str(place), found

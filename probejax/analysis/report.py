"""Everything that is written about a run's results."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from etils import epath

from probejax import spreadsheet, storage
from probejax.analysis import architectures, by_layer, case_studies, multi_token, published
from probejax.analysis.example_pages import write_examples
from probejax.analysis.examples import examples as first_prompts
from probejax.analysis.faults import faults
from probejax.analysis.figures import write_figures
from probejax.analysis.findings import Findings, find
from probejax.analysis.grid import ARROW, CELL, GROUP
from probejax.analysis.left_out import attempt
from probejax.analysis.page import page
from probejax.analysis.page.page import WITH_TASKS, Story
from probejax.analysis.run import Run, check_finished, read_run
from probejax.analysis.saebench import write_saebench
from probejax.analysis.study_layout import write_study
from probejax.analysis.tables import means, results_table, summary, write_tables

_STUDY = "gemma-2-9b"  # the model of the study's own quiver


def report(
    out: epath.PathLike,
    results: pd.DataFrame | None = None,
    *,
    also: Sequence[epath.PathLike] = (),
    cache_dir: str | Path | None = None,
    story: Story | None = None,
) -> str:
    """Writes tables, figures and `report.html` into a folder; works while a sweep is running.

    Beside them `examples/`, a page for each task whose units keep test scores; `study/`, the
    results in the study's own layout; and `saebench/`, in SAEBench's.

    Args:
      out: folder of a run, or for the tables of other results.
      results: a results table; None reads the finished units of the run.
      also: folders of other runs (another layer, the other protocol) to show beside this one.
      cache_dir: where the tasks' prompts may be, see `probejax.artifacts.cache_dir`.
      story: what the page tells beside `results`; unused without them.

    Returns:
      The summary to print.

    Raises:
      FileNotFoundError: the folder holds no finished units, or none with a fit.
      StorageError: the folder cannot be written, or a unit is damaged.
      DamagedFile: a run's `config.json` is.
    """
    out = epath.Path(out)
    runs: list[tuple[epath.Path, Run]] = []
    if results is None:
        runs = [(epath.Path(folder), read_run(folder)) for folder in (out, *also)]
        results, story = _from_runs(runs, cache_dir)
    story = story or Story()
    left_out = list(story.left_out)
    units = [payload["unit"] for payload in (runs[0][1].payloads if also and runs else ())]
    first = {(unit["protocol"], unit["model"], unit["site"]) for unit in units}
    found = find(results, left_out, first)
    left_out += [
        f"{name}: no SAE probe stands beside a baseline there; its rows are in results.csv alone."
        for name in found.not_shown
    ]
    write_tables(out, found.results, found.quiver)
    for name, part in found.tables.items():
        storage.write_atomic(out / f"{name}.csv", spreadsheet.encode_csv(part))
    pictures = write_figures(out, found, left_out)
    attempt(left_out, "study/", lambda: write_study(out, found.results))
    millis = int(time.time() * 1000)
    attempt(left_out, "saebench/", lambda: write_saebench(out, found.results, millis=millis))
    detailed = [found.groups[i] for i in found.shown[:WITH_TASKS]]
    examples = write_examples(out, runs, detailed, left_out, cache_dir)
    storage.write_atomic(out / "report.html", page(found, story, pictures, left_out, examples))
    storage.remove_leftovers(out)
    parts = [by_layer.summary(found.layers), *_summaries(found), multi_token.summary(found.tokens)]
    parts += [architectures.summary(found.studies)] if found.studies else []
    parts += ["\n".join(left_out)]
    status = f"{story.status}.\n" if story.status else ""
    where = f"{status}Tables, figures and report.html are in {out}."
    return "\n\n".join(filter(None, (*parts, where)))


def _summaries(found: Findings) -> list[str]:
    """Returns what each group concludes; of several sites of a model, those that compare."""
    if found.quiver["cells"].any():
        shown = pd.concat([found.groups[i].quiver for i in found.shown])
        several = set(found.layers["model"]) if len(found.layers) else set()
        return [summary(shown if several else found.quiver)]
    chosen = by_layer.chosen_sites(found.layers)
    wanted = lambda g: chosen.get((g.protocol, g.model), g.site) == g.site
    return [means(found.results, filter(wanted, found.groups))]


def _from_runs(
    found: Sequence[tuple[epath.Path, Run]], cache_dir: str | Path | None
) -> tuple[pd.DataFrame, Story]:
    for folder, run in found:
        check_finished(folder, run)
    runs = [run for _, run in found]
    first = runs[0]
    if not any(payload["fits"]["regime"] for run in runs for payload in run.payloads):
        raise FileNotFoundError(
            f"The {first.done} units in {found[0][0]} hold no fits, because their tasks have none "
            "of their regimes; run it with another of --regimes, in another --out."
        )
    families = {task: family for run in runs for task, family in run.families.items()}
    results = results_table((payload for run in runs for payload in run.payloads), families)
    twice = results.duplicated([*GROUP, *CELL, *ARROW]).to_numpy(bool) & (len(runs) > 1)
    results = results[~twice].reset_index(drop=True)
    facts: dict[str, list[str]] = {}
    for run in runs:
        for name, values in run.facts.items():
            facts[name] = list(dict.fromkeys([*facts.get(name, []), *values]))
    status = "; ".join(dict.fromkeys(run.status for run in runs))
    named = () if first.config.get("activations") else results["task"].unique().tolist()
    prompts = first_prompts(named, first.own, cache_dir)
    latents: dict[Any, dict[str, dict[str, Any]]] = {}
    for run in runs:
        for where, by_task in run.latents.items():
            for task, cards in by_task.items():
                latents.setdefault(where, {}).setdefault(task, {}).update(cards)
    left_out = [f"Left out: {why}" for run in runs for why in run.left_out]
    if twice.any():
        folders = ", ".join(str(folder) for folder, _ in found)
        left_out.append(
            f"{twice.sum():,} fits stand in several of {folders}; the first that has one is read."
        )
    return results, Story(status, facts, prompts, latents, left_out)


def report_published(
    out: epath.PathLike,
    folder: str | Path,
    model: str | None = None,
    ranking: str = "old",
    *,
    cache_dir: str | Path | None = None,
) -> str:
    """Writes the same about the study's own result files, see `published.read`.

    Args:
      out: folder for the tables and the report.
      folder: the study's files.
      model: the model to read; None reads all that there are.
      ranking: as for `published.read`.
      cache_dir: where the tasks' prompts may be.

    Raises:
      FileNotFoundError, ValueError: as for `published.read`; a damaged file costs a line.
      StorageError: the folder cannot be written.
    """
    left_out: list[str] = []
    names = [model] if model else published.models(folder) or [_STUDY]
    results = pd.concat(
        [
            published.read(folder, name, ranking, every_layer=True, left_out=left_out)
            for name in names
        ],
        ignore_index=True,
    )
    wrong = {name: partial(faults, folder, name, ranking) for name in names}
    known = [attempt(left_out, f"faults of {name}", make) for name, make in wrong.items()]
    known = [each for each in known if each is not None and len(each)]
    cola = None
    if (Path(folder) / "investigate").is_dir() and _STUDY in names:
        both = lambda: (case_studies.cola_probes(folder), case_studies.cola_disagreement(folder))
        cola = attempt(left_out, "GLUE CoLA", both)
    story = Story(
        "The study's published results",
        {
            "source": "result files of arXiv 2502.16681, github.com/JoshEngels/SAE-Probes",
            "model": names,
            "ranking of latents": f"{ranking} (old: raw mean difference; new: normalised)",
            "SAE": [sae_id for sae_id in results["sae_id"].unique() if sae_id],
        },
        first_prompts(results["task"].unique().tolist(), cache_dir=cache_dir),
        left_out=left_out,
        faults=pd.concat(known, ignore_index=True) if known else None,
        cola=cola,
    )
    return report(out, results, story=story)

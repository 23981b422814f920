"""A page of examples for each task, under `examples/`: what methods get wrong, what latents read.

Pages of their own, because a run of 113 tasks has megabytes of them and its report must open at
once.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from probejax import foreign, storage, tasks
from probejax.analysis import score_figures
from probejax.analysis.drawing import embedded, encoded, style
from probejax.analysis.examples import at_hand
from probejax.analysis.group import Group
from probejax.analysis.left_out import attempt
from probejax.analysis.page.examples import examples_page
from probejax.analysis.run import Run
from probejax.analysis.scored import TaskScores, read_scores

Links = dict[tuple[str, str, str, str], str]
"""Protocol, model, site and task -> address of its page of examples, beside the report."""


def write_examples(
    out: epath.Path,
    runs: Sequence[tuple[epath.Path, Run]],
    groups: Sequence[Group],
    left_out: list[str],
    cache_dir: str | Path | None = None,
) -> Links:
    """Writes a page for each task whose units keep test scores, and returns where they are.

    Args:
      out: folder of the report; the pages are in `examples/`.
      runs: each with its folder.
      groups: those whose tasks the report shows one by one.
      left_out: gets a sentence for what cannot be shown.
      cache_dir: where the study's tasks may be; nothing is downloaded.

    Raises:
      StorageError: the folder cannot be written.
    """
    links: Links = {}
    without: dict[str, list[str]] = {}
    for place, (folder, run, group, own) in enumerate(_parts(runs, groups)):
        key = (group.protocol, group.model, group.site)
        arrows = group.table.arrows[~group.table.arrows["is_control"]]
        names = zip(arrows["method"], arrows["sae_id"], arrows["label"], strict=True)
        labels = {(str(method), str(sae_id)): str(label) for method, sae_id, label in names}
        below = f"{foreign.file_name('_'.join(key[1:] + key[:1]))}/" if place else ""
        for found in read_scores(folder, own, labels, left_out):
            name = f"{below}{foreign.file_name(found.task)}"
            task, why = _task(found, run, cache_dir)
            if why:
                without.setdefault(why, []).append(found.task)

            def make(found=found, name=name, task=task, group=group) -> str:
                figure = _figure(out, f"examples/{name}", found)
                back = "../" * (1 + name.count("/")) + "report.html"
                page = examples_page(found, task, figure, group.name, back)
                storage.write_atomic(out / "examples" / f"{name}.html", page)
                return f"examples/{name}.html"

            address = attempt(left_out, f"examples of {found.task}", make)
            if address:
                links[*key, found.task] = address
    for why, names in without.items():
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        left_out.append(f"Left out: the texts of examples, of which rows alone are shown ({why}): "
                        f"{shown}.")  # fmt: skip
    return links


def _parts(
    runs: Sequence[tuple[epath.Path, Run]], groups: Sequence[Group]
) -> Iterator[tuple[epath.Path, Run, Group, Sequence[Mapping[str, Any]]]]:
    """Yields each run with each of the groups that it has units of, and these."""
    for (folder, run), group in itertools.product(runs, groups):
        key = (group.protocol, group.model, group.site)
        if own := [each for each in run.payloads if _key(each) == key]:
            yield folder, run, group, own


def _key(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    unit = payload["unit"]
    return unit["protocol"], unit["model"], unit["site"]


def _task(
    found: TaskScores, run: Run, cache_dir: str | Path | None
) -> tuple[tasks.Task | None, str]:
    """Returns the task whose rows were scored, or None and why its texts cannot be shown."""
    if run.config.get("activations"):
        return None, ""  # there never were any
    task = at_hand(found.task, run.own, cache_dir)
    if task is None:
        return None, "the task is not at hand"
    then = {str(each.unit.get("task_files") or "") for each in found.methods}
    try:
        same = then == {tasks.fingerprint(found.task, data=run.own)}
    except (ValueError, OSError):
        same = False
    rows = [found.rows, *(each.latents.rows.ravel() for each in found.methods if each.latents)]
    if not same or max(part.max(initial=0) for part in rows) >= len(task.prompts):
        return None, "its file has changed since the run"
    if (task.labels[found.rows] != found.labels).any():
        return None, "its file has changed since the run"
    return task, ""


def _figure(out: epath.Path, path: str, found: TaskScores) -> str:
    with style():
        picture = score_figures.scores(found)
    svg = encoded(picture, ("svg",))["svg"]
    storage.write_atomic(out / "figures" / f"{path}.svg", svg)
    return embedded(svg, picture, "f0")

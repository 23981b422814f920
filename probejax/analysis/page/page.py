"""The whole page: style, script and sections in one file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from probejax.analysis.examples import Example
from probejax.analysis.figures import Shown
from probejax.analysis.findings import Findings
from probejax.analysis.labels import title
from probejax.analysis.left_out import attempt
from probejax.analysis.page import sections
from probejax.analysis.page.architectures import architectures_block
from probejax.analysis.page.elements import document, esc
from probejax.analysis.page.layers import layers_block, site_screen
from probejax.analysis.page.multi_token import multi_token_block
from probejax.analysis.page.regime import gallery, section
from probejax.analysis.page.tasks import tasks_block
from probejax.analysis.page.verdict import first_screen
from probejax.analysis.run import Latent, Where
from probejax.analysis.ties import TIE_RULES
from probejax.analysis.verdict import STATED

WITH_TASKS = 3  # groups whose tasks are shown one by one; the rest are in results.csv


class Story(NamedTuple):
    """What the page tells beside the results.

    Attributes:
      status: how far the run is, in a sentence.
      facts: where the numbers come from.
      examples: prompts per task.
      latents: of each protocol, model and site, latents per task and SAE probe.
      left_out: a sentence for each task that could not run.
      faults: known faults of a published analysis, None for a run.
      cola: the study's probes on GLUE CoLA and how much of it the judges dispute, or None.
    """

    status: str = ""
    facts: Mapping[str, str | Sequence[str]] = {}
    examples: Mapping[str, Sequence[Example]] = {}
    latents: Mapping[Where, Mapping[str, Mapping[str, Sequence[Latent]]]] = {}
    left_out: Sequence[str] = ()
    faults: pd.DataFrame | None = None
    cola: tuple[pd.DataFrame, pd.Series] | None = None


def page(
    found: Findings,
    story: Story,
    pictures: Sequence[Shown] = (),
    left_out: list[str] | None = None,
    examples: Mapping[tuple[str, str, str, str], str] = {},
) -> str:
    """Returns the report as one HTML document that needs no network.

    Args:
        found: what the results say.
        story: what is told beside.
        pictures: the figures.
        left_out: what could not be made so far; gets a line for every part of the page that cannot.
        examples: protocol, model, site and task -> address of a page of examples.
    """
    left_out = [] if left_out is None else left_out
    shown = found.shown
    links: list[tuple[str, str]] = []
    parts = []
    for place, i in enumerate(shown):
        group, prefix = found.groups[i], "" if place == 0 else f"g{place}-"
        if place == 0:
            links += [(regime, title(regime)) for regime in group.regimes]
        body = "" if place == 0 else _other(found, i, place)
        body += sections.overview_block(_at(pictures, i, "overview")) if place == 0 else ""
        for regime in group.regimes:
            rows, here = found.methods[i, regime], _at(pictures, i, regime)
            heading = title(regime) if place == 0 else f"{title(regime)}, {group.name}"
            body += section(group, regime, prefix + regime, heading, rows, here, left_out)
        if place < WITH_TASKS:
            where = (group.protocol, group.model, group.site)
            own = {task: address for (*of, task), address in examples.items() if tuple(of) == where}
            told = (story.examples, story.latents.get(where, {}), own)
            make = partial(tasks_block, group, f"{prefix}tasks", *told)
            body += attempt(left_out, f"the tasks of {group.name}", make) or ""
        parts.append(f'<div class="group" id="group-{place}">{body}</div>')
    at = lambda name: gallery(_at(pictures, -1, name))
    blocks: dict[str, Callable[[], str]] = {
        "multi_token": lambda: multi_token_block(found.tokens, at("multi_token")),
        "architectures": lambda: architectures_block(found.studies, at("architectures")),
        "controls": lambda: sections.controls_block(found.controls),
        "protocols": lambda: sections.protocols_block(found.protocols),
        "fits": lambda: sections.unconverged_block(found.unconverged, found.results),
        "faults": lambda: sections.faults_block(story.faults),
        "cola": lambda: sections.cola_block(*(story.cola or (None, None))),
        "method": _method,
        "provenance": lambda: sections.provenance_block(story.facts),
    }
    beside = {
        name: attempt(left_out, f"section {name}", make) or "" for name, make in blocks.items()
    }
    head = found.groups[shown[0]]
    make = partial(layers_block, found, _at(pictures, -1, "layers"), head)
    sites = attempt(left_out, "section layers", make) or ""
    beside["left_out"] = sections.left_out_block(left_out)
    names = {"tasks": "Tasks", "multi_token": "All tokens", "architectures": "Architectures",
             "controls": "Controls", "protocols": "Paper or strict", "fits": "Fits",
             "faults": "Faults", "provenance": "Provenance", "left_out": "Left out"}  # fmt: skip
    there = {name for name, body in beside.items() if body}
    there |= {"tasks"} if head.compared_regimes else set()
    links = [("layers", "Which layer")] * bool(sites) + links
    links += [(key, name) for key, name in names.items() if key in there]
    others = list(enumerate(shown))[1:WITH_TASKS]
    links += [(f"group-{place}", found.groups[i].name) for place, i in others]
    status = f'<p class="status">{esc(story.status)}</p>' if story.status else ""
    alone = sites and not head.compared_regimes  # then nothing else was asked
    question = "Which layer?" if alone else "Do SAE probes help?"
    screen = site_screen(found, head) if alone else _screen(found, shown[0])
    header = (
        f'<header id="verdict"><p class="kicker">{question} · {esc(head.name)}</p>'
        f"{screen}{status}{_others(found, shown)}</header>"
    )
    main = f"{sites}{''.join(parts)}{''.join(beside.values())}"
    return document(f"{question} {head.name}", header, links, main)


def _at(pictures: Sequence[Shown], group: int, section: str) -> list[Shown]:
    return [each for each in pictures if (each.group, each.section) == (group, section)]


def _screen(found: Findings, i: int) -> str:
    methods = {regime: rows for (group, regime), rows in found.methods.items() if group == i}
    return first_screen(found.groups[i], found.verdicts[i], methods)


def _others(found: Findings, shown: Sequence[int]) -> str:
    """Returns the verdicts on every other group, each a link."""
    rows = [
        f'<li><a href="#group-{place}">{esc(found.groups[i].name)}</a>: '
        f"{esc(found.verdicts[i].answer)}</li>"
        for place, i in enumerate(shown)
        if place
    ]
    return f'<ul class="others">{"".join(rows)}</ul>' if rows else ""


def _other(found: Findings, i: int, place: int) -> str:
    screen = _screen(found, i).replace('href="#', f'href="#g{place}-')
    name = esc(found.groups[i].name)
    return f'<section class="other"><p class="kicker">{name}</p>{screen}</section>'


def _method() -> str:
    rules = "".join(
        f"<dt>{esc(name)}{' (shown)' if name == STATED else ''}</dt><dd>{esc(text)}</dd>"
        for name, text in TIE_RULES.items()
    )
    text = (
        "<p>In each cell (task, condition, seed) a practitioner picks the method with the best "
        "validation AUC, once among the baselines and once among baselines and SAE probes; the two "
        "picks are compared on test AUC. Only rows of the same task, condition, seed, protocol, "
        "model and site are compared.</p><p>Intervals are paired and drawn over tasks, with all "
        "levels and seeds of a task together. Tasks that share prompts (at least 20 % of the "
        "smaller one's) are a family; intervals by family draw families of tasks. Bands that hold "
        "at once are from the largest studentised deviation over the same draws; p-values are from "
        "random signs of the tasks' mean differences, corrected by Holm's method. The verdict "
        "calls a regime better or worse only if the band over all regimes excludes zero both "
        "under the stated rule for ties and with ties averaged, and that p-value is at most "
        "0.05.</p>"
    )
    return f'<section id="method"><h2>How to read this</h2>{text}<dl>{rules}</dl></section>'

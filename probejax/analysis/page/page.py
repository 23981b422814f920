"""The whole page: style, script and sections in one file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import NamedTuple

import pandas as pd

from probejax.analysis.architectures import Study
from probejax.analysis.examples import Example
from probejax.analysis.group import Group
from probejax.analysis.labels import title
from probejax.analysis.left_out import attempt
from probejax.analysis.multi_token import multi_token
from probejax.analysis.page import extras
from probejax.analysis.page.architectures import architectures_block
from probejax.analysis.page.axes import esc
from probejax.analysis.page.first import first
from probejax.analysis.page.multi_token import multi_token_block
from probejax.analysis.page.sections import section
from probejax.analysis.page.tasks import tasks_block
from probejax.analysis.run import Latent
from probejax.analysis.ties import TIE_RULES
from probejax.analysis.verdict import STATED, verdict

_WITH_TASKS = 3  # groups whose tasks are shown one by one; the rest are in results.csv


class Story(NamedTuple):
    """What the page tells beside the results.

    Attributes:
      status: how far the run is, in a sentence.
      facts: where the numbers come from.
      examples: prompts per task.
      latents: latents per task and SAE probe.
      left_out: a sentence for each task that could not run.
      faults: known faults of a published analysis, None for a run.
      cola: the study's probes on GLUE CoLA and how much of it the judges dispute, or None.
    """

    status: str = ""
    facts: Mapping[str, str | Sequence[str]] = {}
    examples: Mapping[str, Sequence[Example]] = {}
    latents: Mapping[str, Mapping[str, Sequence[Latent]]] = {}
    left_out: Sequence[str] = ()
    faults: pd.DataFrame | None = None
    cola: tuple[pd.DataFrame, pd.Series] | None = None


def page(
    results: pd.DataFrame,
    found: Sequence[Group],
    story: Story,
    studies: Sequence[Study] = (),
    left_out: list[str] | None = None,
) -> str:
    """Returns the report as one HTML document that needs no network.

    Args:
        results: the results table.
        found: its groups.
        story: what is told beside.
        studies: of SAE architectures.
        left_out: what could not be made so far; gets a line for every part of the page that cannot.
    """
    left_out = [] if left_out is None else left_out
    shown = [group for group in found if group.compared_regimes] or found[:1]
    head = shown[0]
    links, parts = [], []
    for i, group in enumerate(shown):
        prefix = "" if i == 0 else f"g{i}-"
        links += [(prefix + regime, title(regime)) for regime in group.regimes] if i == 0 else []
        body = "".join(
            section(group, regime, prefix + regime, left_out) for regime in group.regimes
        )
        if i < _WITH_TASKS:
            make = partial(tasks_block, group, f"{prefix}tasks", story.examples, story.latents)
            body += attempt(left_out, f"the tasks of {group.name}", make) or ""
        if i:
            body = _other(group, i) + body
        parts.append(f'<div class="group" id="group-{i}">{body}</div>')
    probes, disagreement = story.cola or (None, None)
    blocks: dict[str, Callable[[], str]] = {
        "multi_token": lambda: multi_token_block(multi_token(found)),
        "architectures": lambda: architectures_block(studies, left_out),
        "controls": lambda: extras.controls_block(results),
        "protocols": lambda: extras.protocols_block(results),
        "fits": lambda: extras.unconverged_block(results),
        "layers": lambda: extras.layers_block(results),
        "faults": lambda: extras.faults_block(story.faults),
        "cola": lambda: extras.cola_block(probes, disagreement),
        "method": _method,
        "provenance": lambda: extras.provenance_block(story.facts),
    }
    beside = {
        name: attempt(left_out, f"section {name}", make) or "" for name, make in blocks.items()
    }
    beside["left_out"] = extras.left_out_block(left_out)
    names = {"tasks": "Tasks", "multi_token": "All tokens", "architectures": "Architectures",
             "controls": "Controls", "protocols": "Paper or strict", "fits": "Fits",
             "faults": "Faults", "provenance": "Provenance", "left_out": "Left out"}  # fmt: skip
    there = {name for name, body in beside.items() if body}
    there |= {"tasks"} if head.compared_regimes else set()
    links += [(key, name) for key, name in names.items() if key in there]
    menu = "".join(f'<a href="#{esc(anchor)}">{esc(name)}</a>' for anchor, name in links)
    status = f'<p class="status">{esc(story.status)}</p>' if story.status else ""
    files = resources.files("probejax.analysis.page")
    style, script = (files.joinpath(name).read_text() for name in ("style.css", "script.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'  # else browsers ask a server for one
        f"<title>Do SAE probes help? {esc(head.name)}</title><style>{style}</style></head><body>"
        f'<header id="verdict"><p class="kicker">Do SAE probes help? · {esc(head.name)}</p>'
        f"{first(head, verdict(head.quiver))}{status}{_others(shown)}</header>"
        f"<nav>{menu}</nav><main>{''.join(parts)}{''.join(beside.values())}</main>"
        f'<div id="tip" role="status"></div><script>{script}</script></body></html>\n'
    )


def _others(shown: Sequence[Group]) -> str:
    """Returns the verdicts on every other group, each a link."""
    rows = [
        f'<li><a href="#group-{i}">{esc(group.name)}</a>: {esc(verdict(group.quiver).answer)}</li>'
        for i, group in enumerate(shown)
        if i
    ]
    return f'<ul class="others">{"".join(rows)}</ul>' if rows else ""


def _other(group: Group, number: int) -> str:
    found = verdict(group.quiver)
    screen = first(group, found).replace('href="#', f'href="#g{number}-')
    return f'<section class="other"><p class="kicker">{esc(group.name)}</p>{screen}</section>'


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
        "under the stated rule for ties and with ties averaged.</p>"
    )
    return f'<section id="method"><h2>How to read this</h2>{text}<dl>{rules}</dl></section>'

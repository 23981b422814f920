"""One folded section per task: prompts, learning curves, what each method reached, latents."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from probejax.analysis.drawing import ENDS
from probejax.analysis.examples import Example
from probejax.analysis.group import Group
from probejax.analysis.labels import level_text, number, one_name, signed, tasks_in_order, title
from probejax.analysis.page.elements import block, esc, link
from probejax.analysis.page.tables import Cell, change, figure, table
from probejax.analysis.run import Latent
from probejax.tasks import ALL_REGIMES

_WORDS = {name: regime.short or name for name, regime in ALL_REGIMES.items()}
_METHODS = 12  # rows of a task's table of methods


def tasks_block(
    group: Group,
    anchor: str,
    examples: Mapping[str, Sequence[Example]],
    latents: Mapping[str, Mapping[str, Sequence[Latent]]],
    pages: Mapping[str, str],
) -> str:
    """Returns the tasks of a group, each folded, with a field to find one.

    Args:
        group: what is shown.
        anchor: of the section.
        examples: prompts per task.
        latents: latents per task and SAE probe.
        pages: address of the page of examples per task.
    """
    cells = group.cells[group.cells["delta"].notna()]
    if cells.empty:
        links = [f"<li>{_page(pages[task], task)}</li>" for task in tasks_in_order(pages)]
        return block(anchor, "Task by task", f"<ul>{''.join(links)}</ul>") if links else ""
    spots, standard = _spots(cells), _standard(group)
    name = anchor.removesuffix("s")
    parts = [
        _task(name, task, spots[task], standard.get(task, ()), examples.get(task, ()),
              latents.get(task, {}), pages.get(task, ""))
        for task in tasks_in_order(spots)
    ]  # fmt: skip
    field = '<label class="search">Find a task <input type="search" autocomplete="off"></label>'
    return (
        f'<section id="{esc(anchor)}" class="tasks"><h2>Task by task</h2>{field}'
        f"{''.join(parts)}</section>"
    )


class _Spot(NamedTuple):
    """A task at one level: means over seeds."""

    level: float
    baseline: float
    with_sae: float
    chosen: str
    group: str  # that is held out, if one is and has a name


def _spots(cells: pd.DataFrame) -> dict[str, dict[str, list[_Spot]]]:
    """Returns the spots per task and regime, levels in order; one without a level stands alone."""
    groups = cells.groupby(["task", "regime", "level"], sort=True, dropna=False)
    means = (
        groups[["baseline", "with_sae"]].mean().assign(chosen=groups["chosen_label"].agg(one_name))
    )
    means["group"] = groups["group"].first().fillna("") if "group" in cells else ""
    found: dict[str, dict[str, list[_Spot]]] = {}
    for (task, regime, level), *values in means.itertuples():
        found.setdefault(task, {}).setdefault(regime, []).append(_Spot(level, *values))
    return found


def _standard(group: Group) -> dict[str, list[tuple[str, float, float]]]:
    """Returns per task (label, test AUC, validation AUC) under standard conditions, best first."""
    here = group.table.in_regime("standard")
    tasks = group.table.cells["task"].to_numpy(dtype=str)[here]
    labels = group.table.arrows["label"].tolist()
    found = {}
    for task in np.unique(tasks):
        rows = tasks == task
        test, val = (
            _means(group.table.values[name][here][rows]) for name in ("test_auc", "val_auc")
        )
        order = [i for i in np.argsort(-test, kind="stable") if np.isfinite(test[i])]
        found[str(task)] = [(labels[i], float(test[i]), float(val[i])) for i in order]
    return found


def _means(values: np.ndarray) -> np.ndarray:
    counts = np.isfinite(values).sum(axis=0)
    sums = np.nansum(values, axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _task(
    name: str,
    task: str,
    spots: Mapping[str, Sequence[_Spot]],
    standard: Sequence[tuple[str, float, float]],
    examples: Sequence[Example],
    latents: Mapping[str, Sequence[Latent]],
    address: str,
) -> str:
    chips = []
    for regime in sorted(spots, key=_place):
        base = float(np.mean([spot.baseline for spot in spots[regime]]))
        sae = float(np.mean([spot.with_sae for spot in spots[regime]]))
        text = f"{title(regime)}: {number(base)} → {number(sae)}"
        chips.append(
            f'<span class="chip {_shade(sae - base)}" data-t="{esc(text)}">'
            f"{esc(_WORDS.get(regime, regime))} {signed(sae - base, 3)}</span>"
        )
    more = "Scores by class, the prompts that each method gets most wrong, latents"
    body = [f"<p>{_page(address, more)}</p>" if address else ""]
    body += [_prompts(examples), _levels(spots)]
    if standard:
        body.append(_reached(standard))
    names = {example.label: example.name for example in examples}
    body += [_latents(method, cards, names) for method, cards in sorted(latents.items())]
    return (
        f'<details class="task" id="{esc(f"{name}-{task}")}"><summary><b>{esc(task)}</b> '
        f"{''.join(chips)}</summary>{''.join(body)}</details>"
    )


def _place(regime: str) -> int:
    known = list(_WORDS)
    return known.index(regime) if regime in known else len(known)


def _shade(change: float) -> str:
    """Returns the class of a change in the colours of the heat maps: `p3`, `n1`, `z` for none."""
    step = int(np.searchsorted(ENDS, abs(change), side="left"))
    return ("p" if change > 0 else "n") + str(step) if step else "z"


def _page(address: str, text: str) -> str:
    return f'<a href="{esc(address)}">{esc(text)}</a>'


def _levels(spots: Mapping[str, Sequence[_Spot]]) -> str:
    """Returns what was chosen at every level of the regimes that have several."""
    rows = [
        [
            title(regime),
            Cell(spot.group or level_text(regime, spot.level), spot.level, "num"),
            figure(spot.baseline),
            figure(spot.with_sae),
            change(spot.with_sae - spot.baseline),
            spot.chosen,
        ]
        for regime in sorted(spots, key=_place)
        if len(spots[regime]) > 1
        for spot in spots[regime]
    ]
    if not rows:
        return ""
    body = table(["regime", "level", "baselines", "with SAEs", "change", "chosen"], rows)
    return f"<details><summary>Level by level</summary>{body}</details>"


def _prompts(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    items = "".join(
        f'<li><i class="label">{esc(example.name)}</i> {esc(example.prompt)}</li>'
        for example in examples
    )
    return f'<ul class="prompts">{items}</ul>'


def _reached(rows: Sequence[tuple[str, float, float]]) -> str:
    body = [[label, figure(test), figure(val)] for label, test, val in rows[:_METHODS]]
    return table(["standard conditions", "test AUC", "validation AUC"], body, plain=True)


def _latents(method: str, cards: Sequence[Latent], names: Mapping[int, str]) -> str:
    body = []
    for card in cards:
        means = [figure(card.mean_0, 3), figure(card.mean_1, 3)]
        body.append(
            [
                Cell(str(card.index), card.index, html=link(card.index, card.link)),
                *means,
                change(card.mean_1 - card.mean_0, 3),
            ]
        )
    means = [f"mean, class {names.get(label, label)}" for label in (0, 1)]
    headings = [f"latent of {method}", *means, "difference"]
    return table(headings, body, plain=True)

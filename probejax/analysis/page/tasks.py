"""One folded section per task: prompts, learning curves, what each method reached, latents."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from probejax.analysis.examples import Example
from probejax.analysis.labels import AXES, level_text, number, signed, title
from probejax.analysis.page import charts
from probejax.analysis.page.axes import esc
from probejax.analysis.page.charts import Series
from probejax.analysis.page.group import Group
from probejax.analysis.page.tables import Cell, change, figure, table
from probejax.analysis.run import Latent

_METHODS = 12  # rows of a task's table of methods


def tasks_block(
    group: Group,
    anchor: str,
    examples: Mapping[str, Sequence[Example]],
    latents: Mapping[str, Mapping[str, Sequence[Latent]]],
) -> str:
    """Returns the tasks of a group, each folded, with a field to find one."""
    cells = group.cells[group.cells["delta"].notna()]
    if cells.empty:
        return ""
    by_task = {str(task): part for task, part in cells.groupby("task")}
    standard = _standard(group)
    parts = [
        _task(task, part, standard.get(task), examples.get(task, ()), latents.get(task, {}))
        for task, part in sorted(by_task.items(), key=lambda item: _number(item[0]))
    ]
    field = '<label class="search">Find a task <input type="search" autocomplete="off"></label>'
    return (
        f'<section id="{esc(anchor)}" class="tasks"><h2>Task by task</h2>{field}'
        f"{''.join(parts)}</section>"
    )


def _number(task: str) -> tuple[int, str]:
    head = task.partition("_")[0]
    return (int(head) if head.isdigit() else 10**9, task)


def _standard(group: Group) -> dict[str, pd.DataFrame]:
    """Returns per task the mean AUCs of every arrow under standard conditions."""
    here = group.table.in_regime("standard")
    if not here.any():
        return {}
    tasks = group.table.cells["task"].to_numpy(dtype=str)[here]
    auc, val = (group.table.values[name][here] for name in ("test_auc", "val_auc"))
    arrows = group.table.arrows
    found = {}
    for task in np.unique(tasks):
        rows = tasks == task
        known = np.isfinite(auc[rows]).any(axis=0)
        found[str(task)] = arrows[known].assign(
            test_auc=np.nanmean(auc[rows][:, known], axis=0), val_auc=_means(val[rows][:, known])
        )
    return found


def _means(values: np.ndarray) -> np.ndarray:
    counts = np.isfinite(values).sum(axis=0)
    sums = np.nansum(values, axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _task(
    task: str,
    cells: pd.DataFrame,
    standard: pd.DataFrame | None,
    examples: Sequence[Example],
    latents: Mapping[str, Sequence[Latent]],
) -> str:
    chips, curves = [], []
    for regime in sorted(cells["regime"].unique(), key=_place):
        part = cells[cells["regime"] == regime]
        delta = part["delta"].mean()
        means = part[["baseline", "with_sae"]].mean()
        text = f"{title(regime)}: {number(means['baseline'])} → {number(means['with_sae'])}"
        chips.append(
            f'<span class="chip {charts.shade(delta)}" data-t="{esc(text)}">'
            f"{esc(title(regime).split()[-1].lower() if regime != 'standard' else 'standard')} "
            f"{signed(delta, 3)}</span>"
        )
        curves.append(_curve(part, regime))
    body = [_prompts(examples), f'<div class="grid">{"".join(curves)}</div>']
    if standard is not None and len(standard):
        body.append(_reached(standard))
    body += [_latents(method, cards) for method, cards in sorted(latents.items())]
    return (
        f'<details class="task" id="task-{esc(task)}"><summary><b>{esc(task)}</b> '
        f"{''.join(chips)}</summary>{''.join(body)}</details>"
    )


def _place(regime: str) -> int:
    known = list(AXES)
    return known.index(regime) + 1 if regime in known else 0 if regime == "standard" else 9


def _curve(part: pd.DataFrame, regime: str) -> str:
    means = part[part["level"].notna()].groupby("level")[["baseline", "with_sae"]].mean()
    if len(means) < 2:
        return ""
    names = part.groupby("level")["chosen_label"].first()
    x = means.index.tolist()
    values = zip(x, means["baseline"], means["with_sae"], names, strict=True)
    tips = [
        f"{level_text(regime, level)}: {number(base, 3)} → {number(sae, 3)}\nchosen: {name}"
        for level, base, sae, name in values
    ]
    body = charts.lines(
        [
            Series("baselines", "base", x, means["baseline"].tolist()),
            Series("with SAEs", "accent", x, means["with_sae"].tolist(), tips),
        ],
        AXES.get(regime, "level"),
        "test AUC",
        f"Test AUC against {AXES.get(regime, 'level')}",
        log=regime == "scarcity",
        x_text=lambda level: level_text(regime, level),
        height=220,
    )
    return f"<figure><figcaption>{esc(title(regime))}</figcaption>{body}</figure>"


def _prompts(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    items = "".join(
        f'<li><i class="label">{example.label}</i> {esc(example.prompt)}</li>'
        for example in examples
    )
    return f'<ul class="prompts">{items}</ul>'


def _reached(rows: pd.DataFrame) -> str:
    rows = rows.sort_values("test_auc", ascending=False, kind="stable")
    body = [
        [row["label"], figure(row["test_auc"]), figure(row["val_auc"])]
        for _, row in rows.head(_METHODS).iterrows()
    ]
    headings = ["standard conditions", "test AUC", "validation AUC"]
    return table(headings, body, plain=True)


def _latents(method: str, cards: Sequence[Latent]) -> str:
    body = []
    for card in cards:
        link = card.link if card.link and card.link.startswith("https://") else None
        name = f'<a href="{esc(link)}" rel="noopener">{card.index}</a>' if link else str(card.index)
        means = [figure(card.mean_0, 3), figure(card.mean_1, 3)]
        body.append(
            [
                Cell(str(card.index), card.index, html=name),
                *means,
                change(card.mean_1 - card.mean_0, 3),
            ]
        )
    headings = [f"latent of {method}", "mean, class 0", "mean, class 1", "difference"]
    return table(headings, body, plain=True)

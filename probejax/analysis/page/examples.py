"""The page of a task's examples: scores by class, prompts that methods get wrong, latents."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from probejax import positions
from probejax.analysis.examples import last_token, shorten
from probejax.analysis.labels import Value, percent
from probejax.analysis.page.elements import block, document, esc, link
from probejax.analysis.page.tables import Cell, change, count, table
from probejax.analysis.scored import Scored, TaskScores
from probejax.probes.methods import parse_any
from probejax.tasks import Task

_EACH = 5  # prompts of a method
_SHARED = 8  # that several methods get wrong


def examples_page(found: TaskScores, task: Task | None, chart: str, group: str, back: str) -> str:
    """Returns the page as one HTML document that needs no network.

    Args:
      found: the scores.
      task: whose rows were scored; None shows their numbers alone.
      chart: the figure of the scores, as an element.
      group: what the run is called.
      back: address of the report.
    """
    wrong, beyond = found.wrong(), found.beyond()
    times = wrong.sum(axis=0)
    header = (
        f'<header><p class="kicker"><a href="{esc(back)}">Report</a> · Examples · {esc(group)}</p>'
        f'<p class="answer">{esc(_answer(found, times))}</p>'
        f'<p class="numbers">{esc(_about(found, task))}</p></header>'
    )
    sections = {
        "scores": ("Scores by class", _scores(chart)),
        "shared": ("Wrong by several methods", _shared(found, task, times, beyond)),
        "wrong": ("Most wrong, method by method", _by_method(found, task, wrong, beyond, times)),
        "latents": ("Latents of a probe", _latents(found, task)),
    }
    parts = "".join(block(name, title, body) for name, (title, body) in sections.items())
    links = [(name, title) for name, (title, body) in sections.items() if body]
    return document(f"{found.task}: examples", header, links, parts)


def _answer(found: TaskScores, times: Int[np.ndarray, " m"]) -> str:
    all_of = int((times == len(found.methods)).sum())
    best = found.methods[0]
    errors = int(found.wrong()[0].sum())
    text = f"{found.task}: {best.label} gets {errors:,} of {len(found.rows):,} test prompts wrong"
    if len(found.methods) == 1:
        return f"{text}."
    verb = "is" if all_of == 1 else "are"
    every = "both" if len(found.methods) == 2 else f"all {len(found.methods)}"
    return f"{text}; {all_of:,} {verb} wrong by {every} methods."


def _about(found: TaskScores, task: Task | None) -> str:
    ones = int(found.labels.sum())
    where = "Rows are numbered from 0 in the task's file." if task else (
        "Prompts stand by the number of their row, from 0: their texts are not at hand."
    )  # fmt: skip
    return " ".join(
        [
            f"Standard conditions, seed {found.seed}: {len(found.rows) - ones:,} test prompts of "
            f"class {found.classes[0]!r} (label 0) and {ones:,} of {found.classes[1]!r} (label 1).",
            where,
            *found.notes,
        ]
    )


def _scores(chart: str) -> str:
    text = (
        "<p>Each row is a method with a scale of its own: logits of class 1 above its line, of "
        "class 0 below, the root of their number as height; the dashed line is the logit 0, where "
        "a method decides, and the outermost 2 % are at the ends.</p>"
    )
    return f'{text}<div class="grid"><figure>{chart}</figure></div>'


def _prompt(task: Task | None, row: Value) -> Cell:
    text = f"row {row}" if task is None else shorten(task.prompts[row])
    return Cell(text, style="prompt")


def _class(found: TaskScores, label: Value) -> str:
    return shorten(found.classes[label])


def _shared(found, task, times, beyond) -> str:
    """Returns the prompts that most methods get wrong."""
    if len(found.methods) < 2:
        return ""
    mean = np.nan_to_num(beyond).mean(axis=0)
    order = [i for i in np.lexsort((-mean, -times)).tolist() if times[i] > 1]
    lines = [
        [
            count(found.rows[i]),
            _class(found, found.labels[i]),
            count(times[i]),
            Cell(percent(mean[i]), mean[i], "num"),
            _prompt(task, found.rows[i]),
        ]
        for i in _different(order, found, task)[:_SHARED]
    ]
    if not lines:
        return "<p>No prompt is wrong by two methods.</p>"
    text = (
        f"<p>Of {len(found.methods)} methods so many get the prompt wrong. Beyond: the share of "
        "the other class's test prompts that the score lies beyond, the mean over methods; a label "
        "may be wrong where it is near 100 %.</p>"
    )
    headings = ["row", "class", "wrong by", "beyond", "prompt"]
    return text + table(headings, lines, plain=True)


def _by_method(found, task, wrong, beyond, times) -> str:
    parts = []
    for each, is_wrong, margin, far in zip(
        found.methods, wrong, found.margins(), beyond, strict=True
    ):
        errors = int(is_wrong.sum())
        order = [i for i in np.argsort(margin, kind="stable").tolist() if is_wrong[i]]
        lines = [
            [
                count(found.rows[i]),
                _class(found, found.labels[i]),
                Cell(_short(each.logits[i]), float(each.logits[i]), "num"),
                Cell(percent(far[i]), far[i], "num"),
                count(times[i] - 1),
                _prompt(task, found.rows[i]),
            ]
            for i in _different(order, found, task)[:_EACH]
        ]
        share = f"{100 * errors / len(found.rows):.1f} %"
        unscored = int((~np.isfinite(each.logits)).sum())
        more = f", {unscored:,} have no finite score" if unscored else ""
        head = f"{each.label}: {errors:,} wrong ({share}), AUC {each.auc:.4f}{more}"
        headings = ["row", "class", "logit", "beyond", "others wrong", "prompt"]
        body = table(headings, lines, plain=True) if lines else "<p>None is wrong.</p>"
        parts.append(f"<h3>{esc(head)}</h3>{body}")
    return "".join(parts)


def _short(value: Value) -> str:
    """Returns a number of any size with its sign, to three digits."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _different(order: Sequence[int], found: TaskScores, task: Task | None) -> list[int]:
    """Returns places in their order, those of equal prompts once."""
    if task is None:
        return list(order)
    kept: dict[str, int] = {}
    for i in order:
        kept.setdefault(task.prompts[int(found.rows[i])], i)
        if len(kept) > _SHARED:
            break
    return list(kept.values())


def _latents(found: TaskScores, task: Task | None) -> str:
    """Returns the latents of the probe that reads fewest, of several the best."""
    probes = [each for each in found.methods if each.latents is not None]
    if not probes:
        return ""
    best = min(probes, key=lambda each: each.unit["k"] or 0)
    latents, mark = best.latents, _marks(best)
    assert latents is not None, "it is one on latents"
    lines = []
    for latent, weight, rows, values in zip(*latents, strict=True):
        card = best.cards.get(int(latent), {})
        low, high = card.get("mean") or (None, None)
        shift = np.nan if low is None or high is None else float(weight) * (high - low)
        prompts = "".join(
            f"<li>{_firing(found, task, int(row), float(value), mark)}</li>"
            for row, value in zip(rows, values, strict=True)
            if row >= 0
        )
        lines.append(
            [
                Cell(str(latent), int(latent), "num", link(int(latent), card.get("link"))),
                Cell(_short(weight), float(weight), "num"),
                change(shift, 2),
                Cell("", html=f'<ul class="prompts">{prompts}</ul>'),
            ]
        )
    k, shown = best.unit["k"] or 0, len(latents.numbers)
    which = f"all {k}" if shown == k else f"the {shown} of {k} with the largest weights"
    text = (
        f"<p>{esc(best.label)}, the probe that reads fewest latents: {which}. Weight: of the "
        "logit per unit of activation, for label 1 where it is positive. Moves: the weight times "
        "the difference of the classes' mean activations on training prompts. Beside them the "
        "prompts of the task on which the latent is largest, each with its activation and class. "
        f"{esc(_marking(best))}</p>"
    )
    headings = ["latent", "weight", "moves", "fires most on"]
    return text + table(headings, lines, plain=True)


def _firing(found: TaskScores, task: Task | None, row: int, value: float, mark) -> str:
    if task is None:
        return f"<b>{value:.1f}</b> row {row}"
    before, token, after = mark(task.prompts[row])
    label = f'<i class="label">{esc(_class(found, task.labels[row]))}</i>'
    token = f"<mark>{esc(token.replace(chr(10), '↵'))}</mark>" if token else ""
    return f"<b>{value:.1f}</b> {label}{esc(before)}{token}{esc(after)}"


def _marks(best: Scored):
    """Returns what tells the token that a probe reads from the rest of a prompt."""
    after = positions.marker(str(best.unit.get("position") or ""))
    if not _reads_the_end(best) and after is None:
        return lambda text: (shorten(text), "", "")
    if after is None:
        return lambda text: (*last_token(text), "")

    def around(text: str) -> tuple[str, str, str]:
        place = text.rfind(after)
        if place < 0:  # it stands in the chat template
            return shorten(text), "", ""
        end = place + len(after)
        space = " " if text[end : end + 1].isspace() else ""
        return (*last_token(text[:end]), space + shorten(text[end:]))

    return around


def _reads_the_end(best: Scored) -> bool:
    unit = best.unit
    pooled = parse_any(str(unit["method"])).pooling
    return not pooled and not unit.get("chat") and not unit.get("position")


def _marking(best: Scored) -> str:
    if positions.marker(str(best.unit.get("position") or "")) or _reads_the_end(best):
        return "The word or mark is marked that ends with the token that is read."
    if parse_any(str(best.unit["method"])).pooling:
        return "They are pooled over all tokens, so that none is marked."
    where = "the end of the chat template" if best.unit.get("chat") else best.unit["position"]
    return f"They are read at {where}, which is not marked."

"""What a run's methods say of the test rows of a task: read from its folder, and what is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from probejax import foreign, metrics, storage
from probejax.stored_scores import Latents, ScoredRows

_METHODS = 12  # of a task, the best


class Scored(NamedTuple):
    """A method's scores.

    Attributes:
      label: what the method is called.
      auc: on these rows.
      logits: [m] of them; above 0 predicts label 1.
      unit: the facts of its unit.
      latents: that it weighs, if it reads latents.
      cards: what the unit says of its latents, by their number in the SAE.
    """

    label: str
    auc: float
    logits: Float[np.ndarray, " m"]
    unit: Mapping[str, Any]
    latents: Latents | None = None
    cards: Mapping[int, Mapping[str, Any]] = {}


class TaskScores(NamedTuple):
    """The test rows of a task under standard conditions and what its methods say of them.

    Attributes:
      task: its name.
      seed: of the draw, the first of the run.
      classes: what labels 0 and 1 are called.
      rows: [m] row numbers of the task, from 0.
      labels: [m] 0 or 1.
      methods: the best first.
      notes: what is not shown, a sentence each.
    """

    task: str
    seed: int
    classes: tuple[str, str]
    rows: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    methods: list[Scored]
    notes: list[str]

    def wrong(self) -> Bool[np.ndarray, "M m"]:
        """Tells which rows each method gets wrong; one without a finite score is not."""
        logits = np.stack([each.logits for each in self.methods])
        return ((logits > 0) != (self.labels == 1)) & np.isfinite(logits)

    def margins(self) -> Float[np.ndarray, "M m"]:
        """Returns the logits, negative where they speak against the label."""
        return np.stack([each.logits for each in self.methods]) * (2.0 * self.labels - 1)

    def beyond(self) -> Float[np.ndarray, "M m"]:
        """Returns for each row the share of the other class that its score puts it beyond.

        Of a row of class 0 it is the share of class 1 with a lower logit, and the reverse; half of
        those with the same one count. Its mean is 1 minus the AUC.
        """
        return np.stack([_beyond(each.logits, self.labels) for each in self.methods])


def _beyond(logits: Float[np.ndarray, " m"], y: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    found = np.zeros(len(y))
    for label in (0, 1):
        mine, other = logits[y == label], np.sort(logits[y != label])
        ends = [np.searchsorted(other, mine, side) for side in ("left", "right")]
        below = (ends[0] + ends[1]) / 2 / max(len(other), 1)
        found[y == label] = 1 - below if label else below
    return found


def read_scores(
    out: Any,
    payloads: Sequence[Mapping[str, Any]],
    labels: Mapping[tuple[str, str], str],
    left_out: list[str],
) -> Iterator[TaskScores]:
    """Yields the scores of each task of a run, as far as its units keep some.

    Args:
      out: the run's folder.
      payloads: of its finished units.
      labels: what each (method, SAE id) is called; others are not shown.
      left_out: gets a sentence on the units without scores.
    """
    store = storage.Store(out)
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for payload in payloads:
        shown = (payload["unit"]["method"], payload["unit"]["sae_id"]) in labels
        if shown and "standard" in payload["fits"]["regime"]:
            by_task.setdefault(payload["unit"]["task"], []).append(payload)
    missing = 0
    for task, own in by_task.items():
        found, lines = [], []
        for payload in own:
            try:
                scores = store.read_scores(storage.unit_id(payload["unit"]))
            except (OSError, foreign.DamagedFile) as error:
                lines.append(f"Left out: scores ({foreign.reason(error)}).")
                continue
            missing += scores is None
            if scores is not None and scores.draws and len(scores.draws[0].rows):
                found.append((payload, scores.classes, scores.draws[0]))
        left_out += lines
        if found:
            yield _of_task(task, found, labels)
    if missing:
        total = sum(map(len, by_task.values()))
        left_out.append(
            f"Left out: examples of {missing} of {total} units, which are from before units kept "
            "their test scores, or lie without scores/."
        )


def _of_task(
    task: str,
    found: list[tuple[Mapping[str, Any], tuple[str, str], ScoredRows]],
    labels: Mapping[tuple[str, str], str],
) -> TaskScores:
    _, classes, first = found[0]
    methods, notes = [], []
    for payload, _, draw in found:
        unit = payload["unit"]
        label = labels[unit["method"], unit["sae_id"]]
        if not (
            np.array_equal(draw.rows, first.rows) and np.array_equal(draw.labels, first.labels)
        ):
            notes.append(f"{label} was tested on other rows, and is left out.")
            continue
        auc = float(metrics.host_aucs(draw.logits[:, None], draw.labels[:, None])[0, 0])
        methods.append(
            Scored(label, auc, draw.logits, unit, draw.latents, _cards(payload, draw.seed))
        )
    methods.sort(key=lambda each: (-np.nan_to_num(each.auc, nan=-1), each.label))
    if rest := [each.label for each in methods[_METHODS:]]:
        notes.append(f"Left out are {len(rest)} methods with a lower AUC: {', '.join(rest)}.")
    return TaskScores(
        task, first.seed, classes, first.rows, first.labels, methods[:_METHODS], notes
    )


def _cards(payload: Mapping[str, Any], seed: int) -> dict[int, Mapping[str, Any]]:
    """Returns what a unit says of the latents under its standard condition with this seed."""
    fits = payload["fits"]
    told: list[list[Mapping[str, Any]] | None] = payload.get("latents") or []
    known = zip(fits["regime"], fits["seed"], told, strict=False)
    for regime, its_seed, cards in known:
        if (regime, its_seed) == ("standard", seed) and cards:
            return {card["index"]: card for card in cards}
    return {}

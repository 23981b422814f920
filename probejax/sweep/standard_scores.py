"""What a unit keeps of its test rows under standard conditions, see `stored_scores`."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from probejax import probes
from probejax.probes.families import OnLatents
from probejax.stored_scores import Latents, ScoredRows, StoredScores
from probejax.sweep.data import Lanes, TaskData

_LATENTS = 16  # of a probe
_PROMPTS = 4  # on which a latent is largest


def kept(
    data: TaskData,
    lanes: Lanes,
    fitted: Sequence[tuple[tuple[int, ...], probes.Fit]],
    chosen: Callable[[int], probes.sae.Selection] | None = None,
) -> StoredScores | None:
    """Returns the test scores of a unit; None without standard conditions.

    Args:
      data: the task.
      lanes: its conditions.
      fitted: for every batch of lanes, which conditions they are and what was fitted.
      chosen: given a batch, returns the latents that its lanes may use; None without an SAE.
    """
    draws = []
    for batch, (which, found) in enumerate(fitted):
        for lane, index in enumerate(which):
            condition = lanes.conditions[index]
            if condition.regime != "standard" or not len(condition.test):
                continue
            assert found.test_logits is not None, "a method scores the rows of a batch"
            order = np.argsort(condition.test)
            rows = data.rows[condition.test[order]]
            logits = found.test_logits[lane][order]
            draw = ScoredRows(condition.seed, rows, condition.y_test[order], logits)
            if chosen is not None and isinstance(found.probe, OnLatents):
                own = lanes.batches[batch][0].index(int(lanes.fit_of[index]))
                w, selection = np.asarray(found.probe.w)[lane], chosen(batch)
                draw = draw._replace(latents=_latents(data, selection, own, w))
            draws.append(draw)
    if not draws:
        return None
    draws.sort(key=lambda draw: draw.seed)
    return StoredScores(data.task.class_names, tuple(draws))


def _latents(
    data: TaskData, chosen: probes.sae.Selection, lane: int, weights: Float[np.ndarray, " k"]
) -> Latents:
    """Returns the latents of one probe with the largest weights, and where they fire most."""
    first = np.argsort(-np.abs(weights), kind="stable")[:_LATENTS]
    columns = chosen.columns[lane][: len(weights)][first]
    values = np.asarray(chosen.values[: len(data.rows), columns])
    places = np.full((len(first), _PROMPTS), -1)
    for j, z in enumerate(values.T):
        found = _largest(z, data.task.prompts)
        places[j, : len(found)] = found
    there = places >= 0
    rows = np.where(there, data.rows[places], -1)
    largest = np.where(there, values[places, np.arange(len(first))[:, None]], 0)
    return Latents(chosen.latents[lane][first], weights[first], rows, largest)


def _largest(z: Float[np.ndarray, " n"], prompts: Sequence[str]) -> Int[np.ndarray, " t"]:
    """Returns the rows of different prompts on which a latent is largest, and fires at all."""
    found: dict[str, int] = {}
    for row in map(int, np.argsort(-z, kind="stable")):
        if len(found) == _PROMPTS or z[row] <= 0:
            break
        found.setdefault(prompts[row], row)
    return np.array(list(found.values()), int)

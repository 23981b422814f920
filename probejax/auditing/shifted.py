"""A shifted set beside a dataset: prompts of another kind with the same labels."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax import inputs, tasks
from probejax.activations.ragged import Activations
from probejax.auditing import units
from probejax.auditing.dataset import Dataset
from probejax.tasks import Task

REGIME = "covariate_shift"


class Shifted(NamedTuple):
    """A shifted set, s rows.

    Attributes:
      x: [s, d] one row of activations per prompt, float32.
      y: [s] labels, 0 or 1, as those of the dataset.
      texts: the prompts; None where they are not known.
    """

    x: Float[np.ndarray, "s d"]
    y: Int[np.ndarray, " s"]
    texts: tuple[str, ...] | None = None


class Split(NamedTuple):
    """Which rows are trained on and which tested, as in a run's regime `covariate_shift`.

    Attributes:
      train: [n] rows of the dataset.
      test: [t] rows of the shifted set.
    """

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " t"]


def shifted_set(data: Dataset, x: Any, y: Any, texts: Iterable[Any] | None = None) -> Shifted:
    """Returns a shifted set of arrays, once they fit each other and the dataset.

    Args:
      data: the dataset.
      x: [s, d] activations of the same model and site.
      y: [s] labels of the same two values.
      texts: s prompts.

    Raises:
      ValueError: they do not fit.
    """
    features, labels, values = inputs.labelled(x.last() if isinstance(x, Activations) else x, y)
    if features.shape[1] != data.x.shape[1]:
        raise ValueError(
            f"the shifted x is {features.shape[1]} wide and x is {data.x.shape[1]}; expected one "
            "width"
        )
    if (classes := tuple(map(str, values))) != data.classes:
        raise ValueError(
            f"the shifted labels are {classes[0]!r} and {classes[1]!r}, and y has "
            f"{data.classes[0]!r} and {data.classes[1]!r}; expected the same two"
        )
    own = None if texts is None else inputs.texts(texts, len(labels), "shifted texts")
    return Shifted(features, labels, own)


def split(data: Dataset, shifted: Shifted, seed: int) -> Split:
    """Draws the rows of `draw` from arrays; prompts are told apart as in `units`."""
    known = data.texts is not None and shifted.texts is not None
    texts = (*(data.texts or ()), *(shifted.texts or ())) if known else None
    same = units.of(np.concatenate([data.x, shifted.x]), texts)
    names = tuple(map(str, same.tolist()))
    n = len(data.y)
    make = lambda prompts, y: Task(data.name, prompts, y, False, class_names=data.classes)
    return draw(make(names[:n], data.y), make(names[n:], shifted.y), seed)


def draw(task: Task, shifted: Task, seed: int) -> Split:
    """Draws up to 1,024 different prompts to train on, and shifted ones that are not among them.

    Args:
      task: the dataset; one of the study's is drawn as the study has it.
      shifted: its shifted set.
      seed: of the draw.

    Raises:
      ValueError: there are too few of a class.
    """
    drawn = tasks.draw(task, shifted, (REGIME,), (seed,), "strict")
    if not drawn.conditions:
        raise ValueError("; ".join(drawn.left_out.values()))
    (condition,) = drawn.conditions
    prompts = [prompt for each in drawn.sets for prompt in each.prompts]
    first = {prompt: row for row, prompt in reversed(list(enumerate(task.prompts)))}
    places: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(zip(shifted.prompts, shifted.labels.tolist(), strict=True)):
        places.setdefault(key, []).append(row)
    # Equal prompts of one label are taken in their order, each once.
    keys = [(prompts[row], int(y)) for row, y in zip(condition.test, condition.y_test, strict=True)]
    train = [first[prompts[row]] for row in condition.train]
    return Split(np.array(train, int), np.sort([places[key].pop(0) for key in keys]).astype(int))

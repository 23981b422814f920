"""The dataset that is audited: activations, labels, and what else is known of each row."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax import inputs
from probejax.activations.ragged import Activations
from probejax.auditing import folds, units
from probejax.auditing.folds import Fold
from probejax.saes import stream
from probejax.saes.named import NamedSAE, reading
from probejax.saes.stream import Dictionary

FEWEST = 10  # different prompts of either class; fewer cannot be cut into five folds twice


class Dataset(NamedTuple):
    """A dataset to be audited, n rows.

    Attributes:
      x: [n, d] one row of activations per prompt, float32.
      y: [n] labels, 0 or 1.
      classes: what the labels 0 and 1 are called.
      same: [n] a number for each prompt, the same for rows of one, see `units`.
      texts: the prompts; None where they are not known.
      groups: to which group each row belongs; None where that is not known.
      sae: the dictionary whose latents are looked at, if any.
      page: id of its pages on Neuronpedia, if it has some.
      name: of the dataset.
    """

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    classes: tuple[str, str]
    same: Int[np.ndarray, " n"]
    texts: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    sae: Dictionary | None = None
    page: str | None = None
    name: str = "arrays"

    def labellings(self, count: int, seed: int = 0) -> Int[np.ndarray, "q n"]:
        """Returns the labels, and behind them permutations of them that keep prompts whole."""
        return np.stack([self.y, *units.shuffled(self.y, self.same, count, seed)])

    def folds(self, labels: Int[np.ndarray, " n"], repeats: int = 1, seed: int = 0) -> list[Fold]:
        """Returns folds for labels that are fitted, the dataset's or others, see `folds`.

        Folds for one labelling are not for another: where the share of a class differs between
        folds, logits of several folds together rank rows by that, against their labels.
        """
        return folds.folds(labels, self.same, repeats, seed)

    def permuted(self, seed: int = 0) -> Int[np.ndarray, " n"]:
        """Returns the permuted labels with which everything is compared."""
        return self.labellings(1, seed)[1]

    @property
    def labels(self) -> np.ndarray:
        """[n] the labels by the names of their classes."""
        return np.asarray(self.classes, dtype=object)[self.y]

    def text(self, row: int) -> str:
        """Returns a prompt, or the number of its row where the prompts are not known."""
        return f"row {row}" if self.texts is None else self.texts[row]


def dataset(
    x: Any,
    y: Any,
    *,
    texts: Iterable[Any] | None = None,
    groups: Iterable[Any] | None = None,
    sae: Any = None,
    classes: tuple[str, str] | None = None,
    page: str | None = None,
    name: str = "arrays",
) -> Dataset:
    """Returns a dataset of arrays, once they fit each other.

    Args:
      x: [n, d] activations, as for `px.fit`.
      y: [n] labels of two values.
      texts: n prompts.
      groups: n names of groups.
      sae: an SAE, or anything with `encode(x)`.
      classes: what the labels are called; their own values when None.
      page: id of the SAE's pages on Neuronpedia.
      name: of the dataset.

    Raises:
      ValueError: they are of different lengths, not finite, of one class, or of too few prompts.
    """
    features, labels, values = inputs.labelled(x.last() if isinstance(x, Activations) else x, y)
    own = None if texts is None else inputs.texts(texts, len(labels))
    names = inputs.texts(classes or tuple(map(str, values)), 2, "classes")
    if groups is not None:
        groups = inputs.texts(list(map(str, groups)), len(labels), "groups")
    if isinstance(sae, NamedSAE):
        page = page or sae.file.neuronpedia
    inner = None if sae is None else reading(sae, features.shape[1])
    if inner is not None:
        stream.width(inner, features[:1])  # tells what is no SAE
    same = units.of(features, own)
    check(labels, same)
    return Dataset(
        features,
        labels,
        (names[0], names[1]),
        same,
        own,
        None if groups is None else tuple(groups),
        inner,
        page,
        name,
    )


def check(y: Int[np.ndarray, " n"], same: Int[np.ndarray, " n"]) -> None:
    """Raises ValueError unless either class has prompts enough for folds."""
    for label in (0, 1):
        count = len(np.unique(same[y == label]))
        if count < FEWEST:
            raise ValueError(
                f"one class has {count} different prompts (those of equal activations are one); an "
                f"audit needs {FEWEST} of either, to judge each by probes that have not seen it"
            )

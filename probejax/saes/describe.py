"""What a person needs to know of selected latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_PAGES = "https://www.neuronpedia.org"


def page(neuronpedia: str | None, latent: int) -> str | None:
    """Returns the address of a latent's page; None where its SAE has no pages."""
    return f"{_PAGES}/{neuronpedia}/{latent}" if neuronpedia else None


class LatentCard(NamedTuple):
    """One latent on labelled rows.

    Attributes:
      index: its number in the SAE.
      mean: mean activation on rows of class 0 and of class 1.
      rate: share of rows of class 0 and of class 1 on which it fires.
      link: its page, None where the SAE has none.
    """

    index: int
    mean: tuple[float, float]
    rate: tuple[float, float]
    link: str | None


def describe(
    values: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    latents: Int[np.ndarray, " k"],
    neuronpedia: str | None = None,
) -> list[LatentCard]:
    """Describes latents, in the order given.

    Args:
      values: their activations, see `encode_columns`.
      labels: 0 or 1.
      latents: their indices.
      neuronpedia: id of the SAE's pages, see `SaeFile`.

    Raises:
      ValueError: a class without rows.
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    if len(np.unique(labels)) != 2:
        raise ValueError("Latents are described on rows of both classes; one class has none.")
    classes = [values[labels == label] for label in (0, 1)]
    means, rates = ([f(c) for c in classes] for f in (_mean, lambda c: _mean(c != 0)))
    return [
        LatentCard(
            int(index),
            (float(means[0][j]), float(means[1][j])),
            (float(rates[0][j]), float(rates[1][j])),
            page(neuronpedia, int(index)),
        )
        for j, index in enumerate(latents)
    ]


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0)

"""What the nearest other prompts are labelled."""

import numpy as np
from jaxtyping import Float, Int

from probejax.auditing.dataset import Dataset

NEIGHBOURS = 10
_BLOCK = 256  # rows compared with all at a time


def unit_rows(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Returns activations, each dimension of mean 0 and variance 1, as vectors of length 1."""
    mean = x.mean(axis=0, dtype=np.float64)
    scale = x.std(axis=0, dtype=np.float64)
    z = ((x - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def share_alike(
    data: Dataset, rows: Int[np.ndarray, " r"], count: int = NEIGHBOURS
) -> Float[np.ndarray, " r"]:
    """Returns which share of the nearest prompts has the row's label.

    Args:
      data: the dataset.
      rows: of it, to be looked at.
      count: how many of the nearest, by the cosine of standardised activations, the prompt itself
        left out; one that has several rows counts once, with their mean.
    """
    z = unit_rows(data.x)
    _, first, prompt = np.unique(data.same, return_index=True, return_inverse=True)
    share = np.bincount(prompt, data.y) / np.bincount(prompt)  # of label 1, of a prompt's rows
    count = min(count, len(first) - 1)
    found = np.zeros(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        cosine = z[part] @ z[first].T
        cosine[np.arange(len(part)), prompt[part]] = -np.inf
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        ones = share[nearest].mean(axis=1)
        found[start : start + len(part)] = np.where(data.y[part], ones, 1 - ones)
    return found

"""Latents ranked for the labels at hand and for permutations of them, in one pass."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax.auditing.dataset import Dataset
from probejax.saes import stream
from probejax.saes.select import encode_columns, top_latents

PERMUTATIONS = 20


class Ranked(NamedTuple):
    """Latents whose class means differ most on some rows, for several labellings.

    Attributes:
      labels: [1 + p, n] the labels of all rows, then permutations of them.
      latents: [1 + p, k] the latents of each labelling, best first.
      values: [n, m] the latents that any of them has, of all rows.
      columns: [1 + p, k] where in `values` the latents of each labelling are.
    """

    labels: Int[np.ndarray, "q n"]
    latents: Int[np.ndarray, "q k"]
    values: Float[np.ndarray, "n m"]
    columns: Int[np.ndarray, "q k"]


def ranked(
    data: Dataset, rows: Int[np.ndarray, " r"], k: int, seed: int = 0, count: int = PERMUTATIONS
) -> Ranked:
    """Ranks latents on some rows of a dataset.

    Args:
      data: the dataset, which has an SAE.
      rows: on which they are ranked.
      k: latents for each labelling.
      seed: of the permutations.
      count: how many.
    """
    assert data.sae is not None, "there is an SAE"
    labels = data.labellings(count, seed)
    k = min(k, stream.width(data.sae, data.x[:1]))
    train = np.tile(rows, (len(labels), 1))
    latents = top_latents(data.sae, data.x, train, np.ones(train.shape, bool), labels[:, rows], k)
    union, columns = np.unique(latents, return_inverse=True)
    values = encode_columns(data.sae, data.x, union)
    return Ranked(labels, latents, values, columns.reshape(latents.shape))

"""Which latents fire on a row, of those that tell the classes apart."""

import numpy as np
from jaxtyping import Int

from probejax.auditing.dataset import Dataset
from probejax.saes import stream
from probejax.saes.select import encode_columns, top_latents

LATENTS = 64  # that tell the classes apart best
_SHOWN = 3  # of a row


def best_latents(data: Dataset, k: int = LATENTS) -> Int[np.ndarray, " k"]:
    """Returns the latents whose class means differ most on the whole dataset, best first."""
    assert data.sae is not None, "there is an SAE"
    rows = np.arange(len(data.y))[None]
    k = min(k, stream.width(data.sae, data.x[:1]))
    (found,) = top_latents(data.sae, data.x, rows, np.ones(rows.shape, bool), data.y[None], k)
    return found


def firing(data: Dataset, rows: Int[np.ndarray, " r"]) -> list[str]:
    """Returns, for each row, the strongest of these latents with their activations.

    Args:
      data: the dataset.
      rows: of it.

    Returns:
      `123 (4.2), 77 (1.0)`: latent and activation; empty where none fires or there is no SAE.
    """
    if data.sae is None:
        return [""] * len(rows)
    latents = best_latents(data)
    values = encode_columns(data.sae, data.x[rows], latents)
    order = np.argsort(-values, axis=1, kind="stable")[:, :_SHOWN]
    return [
        ", ".join(f"{latents[j]} ({row[j]:.1f})" for j in places if row[j] > 0)
        for row, places in zip(values, order, strict=True)
    ]

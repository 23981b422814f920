"""Which latents fire on a row, of those that tell the classes apart."""

import numpy as np
from jaxtyping import Int

from probejax.auditing.dataset import Dataset
from probejax.auditing.permuted import ranked

LATENTS = 64  # that tell the classes apart best
_SHOWN = 3  # of a row


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
    known = ranked(data, np.arange(len(data.y)), LATENTS, count=0)
    latents, values = known.latents[0], known.values[rows][:, known.columns[0]]
    order = np.argsort(-values, axis=1, kind="stable")[:, :_SHOWN]
    return [
        ", ".join(f"{latents[j]} ({row[j]:.1f})" for j in places if row[j] > 0)
        for row, places in zip(values, order, strict=True)
    ]

"""Small datasets with faults that were planted, for the tests of `probejax.auditing`."""

from typing import NamedTuple

import numpy as np

from probejax.auditing.dataset import Dataset, dataset

N, D = 200, 16
NOUNS = ("cat", "river", "engine", "poem", "harbour", "widow", "lamp", "orchard", "ledger", "fox")


class Rectified:
    """A dictionary with two latents for each dimension."""

    def encode(self, x):
        return np.maximum(np.concatenate([x, -x], axis=1), 0)


class Planted(NamedTuple):
    data: Dataset
    flipped: np.ndarray


def texts(count: int) -> list[str]:
    """Returns as many different sentences."""
    return [f"the {NOUNS[i % 10]} and the {NOUNS[i // 10 % 10]} number {i}" for i in range(count)]


def planted(*, flips: int = 12, strength: float = 5.0, seed: int = 0, **more) -> Planted:
    """Returns a dataset in which some labels are wrong; dimension 3 tells the true ones."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 2
    x = rng.normal(size=(N, D)).astype(np.float32)
    x[:, 3] += strength * (y - 0.5)
    flipped = rng.permutation(N)[:flips]
    y[flipped] = 1 - y[flipped]
    given = {"texts": texts(N), "sae": Rectified(), "classes": ("ham", "spam"), **more}
    return Planted(dataset(x, y, **given), flipped)

"""Writes the golden SAEs: `python -m tests.golden.saes.make`, from the repository's root.

Each folder holds the files of one SAE as its makers would write them, with random weights, and
expected.npz: inputs `x`, `latents` and `decoded` by the formulas in tests/reference/sae_formats.py.
"""

import shutil
from pathlib import Path

import numpy as np

from tests.reference import sae_formats

HERE = Path(__file__).parent


def make(name: str, folder: Path) -> None:
    """Writes one case."""
    _, case = sae_formats.CASES[name]
    folder.mkdir(parents=True)
    _, forward = case(folder)
    x = sae_formats.inputs(forward)
    latents, decoded = forward(x.astype(np.float64))
    np.savez_compressed(
        folder / "expected.npz", x=x, latents=np.float32(latents), decoded=np.float32(decoded)
    )


if __name__ == "__main__":
    for name in sae_formats.CASES:
        shutil.rmtree(HERE / name, ignore_errors=True)
        make(name, HERE / name)

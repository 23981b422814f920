"""The sizes of arrays, one list for all: whatever has another shape is another program to compile.

Lanes are padded with rows that do not count, batches with lanes that are there already. What a
shape must not depend on: how many lanes, folds, test rows or prompts there happen to be.
"""

from collections.abc import Sequence

import jax

TRAIN = (128, 1024)
"""Training rows of a lane."""
TEST = (2048, 6144)
"""Test rows of a lane."""
BLOCK = 1024
"""Rows of a matrix of any length, where they are worked on a block at a time."""
SHARED = (512, 1024, 2048, 4096)
"""Rows that the lanes of a batch train on, all together."""
TABLE = (512, 2048, 4096, 6144)
"""Rows of which lanes take some, where a device keeps them."""
RANKED = (2048, 4096)
"""The same rows, where latents are ranked."""
LANES = (16, 64, 256)
"""Lanes that are ranked together."""
COLUMNS = (512, 2048, 4096)
"""Latents that are encoded apart from the others."""
FITS = (1, 4, 16, 32, 48, 64)
"""Fits that train on tokens together; as they end they go on in the next narrower size."""
TILES = (8, 16, 32, 48, 64, 80, 96, 112, 128)
"""Tiles of tokens that they train on."""
VALIDATION = (32, 256)
"""Validation rows of such a fit."""

_IN_CACHE, _ON_DEVICE = 2**19, 2**28  # numbers of a batch


def up(count: int, sizes: Sequence[int]) -> int:
    """Returns the first size that is large enough; beyond the last they grow by an eighth."""
    for size in sizes:
        if size >= count:
            return size
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def width(numbers: int, most: int = 8, cpu: bool | None = None) -> int:
    """Returns how many lanes go together, a power of two.

    A CPU is fastest where a batch fits in its caches.

    Args:
      numbers: that one lane holds.
      most: lanes at most, on a CPU; another device takes eight times as many.
      cpu: whether it is one; by default whether this machine computes with its CPU.
    """
    cpu = jax.default_backend() == "cpu" if cpu is None else cpu
    some = max(1, (_IN_CACHE if cpu else _ON_DEVICE) // numbers)
    return min(most if cpu else 8 * most, 1 << (some.bit_length() - 1))

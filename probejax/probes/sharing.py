"""Work that several fits have in common is done once, a chunk of them at a time."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

_Found = TypeVar("_Found")


def distinct(*fields: Iterable[np.ndarray]) -> list[list[int]]:
    """Returns groups of indices at which all fields hold the same arrays."""
    places: dict[bytes, list[int]] = {}
    for index, arrays in enumerate(zip(*fields, strict=True)):
        places.setdefault(b"".join(array.tobytes() for array in arrays), []).append(index)
    return list(places.values())


def in_chunks(
    work: Callable[[list[int], int], _Found], groups: list[list[int]], chunk: int, threads: int = 1
) -> Iterator[tuple[list[list[int]], _Found]]:
    """Does work for the first of every group, several groups at a time.

    Several threads pay where the work is numpy's in part. Work that ends in LAPACK must have one:
    jaxlib 0.10 factors a batch of matrices in a thread of XLA's pool that waits for others of that
    pool, and two batches at once wait for ever.

    Args:
      work: is given some first indices, and the chunk, to which it is to fill up: one program then
        serves any number of groups, and gives each the same numbers in whatever company.
      groups: from `distinct`.
      chunk: groups at a time.
      threads: that work.

    Yields:
      Some groups, and what the work found for them.
    """
    parts = [groups[start : start + chunk] for start in range(0, len(groups), chunk)]
    firsts = [[group[0] for group in part] for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        spread = map if threads == 1 else pool.map
        yield from zip(parts, spread(lambda first: work(first, chunk), firsts), strict=True)

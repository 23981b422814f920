"""Work that several fits have in common is done once, a chunk at a time, on all cores."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from probejax import devices

_Found = TypeVar("_Found")
_ROWS = 1024  # of padded training sets that are worked on together


def distinct(*fields: Iterable[np.ndarray]) -> list[list[int]]:
    """Returns groups of indices at which all fields hold the same arrays."""
    places: dict[bytes, list[int]] = {}
    for index, arrays in enumerate(zip(*fields, strict=True)):
        places.setdefault(b"".join(array.tobytes() for array in arrays), []).append(index)
    return list(places.values())


def in_chunks(
    work: Callable[[list[int], int], _Found], groups: list[list[int]], n: int
) -> Iterator[tuple[list[list[int]], _Found]]:
    """Does work for the first of every group, with a thread per core.

    The parts that are numpy's or LAPACK's use one core each; so none waits for another.

    Args:
      work: is given some first indices, and how many to fill up to so that shapes are few.
      groups: from `distinct`.
      n: padded training rows of each.

    Yields:
      Some groups, and what the work found for them.
    """
    chunk = min(max(1, _ROWS // n), 1 << (len(groups) - 1).bit_length())
    parts = [groups[start : start + chunk] for start in range(0, len(groups), chunk)]
    firsts = [[group[0] for group in part] for part in parts]
    with ThreadPoolExecutor(devices.cores()) as pool:
        yield from zip(parts, pool.map(lambda first: work(first, chunk), firsts), strict=True)

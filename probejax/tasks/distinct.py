"""Each prompt once: what `strict` makes of a task, so that no split has a prompt on both sides."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from probejax.inputs import binary


def digests(x: Any) -> tuple[str, ...]:
    """Returns a hash of each row of a matrix, equal for rows that are equal as float32."""
    zero = np.zeros(1, np.float32)  # added, it makes -0 and 0, which are equal, one
    rows = (np.asarray(row).astype(np.float32) + zero for row in x)
    return tuple(hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows)


def distinct_rows(
    prompts: Sequence[Hashable], labels: Shaped[np.ndarray, " n"], *, balanced: bool = True
) -> Int[np.ndarray, " m"]:
    """Returns the first row of every prompt, in their order; of those with both labels none.

    Args:
        prompts: some of them perhaps equal: texts, or whatever else tells them apart.
        labels: theirs, zeros and ones.
        balanced: whether the last rows of the larger class are left out, so that there are as many
            of either: the study's regimes are drawn from balanced tasks.

    Raises:
        ValueError: there are not as many labels as prompts, or one is neither 0 nor 1.
    """
    labels = binary(labels)
    if len(labels) != len(prompts):
        raise ValueError(f"there are {len(prompts)} prompts and {len(labels)} labels")
    first: dict[Hashable, int] = {}
    both = set()
    for row, prompt in enumerate(prompts):
        if labels[first.setdefault(prompt, row)] != labels[row]:
            both.add(prompt)
    rows = np.array([row for prompt, row in first.items() if prompt not in both], int)
    if not balanced:
        return rows
    classes = [rows[labels[rows] == label] for label in (0, 1)]
    size = min(map(len, classes))
    return np.sort(np.concatenate([each[:size] for each in classes]))

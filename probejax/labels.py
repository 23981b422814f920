"""What a label is: 0 or 1, and nothing else, checked here before anything is counted or fitted."""

import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

_SHOWN = 5  # values in a message


def binary(
    labels: Shaped[Array | np.ndarray, "*shape"],
    mask: Bool[Array | np.ndarray, "*shape"] | None = None,
    what: str = "labels",
) -> Int[np.ndarray, "*shape"]:
    """Returns labels as whole numbers on the host; where they do not count they are 0.

    Args:
        labels: zeros and ones of any type.
        mask: which of them count; by default all.
        what: they are, for the message.

    Raises:
        ValueError: one that counts is anything else.
    """
    labels = np.asarray(labels)
    with np.errstate(invalid="ignore"):
        fine = (labels == 0) | (labels == 1)
    counts = np.ones(labels.shape, bool) if mask is None else np.asarray(mask)
    if not np.all(fine | ~counts):
        at = np.argwhere(~fine & counts)[0].tolist()
        found = sorted(set(labels[counts].tolist()), key=str)
        shown = ", ".join(map(repr, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
        raise ValueError(
            f"the {what} are {shown}, and only 0 and 1 are labels; the first that is neither is "
            f"at {at[0] if len(at) == 1 else tuple(at)}"
        )
    return np.where(counts, labels, 0).astype(
        labels.dtype if labels.dtype.kind == "i" else np.int64
    )

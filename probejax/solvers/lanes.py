"""What a solver is given, checked before it starts."""

import numpy as np
from jaxtyping import Array, Bool, Int32, Shaped

from probejax import inputs


def checked(
    mask: Shaped[Array | np.ndarray, "..."],
    y: Shaped[Array | np.ndarray, "..."],
    C: Shaped[Array | np.ndarray, "..."] | float,
    shape: tuple[int, ...],
) -> tuple[Bool[np.ndarray, "L n"], Int32[np.ndarray, "L n"]]:
    """Returns the mask and the labels of lanes on the host.

    Args:
        mask: the rows that count.
        y: their labels.
        C: strengths.
        shape: [L, n] of the rows or features that they go with.

    Raises:
        ValueError: a label that counts is neither 0 nor 1, a strength is not positive and finite,
            or the shapes differ.
    """
    if np.shape(mask) != shape:
        raise ValueError(f"the mask is {np.shape(mask)}, and what it is of is {shape}")
    strengths = np.asarray(C, np.float64)
    wrong = strengths[~(np.isfinite(strengths) & (strengths > 0))]
    if len(wrong):
        raise ValueError(f"C holds {wrong[0]}; expected positive, finite strengths")
    mask, y = inputs.lanes(mask, y)
    return mask, y.astype(np.int32)

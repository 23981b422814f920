"""What the batched solvers return, and the codes that say how one lane ended."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

CONVERGED = 0  # the certificate is at or below the tolerance
MAX_TRIPS = 1  # stopped at the limit of trips; the certificate still holds, at its larger value
DEGENERATE = 2  # the lane has no two classes to separate; the solution is zero
NON_FINITE = 3  # a feature of the lane is NaN or infinite; the solution is zero

NAMES = ("converged", "stopped at its limit of steps", "one class only", "not finite")
"""What a person calls them."""


class Solution(NamedTuple):
    """Solutions per lane; a path has one more axis, the strengths, after the lanes.

    Attributes:
        w: weights.
        b: intercepts.
        objective: value of the objective at (w, b).
        gap: upper bound on (objective - minimum) / objective; NaN where nothing was fitted.
        code: one of the codes above.
        trips: Newton steps spent.
    """

    w: Float[Array | np.ndarray, "*batch d"]
    b: Float[Array | np.ndarray, "*batch"]
    objective: Float[Array | np.ndarray, "*batch"]
    gap: Float[Array | np.ndarray, "*batch"]
    code: Int[Array | np.ndarray, "*batch"]
    trips: Int[Array | np.ndarray, "*batch"]

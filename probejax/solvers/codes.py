"""Result codes of the batched solvers: how one lane ended."""

CONVERGED = 0  # the certificate is at or below the tolerance
MAX_TRIPS = 1  # stopped at the limit of trips; the certificate still holds, at its larger value
DEGENERATE = 2  # the lane has no two classes to separate; the solution is zero
NON_FINITE = 3  # a feature of the lane is NaN or infinite; the solution is zero

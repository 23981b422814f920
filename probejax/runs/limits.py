"""What a run may take: each limit is a number of some least size, or None for the usual."""

import math
import numbers
from typing import Any

_LEAST = {"workers": 1, "memory_gb": 0.1, "disk_gb": 0, "model_parallel": 1}
_WHOLE = ("workers", "model_parallel")


def check_limits(**given: Any) -> None:
    """Refuses limits that no run can keep, because 0 or less would mean the usual, or no end.

    Args:
      **given: `workers`, `memory_gb`, `disk_gb` or `model_parallel`.

    Raises:
      ValueError: one is no number, has no end, or is too small.
    """
    for name, value in given.items():
        whole = name in _WHOLE
        kind, word = (numbers.Integral, "whole number") if whole else (numbers.Real, "number")
        right = isinstance(value, kind) and not isinstance(value, bool)
        if value is None or (right and math.isfinite(value) and value >= _LEAST[name]):
            continue
        raise ValueError(
            f"--{name}={value} must be a {word} of at least {_LEAST[name]}; leave it out for the "
            "usual."
        )

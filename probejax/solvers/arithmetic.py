"""In which arithmetic the solvers' loops run, per backend, and why.

| backend | loops | because |
|---|---|---|
| cpu | float64 with float32 factors | float64 is native, at half of float32's speed, and one factor serves many steps |
| gpu | float64 with float32 factors | native on data-centre GPUs; others may ask for float32 |
| tpu | float32 | float64 is emulated: a product takes 48 passes of the matrix unit where 6 do |

Whatever proposes, what judges is float64: every certificate is computed on the host.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import jax

Arithmetic = Literal["float32", "float64"]

_OF_BACKEND: dict[str, Arithmetic] = {"cpu": "float64", "gpu": "float64", "tpu": "float32"}
_asked: list[Arithmetic] = []
_tally = {"fits": 0, "on_host": 0}


def chosen() -> Arithmetic:
    """Returns what the loops compute in: what was asked for, else what suits the backend."""
    return _asked[-1] if _asked else _OF_BACKEND.get(jax.default_backend(), "float64")


@contextlib.contextmanager
def using(name: Arithmetic | Literal["auto"]) -> Iterator[None]:
    """Makes all solvers of this process compute in one arithmetic; "auto" leaves the choice.

    Raises:
      ValueError: there is no such arithmetic.
    """
    if name == "auto":
        yield
        return
    if name not in get_args(Arithmetic):
        raise ValueError(f"the arithmetic is {name!r}; it can be auto, float32 or float64")
    _asked.append(name)
    try:
        yield
    finally:
        _asked.pop()


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Has the host compute, in float64."""
    with using("float64"), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def count(fits: int, on_host: int) -> None:
    """Notes how many fits float32 was asked for, and how many the host had to solve instead."""
    _tally["fits"] += fits
    _tally["on_host"] += on_host


def counted() -> dict[str, int]:
    """Returns both numbers, of this process so far."""
    return dict(_tally)

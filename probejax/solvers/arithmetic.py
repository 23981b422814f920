"""In which arithmetic the solvers' loops run, per backend, and why.

| backend | loops | because |
|---|---|---|
| cpu | float64, float32 factors | native at half the speed, and one factor serves many steps |
| gpu | float64, float32 factors | native on GPUs of data centres; others may ask for float32 |
| tpu | float32 | float64 is emulated: 48 passes of the matrix unit for a product instead of 6 |

Whatever proposes, what judges is float64: every certificate is computed on the host.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, cast

import jax

from probejax import devices
from probejax.rules import ENGINES
from probejax.solvers import meeting

Arithmetic = Literal["float32", "float64"]

_OF_BACKEND: dict[str, Arithmetic] = {"cpu": "float64", "gpu": "float64", "tpu": "float32"}
_asked: ContextVar[Arithmetic | None] = ContextVar("asked", default=None)
_host = threading.RLock()
_tally: ContextVar[dict[str, int] | None] = ContextVar("tally", default=None)


def chosen() -> Arithmetic:
    """Returns what loops compute in: what this thread asked for, else what suits the backend."""
    return _asked.get() or _OF_BACKEND.get(jax.default_backend(), "float64")


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Makes the solvers compute in one arithmetic; "auto" leaves the choice.

    Raises:
      ValueError: there is no such arithmetic.
    """
    if name not in ENGINES:
        raise ValueError(f"the arithmetic is {name!r}; choose from {', '.join(ENGINES)}")
    before = _asked.set(_asked.get() if name == "auto" else cast(Arithmetic, name))
    try:
        yield
    finally:
        _asked.reset(before)


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Has the host solve, in float64.

    One thread at a time: jaxlib 0.10 factors a batch of matrices in a thread of XLA's pool that
    waits for others of that pool, and two such programs at once wait for ever.
    """
    with _host, meeting.alone(), using("float64"), jax.default_device(devices.host()):
        yield


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Makes float64 available, where it is native: for certificates, never for loops."""
    place = on_host() if chosen() == "float32" else contextlib.nullcontext()
    with place, jax.enable_x64(True):
        yield


@contextlib.contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Yields two counts: `fits` asked of float32, and those it left to the float64 `on_host`."""
    counts = {"fits": 0, "on_host": 0}
    before = _tally.set(counts)
    try:
        yield counts
    finally:
        _tally.reset(before)


def count(fits: int, on_host: int) -> None:
    """Adds to what is being counted."""
    if (counts := _tally.get()) is not None:
        counts["fits"] += fits
        counts["on_host"] += on_host

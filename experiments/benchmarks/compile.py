"""The suite `compile`: programs and seconds of compiling that the default run of one task costs."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from probejax import sweep

_TASK = "5_hist_fig_ismale"
_GOALS = {"programs": 60, "compiling": 45.0, "tracing": 5.0}  # of the whole run
_COMPILED = "/jax/core/compile/backend_compile_duration"
_TRACED = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)


class Cost(NamedTuple):
    """What a unit costs before it computes.

    Attributes:
      method: whose fits the unit holds.
      names: of the programs that were compiled.
      compiling: seconds that XLA compiled.
      tracing: seconds of tracing and lowering.
    """

    method: str
    names: tuple[str, ...]
    compiling: float
    tracing: float


def suite(cache_dir: str | pathlib.Path | None) -> Iterator[dict]:
    """Yields a figure for every default method and for all together, nothing compiled before."""
    job = sweep.Execution(sweep.resolve(sweep.Config(tasks=(_TASK,)), cache_dir))
    job.prepare(_TASK)  # the language model's programs are another matter
    jax.clear_caches()
    found = []
    for cost in costs(job, job.plan.units()):
        found.append(cost)
        yield {"name": f"compile {cost.method}", **_numbers(cost)}
    names = tuple(name for cost in found for name in cost.names)
    seconds = [sum(column) for column in zip(*(cost[2:] for cost in found), strict=True)]
    yield {"name": "compile all default methods", **_numbers(Cost("", names, *seconds)),
           "goals": _GOALS}  # fmt: skip


def costs(job: sweep.Execution, units: Sequence[sweep.Unit]) -> Iterator[Cost]:
    """Runs units, and yields what each had to compile; nothing comes from a cache on the disk."""
    events: list[tuple[str, float, str]] = []

    def heard(event: str, duration_secs: float, **about: str | int):
        events.append((event, duration_secs, str(about.get("fun_name", ""))))

    with _no_cache():
        jax.monitoring.register_event_duration_secs_listener(heard)
        try:
            for unit in units:
                events.clear()
                job.run(unit)
                names = tuple(name for event, _, name in events if event == _COMPILED)
                compiling = sum(seconds for event, seconds, _ in events if event == _COMPILED)
                tracing = sum(seconds for event, seconds, _ in events if event in _TRACED)
                yield Cost(unit.method, names, compiling, tracing)
        finally:
            jax.monitoring.unregister_event_duration_listener(heard)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _numbers(cost: Cost) -> dict[str, float | str]:
    return {"programs": len(cost.names), "compiling": round(cost.compiling, 1),
            "tracing": round(cost.tracing, 1), "unit": "s"}  # fmt: skip

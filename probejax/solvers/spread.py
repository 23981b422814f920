"""One program for all devices of a host: each takes its share of the lanes.

Nothing passes between devices, so a device whose lanes need more steps keeps no other waiting
inside a program, and a lane's numbers are those that it has on a single device.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from probejax import devices

_AXIS = "lanes"


def over_lanes(
    function: Callable[..., Any] | None = None,
    *,
    static: Collection[str] = (),
    shared: Collection[str] = (),
    donated: Collection[str] = (),
) -> Callable[..., Any]:
    """Compiles a function of lanes, as `jax.jit` does, for all devices that this thread uses.

    Args:
        function: takes arguments by position. The leaves of each have lanes first, as many as a
            multiple of the devices, and so has what it returns. It may look at neighbours, such as
            to end a loop when all are done: those on the same device are all that it sees.
        static: names of arguments that are compiled in.
        shared: names of arguments that are the same for all lanes.
        donated: names of arguments whose memory the result may take.
    """
    if function is None:
        return functools.partial(over_lanes, static=static, shared=shared, donated=donated)
    names = tuple(inspect.signature(function).parameters)
    function = _exactly(function)
    compiled = functools.partial(jax.jit, static_argnames=static, donate_argnames=donated)

    @functools.cache
    def alone(platform: str) -> Callable[..., Any]:
        return compiled(function, compiler_options=_options(platform))

    @functools.cache
    def together(places: tuple[Any, ...]) -> Callable[..., Any]:
        mesh = Mesh(np.array(places), (_AXIS,))

        @functools.wraps(function)
        def all_devices(*arguments):
            given = dict(zip(names, arguments, strict=True))
            fixed = {name: given.pop(name) for name in static}
            where = {name: PartitionSpec(*() if name in shared else (_AXIS,)) for name in given}
            return jax.shard_map(
                lambda given: function(*((given | fixed)[name] for name in names)),
                mesh=mesh,
                in_specs=(where,),
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            )(given)

        return compiled(all_devices, compiler_options=_options(places[0].platform))

    @functools.wraps(function)
    def call(*arguments):
        places = tuple(devices.own())
        program = alone(places[0].platform) if len(places) == 1 else together(places)
        return program(*arguments)

    call.of_lanes = True  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    call.lower = compiled(function).lower  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    return call


def _exactly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has every product of float32 be one: a TPU rounds the factors to bfloat16 by itself."""

    @functools.wraps(function)
    def exact(*arguments):
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    return exact


def _options(platform: str) -> dict[str, bool | int]:
    """Returns how programs of lanes are compiled, where that is not as all others are.

    On a CPU by the emitters of fused loops that XLA had before 2025: a third less to compile for
    solvers, and no slower. On one core not cut into parts either, which are for several.
    """
    if platform != "cpu":
        return {}
    whole = {"xla_cpu_parallel_codegen_split_count": 1} if devices.cores() == 1 else {}
    return {"xla_cpu_use_fusion_emitters": False} | whole


def is_program(function: Callable[..., Any]) -> bool:
    """Says whether a function was compiled by `over_lanes`."""
    return getattr(function, "of_lanes", False)

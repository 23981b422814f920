"""Runs a sweep on the CPU, and compiles each of its programs for a TPU too; none is needed.

    python -m tests.tpu_programs PROGRAMS.jsonl <flags of experiments.sweep that say what runs>

It needs libtpu (`pip install -e '.[tpu]'`). Every function given to `jax.jit` is compiled for every
set of shapes and static arguments; what is asked of the host is not. A line per program says how
that went: `name`, `shapes`, `seconds`, `error`, which is null if it compiles, and `float64_loops`,
whether a loop of it holds a float64, which a TPU emulates.
"""

import functools
import json
import os
import sys
import time

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing here holds a chip
    "TPU_SKIP_MDS_QUERY": "1",  # there is no machine to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import numpy as np
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params

_CHIPS = "v5e:2x2"
_jit = jax.jit


class Program:
    """What `jax.jit` returns, and a note of what it was called with."""

    def __init__(self, function, options, compile_once):
        self._program, self._compile_once = _jit(function, **options), compile_once
        functools.update_wrapper(self, function)

    def __getattr__(self, name):
        return getattr(self._program, name)

    def __call__(self, *args, **kwargs):
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            self._compile_once(self._program, args, kwargs)
        return self._program(*args, **kwargs)


def float64_loops(jaxpr, inside: bool = False) -> bool:
    """Says whether a loop of a program holds a float64."""
    for equation in jaxpr.eqns:
        if inside and any(str(var.aval.dtype) == "float64" for var in equation.outvars):
            return True
        within = inside or equation.primitive.name in ("while", "scan")
        if any(float64_loops(part, within) for part in jaxprs_in_params(equation.params)):
            return True
    return False


def watch(report: str) -> None:
    """From here on, what is jitted is compiled for a TPU when it is first called."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name=_CHIPS).devices
    mesh = jax.sharding.Mesh(np.array(chips[:1]), ("chip",))
    there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    seen = set()

    def is_array(leaf):
        return isinstance(leaf, np.ndarray | np.generic | jax.Array)

    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there)

    def compile_once(program, args, kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        kinds = tuple((x.dtype, x.shape) if is_array(x) else x for x in leaves)
        key = (program, tree, kinds)
        on_host = jax.config.jax_default_device is not None
        if not arrays or key in seen or on_host:
            return
        seen.add(key)
        began, error, loops = time.perf_counter(), None, False
        try:
            shaped = jax.tree.unflatten(tree, [abstract(x) if is_array(x) else x for x in leaves])
            traced = program.trace(*shaped[0], **shaped[1])
            loops = float64_loops(traced.jaxpr.jaxpr)
            traced.lower().compile()
        except Exception as failure:  # whatever it is, the report tells
            error = f"{type(failure).__name__}: {failure}"
        line = {
            "name": f"{program.__module__}.{program.__qualname__}",
            "shapes": [f"{x.dtype}{list(x.shape)}" for x in arrays],
            "seconds": round(time.perf_counter() - began, 1),
            "error": error,
            "float64_loops": loops,
        }
        with open(report, "a") as file:
            file.write(json.dumps(line) + "\n")

    def jit(function=None, **options):
        if function is None:
            return functools.partial(jit, **options)
        return Program(function, options, compile_once)

    jax.jit = jit


def main(_):
    """Runs every unit in this process, where it is watched."""
    from experiments import config_flags, flags
    from probejax import sweep

    plan = sweep.resolve(config_flags.config(), flags.CACHE_DIR.value)
    job = sweep.Execution(plan)
    for unit in plan.units():
        job.run(unit)


if __name__ == "__main__":
    watch(sys.argv.pop(1))
    from absl import app

    from experiments import config_flags  # noqa: F401  (its flags)

    app.run(main)

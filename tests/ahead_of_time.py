"""Runs a sweep on the CPU, and compiles its programs for an accelerator too; none is needed.

    python -m tests.ahead_of_time v5e|h100 PROGRAMS.jsonl <flags of experiments.sweep: what runs>

A TPU needs libtpu (`pip install -e '.[tpu]'`), a GPU jax-cuda12-pjrt, jax-cuda12-plugin and
nvidia-cuda-nvcc-cu12 (`pip install -e '.[cuda]'`). Every function given to `jax.jit` is compiled
for every set of shapes and static arguments; what is asked of the host is not. A line per program
says how that went: `name`, `shapes`, `seconds`, `error`, which is null if it compiles,
`float64_loops`, whether a loop of it holds a float64, which a TPU emulates, `kernels` in the body
of each loop, the most first, `gathered`, the most numbers that it picks one by one, which a TPU is
slow at, and `bytes` of what it is given, returns and needs besides. The last line says how many
bytes of the host all of them were `sent`.
"""

import collections
import functools
import importlib.util
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing here holds a chip
    "TPU_SKIP_MDS_QUERY": "1",  # there is no machine to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
if "h100" in sys.argv:
    os.environ["XLA_FLAGS"] = " ".join(
        f"--xla_gpu_{flag}"
        for flag in (
            *("autotune_level=0", "enable_triton_gemm=false"),
            *(
                f"cuda_data_dir={place}/cuda_nvcc"
                for place in importlib.util.find_spec("nvidia").submodule_search_locations
            ),
        )
    )

import jax
import numpy as np
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 9 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
_NO_KERNEL = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("after-all", "call", "async-done", "copy-done", "partition-id", "replica-id"),
)
_jit, _device_put = jax.jit, jax.device_put


class Program:
    """What `jax.jit` returns, and a note of what it was called with."""

    def __init__(self, function, options, compile_once):
        self._program, self._compile_once = _jit(function, **options), compile_once
        functools.update_wrapper(self, function)

    def __getattr__(self, name):
        return getattr(self._program, name)

    def __call__(self, *args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            self._compile_once(self._program, args, kwargs)
            count_sent(self._program.__qualname__, leaves)
        return self._program(*args, **kwargs)


sent: collections.Counter[str] = collections.Counter()


def count_sent(name: str, leaves) -> None:
    """Counts what the host sends to a device that would not share its memory."""
    if jax.config.jax_default_device is None:
        sent[name] += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, np.ndarray))


def count_put(x, *args, **kwargs):
    """Sends arrays, and counts them."""
    count_sent("device_put", jax.tree.leaves(x))
    return _device_put(x, *args, **kwargs)


def float64_loops(jaxpr, inside: bool = False) -> bool:
    """Says whether a loop of a program holds a float64."""
    for equation in jaxpr.eqns:
        if inside and any(str(var.aval.dtype) == "float64" for var in equation.outvars):
            return True
        within = inside or equation.primitive.name in ("while", "scan")
        if any(float64_loops(part, within) for part in jaxprs_in_params(equation.params)):
            return True
    return False


def kernels_in_loops(text: str) -> list[int]:
    """Returns how many kernels the body of each loop launches, the most first.

    Args:
        text: of a compiled program. A loop within a loop is counted by itself.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*{$", line):
            part = parts.setdefault(begins[1], [])
        elif made := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line):
            part.append((made[1], line))

    def called(line: str, how: str) -> Iterator[str]:
        return iter(re.findall(rf"{how}=%?([\w.\-]+)", line))

    def count(name: str) -> int:
        launched = sum(what not in _NO_KERNEL for what, _ in parts[name])
        calls = (line for what, line in parts[name] if what == "call")
        return launched + sum(count(inner) for line in calls for inner in called(line, "to_apply"))

    loops = (line for part in parts.values() for what, line in part if what == "while")
    return sorted((count(body) for line in loops for body in called(line, "body")), reverse=True)


def gathered_one_by_one(text: str) -> int:
    """Returns how many numbers the largest gather of single numbers picks, 0 without one."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* gather\(.*slice_sizes={([\d,]*)}", text)
    single = (shape for shape, slices in found if set(slices.split(",")) <= {"1", ""})
    return max((math.prod(map(int, filter(None, s.split(",")))) for s in single), default=0)


def _device(target: str):
    """Returns a device to compile for, which is not there."""
    if target == "v5e":
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    one = {"topology_name": "1x1x1", "topology": "1x1x1", "target_config": _H100}
    return topologies.get_topology_desc(platform="cuda", **one).devices[0]


def watch(target: str, report: str) -> None:
    """From here on, what is jitted is compiled for a target when it is first called."""
    mesh = jax.sharding.Mesh(np.array([_device(target)]), ("chip",))
    if target == "h100":  # batches are as wide as there; in float32 a CPU would take hours for them
        jax.default_backend = lambda: "gpu"
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
        kernels, one_by_one, held = [], 0, 0
        try:
            shaped = jax.tree.unflatten(tree, [abstract(x) if is_array(x) else x for x in leaves])
            traced = program.trace(*shaped[0], **shaped[1])
            loops = float64_loops(traced.jaxpr.jaxpr)
            compiled = traced.lower().compile()
            text, memory = compiled.as_text(), compiled.memory_analysis()
            kernels, one_by_one = kernels_in_loops(text), gathered_one_by_one(text)
            held = memory.argument_size_in_bytes + memory.output_size_in_bytes
            held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        except Exception as failure:  # whatever it is, the report tells
            error = f"{type(failure).__name__}: {failure}"
        line = {
            "name": f"{program.__module__}.{program.__qualname__}",
            "shapes": [f"{x.dtype}{list(x.shape)}" for x in arrays],
            "seconds": round(time.perf_counter() - began, 1),
            "error": error,
            "float64_loops": loops,
            "kernels": kernels,
            "gathered": one_by_one,
            "bytes": held,
        }
        with open(report, "a") as file:
            file.write(json.dumps(line) + "\n")

    def jit(function=None, **options):
        if function is None:
            return functools.partial(jit, **options)
        return Program(function, options, compile_once)

    jax.jit, jax.device_put = jit, count_put


def main(_):
    """Runs every unit in this process, where it is watched."""
    from experiments import config_flags, flags
    from probejax import devices, sweep

    devices.apart = lambda: devices.default() is None  # but for what the host does
    plan = sweep.resolve(config_flags.config(), flags.CACHE_DIR.value)
    job = sweep.Execution(plan)
    for unit in plan.units():
        job.run(unit)
    with open(report, "a") as file:
        file.write(json.dumps({"sent": sum(sent.values()), "by": sent.most_common(8)}) + "\n")


if __name__ == "__main__":
    report = sys.argv.pop(2)
    watch(sys.argv.pop(1), report)
    from absl import app

    from experiments import config_flags  # noqa: F401  (its flags)

    app.run(main)

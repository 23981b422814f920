"""The machines that a run can be planned for, by what their makers publish, and this one."""

import math
from typing import NamedTuple

from probejax import devices
from probejax.activations import measured_flops
from probejax.rules import TARGETS

_MODEL_SHARE = 0.65  # 0.5 to 0.8 in harvests on two machines, gemma-3-270m and smollm2-135m


class Machine(NamedTuple):
    """One host.

    Attributes:
      name: as `--target` has it.
      devices: chips, GPUs or cores; a unit runs on one of them.
      memory: bytes of one device; of a CPU all devices together have it.
      bfloat16: operations per second of a device where the language model is bfloat16.
      float32: the same in float32 as probes and SAEs use it (`highest`).
      bandwidth: bytes per second between a device and its memory.
      launch: seconds that one kernel takes at least.
      is_cpu: whether the figures of `work.SHARE` hold, which were measured on one.
    """

    name: str
    devices: int
    memory: float
    bfloat16: float
    float32: float
    bandwidth: float
    launch: float
    is_cpu: bool = False

    def model_seconds(self, flops: float, dtype: str) -> float:
        """Returns how long all devices take for the language model, which has a dtype.

        On a CPU at the share of a large product's speed that harvests have had, elsewhere at all
        of it, which is a floor.
        """
        speed = self.bfloat16 if dtype == "bfloat16" else self.float32
        return flops / (speed * self.devices * (_MODEL_SHARE if self.is_cpu else 1))


# Sources: the makers' data sheets (Cloud TPU system architecture; NVIDIA H100 SXM and A100 80 GB).
# float32 at `highest` takes six passes of a TPU's matrix unit; on GPUs it is that of the cores
# without TF32. v5p-8 is four chips: its name counts tensor cores. What a kernel takes at least is
# an assumption, 4 us on a GPU and 1 us on a TPU, which runs loops without its host.
_PUBLISHED = {
    machine.name: machine
    for machine in (
        Machine("v5e-8", 8, 16e9, 197e12, 197e12 / 6, 819e9, 1e-6),
        Machine("v5p-8", 4, 95e9, 459e12, 459e12 / 6, 2765e9, 1e-6),
        Machine("v6e-8", 8, 32e9, 918e12, 918e12 / 6, 1640e9, 1e-6),
        Machine("h100", 1, 80e9, 989e12, 67e12, 3352e9, 4e-6),
        Machine("a100", 1, 80e9, 312e12, 19.5e12, 2039e9, 4e-6),
    )
}


def machine(target: str, dtype: str = "float32") -> Machine:
    """Returns a machine by its name; `cpu` is this one, whose speed is measured in a second.

    Args:
      target: one of `rules.TARGETS`.
      dtype: of the language model; on this machine its speed alone is measured.

    Raises:
      ValueError: no machine is called so.
    """
    if target in _PUBLISHED:
        return _PUBLISHED[target]
    if target != "cpu":
        raise ValueError(f"--target={target} does not exist; choose from {', '.join(TARGETS)}.")
    cores, float32 = devices.cores(), measured_flops("float32")
    bfloat16 = measured_flops("bfloat16") if dtype == "bfloat16" else math.nan
    memory = devices.host_memory()
    return Machine("cpu", cores, memory, bfloat16 / cores, float32 / cores, math.inf, 0.0, True)

"""The main job: fits every probe of every task in every regime, and prints the quiver table.

    python -m experiments.sweep --out=runs/demo
    python -m experiments.sweep --out=runs/layers --layer=all --methods=logreg --regimes=standard
    python -m experiments.sweep --out=runs/tokens --methods=multitoken --max_length=256

Killed at any moment, the same command finishes the rest; several processes may share one --out.
"""

from typing import Any

from absl import flags

import probejax as px
from experiments import config_flags
from experiments import flags as common
from experiments.entry import run

for _flag in (*config_flags.ALL, *common.READS, common.DISK_GB):
    flags.declare_key_flag(_flag)
_OUT = common.unless_dry(
    flags.DEFINE_string("out", None, "Folder or gs:// prefix for the results.")
)
_LOG_JSON = flags.DEFINE_bool("log_json", False, "One JSON line per finished unit, and no bar.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Share the tasks among the hosts of a TPU slice, a Slurm or an MPI job."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes share the tasks, where nothing says so.", 1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "Memory for one process. Default: half of the machine's, shared.", 0.1
)
_SETTINGS = (
    flags.DEFINE_enum("cluster", None, ["ray"], "Hand the tasks to the nodes of a Ray cluster."),
    flags.DEFINE_string(
        "ray_address", None, "Of that cluster, or `auto`. Default: one on this machine alone."
    ),
    *(common.MODEL_PARALLEL, common.DISK_GB, common.CACHE_DIR),
    flags.DEFINE_bool(
        "extend", False, "Add tasks, methods, SAEs or sites to the run in OUT; what it has stays."
    ),
    flags.DEFINE_bool("save_probes", False, "Write the final probes to OUT/probes."),
    flags.DEFINE_bool("keep_tokens", False, "Keep all-token activations that have served."),
    flags.DEFINE_bool(
        "check_sae", False, "Measure L0, explained variance and dead latents of every SAE first."
    ),
    flags.DEFINE_integer(
        "workers",
        None,
        "Tasks at a time. Default: one per core of a CPU, eight per GPU or chip, fewer where "
        "memory does not hold so many.",
        1,
    ),
    _MEMORY_GB,
    flags.DEFINE_bool("verbose", False, "Print what is known about the SAEs and the memory."),
)

_UNFORESEEN = ("cluster", "ray_address", "check_sae", "verbose")


def main(_: list[str]) -> int:
    """Runs this process's share of the units that are not done, then reports."""
    target = common.target()
    rank, count = px.hosts.rank(_MULTIHOST.value, _PROCESS_ID.value, _NUM_PROCESSES.value)
    settings: dict[str, Any] = {flag.name: flag.value for flag in _SETTINGS}
    settings |= {"rank": rank, "count": count}
    if common.DRY_RUN.value:
        known = {name: value for name, value in settings.items() if name not in _UNFORESEEN}
        print(found := px.runs.foresee(config_flags.config(), _OUT.value, target=target, **known))
        return 0 if found.ran else 1
    show = "json" if _LOG_JSON.value else "bars"
    found = px.run(config_flags.config(), _OUT.value, show=show, **settings)
    return 0 if found.ran else 1


if __name__ == "__main__":
    run(main)

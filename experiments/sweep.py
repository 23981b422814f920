"""The main job: fits every probe of every task in every regime, and prints the quiver table.

    python -m experiments.sweep --out=runs/demo
    python -m experiments.sweep --out=runs/tokens --methods=multitoken --max_length=256

Killed at any moment, the same command finishes the rest; several processes may share one --out.
"""

import dataclasses
import shutil
from pathlib import Path

import jax
from absl import app, flags

from experiments import flags as common
from experiments import progress
from experiments.entry import run
from probejax import artifacts, devices, saes, storage, sweep, tasks
from probejax.analysis import report
from probejax.probes import PROTOCOLS

_OUT = flags.DEFINE_string("out", None, "Folder or gs:// prefix for the results.", required=True)
_SAE = flags.DEFINE_multi_string(
    "sae",
    [],
    "SAE: an id that ships with probejax or of a known release, a file, a folder, or "
    "random:<width>:<l0>. Repeatable.",
)
_SAE_SUITE = flags.DEFINE_string(
    "sae_suite", None, f"Also all SAEs of a suite: {', '.join(saes.SUITES)}, or a folder of SAEs."
)
_REGIMES = flags.DEFINE_list("regimes", list(tasks.REGIMES), "Regimes.")
_METHODS = flags.DEFINE_list(
    "methods",
    ["default"],
    "Methods; `default` is all on the last token but the slow ones, `all` is all of these; "
    "`multitoken` is those on all tokens and what the study compares them with.",
)
_CONTROLS = flags.DEFINE_bool(
    "controls", False, "Also shuffled labels, random latents and a random SAE, as methods."
)
_RANKING = flags.DEFINE_enum(
    "ranking", "normalised", list(saes.RANKINGS), "How latents are ranked."
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "paper", list(PROTOCOLS), "Rules: the study's, or without any leak."
)
_SEEDS = flags.DEFINE_list("seeds", ["42"], "One set of draws for each; the study's is 42.")
_SAVE_PROBES = flags.DEFINE_bool("save_probes", False, "Write the final probes to OUT/probes.")
_KEEP_TOKENS = flags.DEFINE_bool(
    "keep_tokens", False, "Keep all-token activations when the units of their task are written."
)
_CHECK_SAE = flags.DEFINE_bool(
    "check_sae", False, "Measure L0, explained variance and dead latents of every SAE first."
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Tasks at a time. Default: one per core of a CPU, one per GPU or TPU chip.", 1
)
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "Memory for one process. Default: half of the machine's, shared.", 0.1
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Share the units among the processes of a slice."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Address, where JAX cannot find a cluster.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes, likewise.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, likewise.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Print what is known about the SAEs and the memory.")
_LOG_JSON = flags.DEFINE_bool("log_json", False, "One JSON line per finished unit, and no bar.")


def config_from_flags() -> sweep.Config:
    """Returns the run that the flags describe."""
    values = {flag.name: flag.value for flag in (common.MODEL, common.LAYER, common.TASKS_DIR)}
    for flag in (common.DTYPE, common.MAX_LENGTH, _RANKING, _PROTOCOL, _CONTROLS):
        values[flag.name] = flag.value
    for flag in (_SAE, common.TASKS, _REGIMES, _METHODS):
        values[flag.name] = tuple(flag.value)
    if _SAE_SUITE.value:
        values["sae"] += saes.suites.resolve(_SAE_SUITE.value)
    if wrong := [seed for seed in _SEEDS.value if not seed.isdigit()]:
        raise ValueError(f"--seeds={wrong[0]} is not a whole number.")
    return sweep.Config(**values, seeds=tuple(map(int, _SEEDS.value)))


def main(argv: list[str]) -> None:
    """Runs this process's share of the units that are not done, then reports."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    config = config_from_flags()
    devices.initialize(
        _MULTIHOST.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    cache_dir = artifacts.cache_dir(common.CACHE_DIR.value)
    devices.compilation_cache(cache_dir)
    workers = _WORKERS.value
    on_cpu = jax.default_backend() == "cpu"
    if workers is None:
        workers = devices.cores() if on_cpu else jax.local_device_count()
        workers = 1 if on_cpu and _MULTIHOST.value else workers
    memory_gb = _MEMORY_GB.value or devices.memory_budget() / (workers if on_cpu else 1) / 1e9
    job = sweep.Sweep(config, common.CACHE_DIR.value, memory_gb)
    identity = dataclasses.asdict(config) | {"layer": job.layer_name, "methods": job.methods}
    storage.write_config(_OUT.value, identity)
    if _VERBOSE.value:
        for sae in job.saes.values():
            print(f"{sae.sae_id}: {sae.description().get('quality', 'not measured')}")
        print(f"memory: at most {memory_gb:.1f} GB in each of {workers} processes")
    if _CHECK_SAE.value:
        sweep.TokenDisk(job, _OUT.value, _KEEP_TOKENS.value).prepare(job.tasks[0])
        print("\n".join(job.check_saes()))
    store = storage.Store(_OUT.value)
    units = job.units()
    done = store.done()
    sweep.check_done(_OUT.value, units, done)
    by_task = {task: [unit for unit in units if unit.task == task] for task in job.tasks}
    mine = devices.share(list(by_task.values()), jax.process_index(), jax.process_count())
    todo = [unit for group in mine for unit in group if unit.name not in done]
    left = list(dict.fromkeys(unit.task for unit in todo))
    workers = min(workers, len(left))
    finished = sweep.run_units(
        job,
        todo,
        _OUT.value,
        workers=workers,
        save_probes=_SAVE_PROBES.value,
        keep_tokens=_KEEP_TOKENS.value,
        compiled=cache_dir,
    )
    if left and job.reads_tokens:
        print(_disk(job, left, workers, Path(cache_dir)), flush=True)
    if _LOG_JSON.value:
        progress.log(finished)
    else:
        ours = [unit for group in mine for unit in group]
        before = {unit.name: store.read(unit.name) for unit in ours if unit.name in done}
        progress.watch(finished, ours, before, store.read)
    missing = {unit.name for unit in units} - store.done()
    if missing:
        print(f"{len(missing)} of {len(units)} units are still missing; other processes run them.")
    else:
        print(report.report(_OUT.value, cache_dir=cache_dir))


def _disk(job: sweep.Sweep, left: list[str], workers: int, root: Path) -> str:
    """Returns what the tokens of the tasks that are left take on the disk, in a line."""
    root.mkdir(parents=True, exist_ok=True)
    return sweep.forecast(
        job,
        left,
        workers=workers,
        keep=_KEEP_TOKENS.value,
        allowed_gb=common.DISK_GB.value,
        free=shutil.disk_usage(root).free,
    )


if __name__ == "__main__":
    run(main)

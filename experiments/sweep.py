"""The main job: fits every probe of every task in every regime, and prints the quiver table.

    python -m experiments.sweep --out=runs/demo
    python -m experiments.sweep --out=runs/tokens --methods=multitoken --max_length=256

Killed at any moment, the same command finishes the rest; several processes may share one --out.
"""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

import probejax as px
from experiments import flags as common
from experiments.entry import run
from probejax.rules import PROTOCOLS, RANKINGS
from probejax.tasks import REGIMES

for _flag in (
    *(common.MODEL, common.SITE, common.LAYER, common.TASKS, *common.OWN, common.DTYPE),
    *(common.MAX_LENGTH, common.DISK_GB, common.CACHE_DIR),
):
    flags.declare_key_flag(_flag)
_OUT = flags.DEFINE_string("out", None, "Folder or gs:// prefix for the results.", required=True)
_SAE = flags.DEFINE_multi_string(
    "sae",
    [],
    "SAE: an id that ships with probejax or of a known release, a file, a folder, or "
    "random:<width>:<l0>. Repeatable.",
)
_SAE_SUITE = flags.DEFINE_string(
    "sae_suite", None, "Also all SAEs of a suite: saebench-gemma-2-2b, or a folder of SAEs."
)
_GROUPS = flags.DEFINE_string(
    "groups", None, "Column of --data: each group in it is held out once, as regime group_shift."
)
_ACTIVATIONS = flags.DEFINE_string(
    "activations",
    None,
    "Vectors of your own in place of a model: x [N, d] as .npy, or x and y in a .npz or "
    ".safetensors file.",
)
_LABELS = flags.DEFINE_string("labels", None, "The labels y [N] of --activations, as .npy.")
_REGIMES = flags.DEFINE_list("regimes", list(REGIMES), "Regimes.")
_METHODS = flags.DEFINE_list(
    "methods",
    ["default"],
    "Methods; `default` is all on the last token but the slow ones, `all` is all of these; "
    "`multitoken` is those on all tokens and what the study compares them with.",
)
_CONTROLS = flags.DEFINE_bool(
    "controls", False, "Also shuffled labels, random latents and a random SAE, as methods."
)
_RANKING = flags.DEFINE_enum("ranking", "normalised", list(RANKINGS), "How latents are ranked.")
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
    "multihost", False, "Share the tasks among the hosts of a TPU slice, a Slurm or an MPI job."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes share the tasks, where nothing says so.", 1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_VERBOSE = flags.DEFINE_bool("verbose", False, "Print what is known about the SAEs and the memory.")
_LOG_JSON = flags.DEFINE_bool("log_json", False, "One JSON line per finished unit, and no bar.")


def config_from_flags() -> "px.sweep.Config":
    """Returns the run that the flags describe."""
    values = {flag.name: flag.value for flag in (common.MODEL, *common.OWN)}
    for flag in (
        _GROUPS,
        _ACTIVATIONS,
        _LABELS,
        common.DTYPE,
        common.MAX_LENGTH,
        _RANKING,
        _PROTOCOL,
        _CONTROLS,
    ):
        values[flag.name] = flag.value
    for flag in (_SAE, _REGIMES, _METHODS):
        values[flag.name] = tuple(flag.value)
    if _SAE_SUITE.value:
        values["sae"] += px.saes.suites.resolve(_SAE_SUITE.value)
    if wrong := [seed for seed in _SEEDS.value if not (seed.isascii() and seed.isdigit())]:
        raise ValueError(f"--seeds={wrong[0]} is not a whole number.")
    seeds = tuple(map(int, _SEEDS.value))
    named = None if common.TASKS.value is None else tuple(common.TASKS.value)
    return px.sweep.Config(**values, site=common.chosen_site(), tasks=named, seeds=seeds)


def main(_: list[str]) -> int:
    """Runs this process's share of the units that are not done, then reports."""
    px.storage.check_place(_OUT.value)
    config = config_from_flags()
    if config.activations is None:
        px.tasks.match(config.tasks, config.own)
    rank, count = px.hosts.rank(_MULTIHOST.value, _PROCESS_ID.value, _NUM_PROCESSES.value)
    cache_dir = px.artifacts.cache_dir(common.CACHE_DIR.value)
    px.devices.compilation_cache(cache_dir)
    memory_gb = _MEMORY_GB.value or px.devices.memory_budget() / 1e9
    plan = px.sweep.resolve(config, common.CACHE_DIR.value)
    job = px.sweep.Execution(plan, memory_gb)
    identity = dataclasses.asdict(config) | {"site": plan.site_name, "methods": plan.methods}
    px.storage.write_config(_OUT.value, identity)
    _say_what_is_left_out(plan)
    px.storage.write_atomic(f"{_OUT.value}/left_out.json", px.storage.encode_json(plan.left_out))
    if families := plan.families():
        px.storage.write_atomic(f"{_OUT.value}/families.json", px.storage.encode_json(families))
    for folder in (_OUT.value, cache_dir / "activations"):
        px.storage.remove_leftovers(folder)
    for note in plan.notes:
        print(note, flush=True)
    if _VERBOSE.value:
        for sae in plan.saes.values():
            print(f"{sae.sae_id}: {sae.description().get('quality', 'not measured')}")
        print(f"memory: at most {memory_gb:.1f} GB in each process")
    if _CHECK_SAE.value:
        px.sweep.TokenDisk(job, _OUT.value, _KEEP_TOKENS.value).prepare(plan.tasks[0])
        print("\n".join(job.check_saes()))
    store = px.storage.Store(_OUT.value)
    units = plan.units()
    done = store.done()
    px.sweep.check_done(_OUT.value, units, done)
    by_task = {task: [unit for unit in units if unit.task == task] for task in plan.tasks}
    mine = px.hosts.share(list(by_task.values()), rank, count)
    todo = [unit for group in mine for unit in group if unit.name not in done]
    left = list(dict.fromkeys(unit.task for unit in todo))
    workers = _WORKERS.value or px.devices.workers()
    finished = px.sweep.run_units(
        job,
        todo,
        _OUT.value,
        workers=workers,
        save_probes=_SAVE_PROBES.value,
        keep_tokens=_KEEP_TOKENS.value,
        compiled=cache_dir,
    )
    if left and plan.reads_tokens:
        print(_disk(plan, left, min(workers, len(left)), cache_dir), flush=True)
    _watch(finished, [unit for group in mine for unit in group], done, store)
    missing = {unit.name for unit in units} - store.done()
    if missing:
        print(f"{len(missing)} of {len(units)} units are still missing; other processes run them.")
    else:
        print(_report(cache_dir))  # names what is left out, too
    # A regime that a task's rows cannot give is no failure: the same data never have it.
    return 1 if any(isinstance(why, str) for why in plan.left_out.values()) else 0


def _say_what_is_left_out(plan: "px.sweep.Plan") -> None:
    """Names the tasks and regimes that cannot be had, each with its reason."""
    for why in px.tasks.sentences(plan.left_out):
        print(f"Left out: {why}", file=sys.stderr, flush=True)


def _watch(finished, ours: "Sequence[px.sweep.Unit]", done: set[str], store) -> None:
    """Shows units as they are finished."""
    from experiments import progress  # slow to import: after the flags have been checked

    if _LOG_JSON.value:
        progress.log(finished)
    else:
        before = {unit.name: store.read(unit.name) for unit in ours if unit.name in done}
        progress.watch(finished, ours, before, store.read)


def _report(cache_dir: Path) -> str:
    """Writes the report and returns its summary."""
    from probejax.analysis.report import report  # slow to import, and only the last needs it

    return report(_OUT.value, cache_dir=cache_dir)


def _disk(plan: "px.sweep.Plan", left: list[str], workers: int, root: Path) -> str:
    """Returns what the tokens of the tasks that are left take on the disk, in a line."""
    root.mkdir(parents=True, exist_ok=True)
    return px.sweep.forecast(
        plan,
        left,
        workers=workers,
        keep=_KEEP_TOKENS.value,
        allowed_gb=common.DISK_GB.value,
        free=shutil.disk_usage(root).free,
    )


if __name__ == "__main__":
    run(main)

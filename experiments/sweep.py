"""The main job: fits every probe of every task in every regime, and prints the quiver table.

    python -m experiments.sweep --out=runs/demo

Killed at any moment, the same command finishes the rest; several processes may share one --out.
"""

import dataclasses

import jax
from absl import app, flags
from tqdm import tqdm

from experiments import flags as common
from experiments.entry import run
from probejax import artifacts, devices, saes, storage, sweep, tasks
from probejax.analysis import report

_OUT = flags.DEFINE_string("out", None, "Folder or gs:// prefix for the results.", required=True)
_SAE = flags.DEFINE_multi_string(
    "sae", [], "SAE: an id that ships with probejax, a params.npz or its folder. Repeatable."
)
_REGIMES = flags.DEFINE_list("regimes", list(tasks.REGIMES), "Regimes.")
_METHODS = flags.DEFINE_list("methods", list(sweep.Config.methods), "Methods.")
_RANKING = flags.DEFINE_enum(
    "ranking", "normalised", list(saes.RANKINGS), "How latents are ranked."
)
_PROTOCOL = flags.DEFINE_enum("protocol", "paper", list(sweep.PROTOCOLS), "Rules of validation.")
_SEEDS = flags.DEFINE_list("seeds", ["42"], "One set of draws for each; the study's is 42.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Share the units among the processes of a slice."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Address, where JAX cannot find a cluster.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes, likewise.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, likewise.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Print what is known about the SAEs.")


def config_from_flags() -> sweep.Config:
    """Returns the run that the flags describe."""
    values = {flag.name: flag.value for flag in (common.MODEL, common.LAYER, common.TASKS_DIR)}
    for flag in (common.DTYPE, common.MAX_LENGTH, _RANKING, _PROTOCOL):
        values[flag.name] = flag.value
    for flag in (_SAE, common.TASKS, _REGIMES, _METHODS):
        values[flag.name] = tuple(flag.value)
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
    devices.compilation_cache(artifacts.cache_dir(common.CACHE_DIR.value))
    job = sweep.Sweep(config, common.CACHE_DIR.value)
    storage.write_config(_OUT.value, dataclasses.asdict(config) | {"layer": job.layer_name})
    if _VERBOSE.value:
        for sae in job.saes.values():
            print(f"{sae.sae_id}: {sae.description().get('quality', 'not measured')}")
    store = storage.Store(_OUT.value)
    units = job.units()
    done = store.done()
    by_task = {task: [unit for unit in units if unit.task == task] for task in job.tasks}
    mine = devices.share(list(by_task.values()), jax.process_index(), jax.process_count())
    todo = [unit for group in mine for unit in group if unit.name not in done]
    with tqdm(todo, unit="unit", desc="sweep", disable=not todo) as bar:
        for unit in bar:
            bar.set_postfix_str(f"{unit.task} {unit.method}")
            store.put(unit.name, *job.run(unit))
    missing = {unit.name for unit in units} - store.done()
    if missing:
        print(f"{len(missing)} of {len(units)} units are still missing; other processes run them.")
    else:
        print(report.report(_OUT.value))


if __name__ == "__main__":
    run(main)

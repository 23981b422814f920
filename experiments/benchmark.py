"""Measures probejax against reference implementations, both in this run, on the same cores.

    python -m experiments.benchmark --suite=harvest

Prints one JSON line per figure: what was measured, ours, theirs, their ratio and the target. Needs
the test extra and the repository, where the references live (tests/reference). `--dry_run` says
what a suite measures, and of `probes` which records `--only` names.
"""

import inspect
import statistics
import time
from collections.abc import Callable

from absl import flags

from experiments import flags as common
from experiments.benchmarks import audit, compile, harvest, multitoken, probes, saes
from experiments.entry import run
from probejax import artifacts, devices, storage

for _flag in (common.CACHE_DIR, common.DRY_RUN):
    flags.declare_key_flag(_flag)
_PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder with the study's result files; of CoLA's judges, for `audit`."
)
_DONE = flags.DEFINE_string(
    "done", None, "File of JSON lines in which `audit` keeps its cells; those there stay."
)
_TASKS = flags.DEFINE_integer(
    "audit_tasks", 6, "Tasks of which `audit` reads prompts with a model.", 1
)
_PARTS = flags.DEFINE_list("audit_parts", list(audit.PARTS), "What `audit` measures.")
_SEEDS = flags.DEFINE_integer("audit_seeds", 1, "Draws of the labels that `audit` flips.", 1)
_NAMED = flags.DEFINE_list(
    "flipped_tasks", [], "Tasks whose labels `audit` flips, in place of the first of its list."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Times each side runs; the median counts.", 1)


def seconds(function: Callable[[], object]) -> float:
    """Returns the median wall time of a function that has run once before."""
    times = []
    for _ in range(_REPEATS.value):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


SUITES = {  # what says what it measures, and what does
    "audit": (
        audit,
        lambda: audit.suite(
            common.CACHE_DIR.value,
            *(_PUBLISHED.value, _DONE.value, _TASKS.value, _PARTS.value),
            names=_NAMED.value,
            seeds=_SEEDS.value,
        ),
    ),
    "compile": (compile, lambda: compile.suite(common.CACHE_DIR.value)),
    "harvest": (harvest, lambda: harvest.suite(seconds, common.CACHE_DIR.value)),
    "probes": (probes, lambda: probes.suite(_REPEATS.value, common.CACHE_DIR.value)),
    "saes": (saes, lambda: saes.suite(seconds)),
    "multitoken": (multitoken, lambda: multitoken.suite(common.CACHE_DIR.value)),
}
_SUITE = flags.DEFINE_enum("suite", None, list(SUITES), "What to measure.", required=True)


def main(_: list[str]) -> None:
    """Runs one suite, or says what it is."""
    about, suite = SUITES[_SUITE.value]
    if common.DRY_RUN.value:
        print(inspect.getdoc(about))
        if _SUITE.value == "probes":
            wanted = probes.wanted(common.CACHE_DIR.value)
            print("\nrecord, and the ratio to reach:")
            print("\n".join(f"{name}  {goal or '-'}" for name, (goal, _) in wanted.items()))
        return
    devices.compilation_cache(artifacts.cache_dir(common.CACHE_DIR.value))
    for figure in suite():
        print(storage.encode_json(figure), flush=True)


if __name__ == "__main__":
    run(main)

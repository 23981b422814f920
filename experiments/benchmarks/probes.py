"""The suite `probes` of the benchmark: every method against the study's, on the same cores.

Both sides run in one process per core with one thread each, which is the fastest way to run
scikit-learn's and, with small steps, XLA's too. Costs are seconds of one core while the other cores
work on the same; so a ratio of costs is one of throughputs. What ours compiles is told apart.

    python -m experiments.benchmark --suite=probes --only='knn/*' --benchmark_tasks=119_us_state_TX
"""

import contextlib
import dataclasses
import fnmatch
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmarks import synthetic_activations
from experiments.benchmarks.costs import Bench, Costs, Problems, compare, total
from experiments.benchmarks.probe_pieces import (
    Piece,
    Problem,
    Workers,
    alone,
    choose,
    measure,
)
from probejax import sizes, sweep, tasks
from probejax.probes import methods
from probejax.probes.logreg import STRENGTHS

_TASKS = flags.DEFINE_list(
    "benchmark_tasks",
    None,
    "Suite probes: tasks whose activations are used. Default: three of them, and for the whole "
    "sweep those of `demo`.",
)
_ONLY = flags.DEFINE_string("only", "*", "Suite probes: records to measure, a glob over names.")
_SAMPLE = flags.DEFINE_integer(
    "sample",
    1,
    "Suite probes: of theirs, conditions run for every regime and padded size where all would take "
    "too long; every repeat draws others. 0 runs all.",
    0,
)

_SOME = ("119_us_state_TX", "5_hist_fig_ismale", "125_world_country_Italy")
_SHORT = tasks.match(["11[4-9]_*", "12[0-8]_*", "154_*"])  # whose prompts are a few tokens
_GROWING = ("logreg", "pca", "sae_k16")
_SYNTHETIC, _SEEDS = "synthetic_", "@"
_ROWS = 3000  # of synthetic activations; the mean of the study's tasks
_SAE_METHODS = ("sae_k16", "sae_k128")


def standard(bench: Bench, method: str, names: Sequence[str]) -> dict:
    """Measures one standard condition with its whole search."""
    sides = [
        [bench.one(side, method, name, (bench.standard(name),)) for name in names]
        for side in ("ours", "theirs")
    ]
    return compare(*sides, tasks=list(names))


def every(bench: Bench, method: str, names: Sequence[str]) -> dict:
    """Measures all conditions of a task in one call."""
    ours, theirs = ([bench.every(s, method, n) for n in names] for s in ("ours", "theirs"))
    sampled = {name: bench.sampled(name) for name in names} if bench.sample else None
    return compare(ours, theirs, tasks=list(names), sampled=sampled)


def rivals(bench: Bench, method: str, name: str) -> dict[float, Any]:
    """Finds, for each C, the fastest solver of others on a standard condition at our tolerance.

    Where no solver of others gets there, the strength is left out.
    """
    piece = Piece("theirs", bench.problem(name)[0], method, (bench.standard(name),))
    found = bench.workers.run(choose, [(piece, C) for C in STRENGTHS.tolist()])
    by_C = {C: choice for C, choice in zip(STRENGTHS.tolist(), found, strict=True) if choice}
    if not by_C:
        raise ValueError(
            f"{method} on {name}: no solver of others reaches a relative gap of 1e-6 at any C; "
            "this record cannot be measured."
        )
    return by_C


def at_equal_accuracy(bench: Bench, method: str, names: Sequence[str]) -> dict:
    """Measures one standard condition against the fastest solver for each C.

    Where no solver of others gets there, theirs leave the strength out; ours never do.
    """
    chosen = [rivals(bench, method, name) for name in names]
    ours, theirs = [], []
    for name, by_C in zip(names, chosen, strict=True):
        which = (bench.standard(name),)
        ours.append(bench.one("ours", method, name, which))
        theirs.append(bench.one("theirs", method, name, which, by_C))
    return compare(ours, theirs, tasks=list(names), **_about(chosen))


def _about(chosen: Sequence[dict[float, Any]]) -> dict:
    """Says which solvers of others were taken, and where there was none."""
    every = [choice for by_C in chosen for choice in by_C.values()]
    left_out = {C for by_C in chosen for C in set(STRENGTHS.tolist()) - set(by_C)}
    return {
        "solvers": sorted({f"{choice.solver} {choice.tolerance:.0e}" for choice in every}),
        "worst_gap": float(f"{max(choice.gap for choice in every):.1e}"),
        "left_out": [f"{C:g}" for C in sorted(left_out)],
    }


def fits_a_second(bench: Bench, method: str, names: Sequence[str], equal: bool) -> dict:
    """Measures fits of large conditions: certified ones of ours in one call, theirs one by one.

    A condition is a path of strengths on the rows of its fold, and a refit on all of them.

    Args:
      bench: measures.
      method: solved to a relative gap of 1e-6 on our side.
      names: of problems.
      equal: whether theirs are the fastest solvers that get there, else scikit-learn's as the study
        calls it.
    """
    ours, theirs, chosen = [], [], []
    for name in names:
        conditions = bench.problem(name)[1]
        large = [i for i, c in enumerate(conditions) if len(c.train) > sizes.TRAIN[-1] // 2]
        by_C = rivals(bench, method, name) if equal else None
        chosen += [by_C] if by_C else []
        own = bench.one("ours", method, name, large)
        other = bench.one("theirs", method, name, (bench.standard(name),), by_C)
        ours.append(own.per(len(large) * (len(STRENGTHS) + 1)))
        theirs.append(other.per(len(by_C or STRENGTHS) + 1))
    found = compare(ours, theirs, tasks=list(names), **(_about(chosen) if chosen else {}))
    for side, costs in (("ours", ours), ("theirs", theirs)):
        found[side] = round(1 / float(np.median([np.median(each.wall) for each in costs])), 2)
    return found | {"unit": "fits a second of a core"}


def default_threads(bench: Bench, method: str, name: str) -> dict:
    """Measures theirs once with one thread per core in one process."""
    which = (bench.standard(name),)
    piece = Piece("theirs", bench.problem(name)[0], method, which)
    timing = alone(measure, (piece, 1), bench.workers.count)
    # It has all cores to itself.
    costs = bench.workers.count * np.array(timing.wall), np.array(timing.cpu)
    found = compare([bench.one("ours", method, name, which)], [Costs(*costs)], tasks=[name])
    return found | {"threads": "default", "seconds": round(timing.wall[0], 2)}


def whole(
    bench: Bench, names: Sequence[str], *, with_xgboost: bool = False, cold: bool = False
) -> dict:
    """Measures all methods, tasks and regimes: the sum of their costs, what we compile too if cold.

    Every task is asked for in the same processes, so the later ones find the programs there.
    """
    kinds = (*methods.DEFAULT, *(("xgboost",) if with_xgboost else ()))
    steps = {"ours": (*kinds, "select"), "theirs": (*kinds, "rank")}
    parts = {
        (side, step): total([bench.every(side, step, name) for name in names])
        for side in steps
        for step in steps[side]
    }
    parts["theirs", "encode"] = total([bench.one("theirs", "encode", name, ()) for name in names])
    ours, theirs = (total([c for (s, _), c in parts.items() if s == side]) for side in steps)
    seconds = {
        side: {
            step: round(float(np.median(c.wall)), 2) for (s, step), c in parts.items() if s == side
        }
        for side in steps
    }
    sampled = {name: bench.sampled(name) for name in names} if bench.sample else None
    ours = ours.cold() if cold else ours
    return compare([ours], [theirs], tasks=list(names), sampled=sampled, seconds=seconds)


def growth_with_tasks(bench: Bench, names: Sequence[str], cache_dir: str | None) -> dict:
    """Measures a sweep over several tasks against the sum of sweeps over each."""
    config = sweep.Config(tasks=tuple(names), methods=_GROWING)
    job = sweep.Execution(sweep.resolve(config, cache_dir))
    for name in names:
        job.prepare(name)
    alone = [bench.sweep(dataclasses.replace(config, tasks=(name,)), cache_dir) for name in names]
    return compare(
        [bench.sweep(config, cache_dir)],
        [total(alone)],
        tasks=list(names),
        methods=_GROWING,
        against="linear growth",
    )


def growth_with_seeds(bench: Bench, names: Sequence[str], seeds: int) -> dict:
    """Measures all conditions on several seeds against as many times those on one."""
    steps = (*_GROWING, "select")

    def every_step(name: str) -> Costs:
        return total([bench.every("ours", step, name) for step in steps])

    many = [every_step(f"{name}{_SEEDS}{seeds}") for name in names]
    linear = [every_step(name).times(seeds) for name in names]
    return compare(many, linear, tasks=list(names), methods=steps, against="linear growth")


def records(
    some: Sequence[str], demo: Sequence[str], cache_dir: str | None
) -> dict[str, tuple[float | None, Callable]]:
    """Returns name -> the ratio to reach, and what measures it.

    Args:
      some: tasks for what concerns one task.
      demo: tasks of the whole sweep.
      cache_dir: where downloads and activations live.
    """
    made = {d: (f"{_SYNTHETIC}{d}",) for d in (2304, 3584)}
    # What is cold must come first.
    found: dict[str, tuple[float | None, Callable]] = {
        "sweep/cold": (12.0, lambda b: whole(b, demo, cold=True))
    }
    for d, names, target, target_of_all in (
        (640, some, 8.0, 20.0),
        (2304, made[2304], 25.0, 50.0),
        (3584, made[3584], None, None),
    ):
        found[f"logreg/standard/{d}"] = target, lambda b, n=names: standard(b, "logreg", n)
        found[f"logreg/all/{d}"] = target_of_all, lambda b, n=names: every(b, "logreg", n)
    found |= {
        "logreg/equal_accuracy/2304": (30.0, lambda b: at_equal_accuracy(b, "logreg", made[2304])),
        "logreg/default_threads/640": (None, lambda b: default_threads(b, "logreg", some[0])),
        "sae_k128/standard": (30.0, lambda b: standard(b, "sae_k128", some)),
        "sae_k128/equal_accuracy": (3.0, lambda b: at_equal_accuracy(b, "sae_k128", some)),
    }
    for equal, target, end in ((False, 8.0, ""), (True, 30.0, "/equal_accuracy")):
        for method, d, names in (
            *(("logreg", d, names) for d, names in ((640, some), *made.items())),
            ("sae_k128", 640, some),
        ):
            found[f"fits/{method}/{d}{end}"] = (
                target,
                lambda b, m=method, n=names, e=equal: fits_a_second(b, m, n, e),
            )
    for method, target in (("knn", 8.0), ("pca", 2.0), ("mlp", 2.0), ("xgboost", 3.0)):
        found[f"{method}/standard"] = target, lambda b, m=method: standard(b, m, some)
        found[f"{method}/all"] = target, lambda b, m=method: every(b, m, some)
    for seeds in (3, 9):
        found[f"growth/seeds/{seeds}"] = 1.0, lambda b, n=seeds: growth_with_seeds(b, some[:1], n)
    for count in (4, 16):
        found[f"growth/tasks/{count}"] = (
            1.0,
            lambda b, names=_SHORT[:count]: growth_with_tasks(b, names, cache_dir),
        )
    found["sweep/without_xgboost"] = 12.0, lambda b: whole(b, demo)
    found["sweep/with_xgboost"] = 4.0, lambda b: whole(b, demo, with_xgboost=True)
    return found


def problems(cache_dir: str | None) -> Problems:
    """Returns where problems come from: tasks by their name, and synthetic_<d_model>.

    Of a task `@<count>` draws every condition on so many seeds.
    """

    def problem(name: str) -> Problem:
        if name.startswith(_SYNTHETIC):
            x, y = synthetic_activations.draw(_ROWS, int(name.removeprefix(_SYNTHETIC)))
            return Problem(x, tasks.conditions(y, tasks.REGIMES))
        name, _, count = name.partition(_SEEDS)
        seeds = tuple(range(42, 42 + int(count or 1)))
        config = sweep.Config(tasks=(name,), methods=("logreg",), seeds=seeds)
        data = sweep.Execution(sweep.resolve(config, cache_dir)).data(name)
        return Problem(np.asarray(data.features), data.conditions)

    return problem


def check_references() -> None:
    """Looks whether the reference implementations can run.

    Raises:
      FileNotFoundError: one of them, or a library that it needs, is missing.
    """
    try:
        from tests.reference import rival_solvers, study_as_shipped  # noqa: F401
    except ImportError as error:
        raise FileNotFoundError(
            f"--suite=probes compares with tests/reference, which needs {error.name}; run it in "
            "the root of a checkout, with the test extra: pip install -e '.[test]'."
        ) from error


def wanted(cache_dir: str | None) -> dict[str, tuple[float | None, Callable]]:
    """Returns those of `records` that --only names.

    Raises:
      ValueError: it names none, or a task does not exist.
    """
    names = tasks.match(_TASKS.value) if _TASKS.value else ()
    every_record = records(names or _SOME, names or tasks.DEMO, cache_dir)
    found = {name: every_record[name] for name in fnmatch.filter(every_record, _ONLY.value)}
    if not found:
        raise ValueError(f"--only={_ONLY.value} names none of {', '.join(every_record)}.")
    return found


def suite(repeats: int, cache_dir: str | None) -> Iterator[dict]:
    """Yields the records that --only names.

    Raises:
      ValueError: as for `wanted`.
      FileNotFoundError: see `check_references`.
    """
    check_references()
    chosen = wanted(cache_dir)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = Workers(os.path.join(folder, "compiled"))
        stack.callback(workers.close)
        bench = Bench(workers, folder, problems(cache_dir), repeats, _SAMPLE.value)
        for name, (target, measured) in chosen.items():
            yield {"name": name, "target": target, "repeats": repeats, **measured(bench)}

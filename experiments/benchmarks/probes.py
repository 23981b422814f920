"""The suite `probes` of the benchmark: every method against the study's, on the same cores.

Both sides run in one process per core with one thread each, which is the fastest way to run
scikit-learn's and, with small steps, XLA's too. Costs are seconds of one core while the other cores
work on the same; so a ratio of costs is one of throughputs. What ours compiles is told apart.

    python -m experiments.benchmark --suite=probes --only='knn/*' --benchmark_tasks=119_us_state_TX
"""

import contextlib
import fnmatch
import os
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.benchmarks import synthetic_activations
from experiments.benchmarks.probe_pieces import (
    Piece,
    Problem,
    Timing,
    Workers,
    alone,
    choose,
    is_batched,
    measure,
)
from probejax import sizes, sweep, tasks
from probejax.probes import methods
from probejax.probes.logreg import STRENGTHS
from probejax.tasks import Condition

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
_SYNTHETIC = "synthetic_"
_ROWS = 3000  # of synthetic activations; the mean of the study's tasks
_SAE_METHODS = ("sae_k16", "sae_k128")
Problems = Callable[[str], Problem]


class Costs(NamedTuple):
    """Seconds of a core for one problem and method, one entry per repeat; compiling apart."""

    wall: np.ndarray
    cpu: np.ndarray
    compile: float = 0.0


class Bench:
    """Measures pieces, each once however many records need it."""

    def __init__(
        self, workers: Workers, folder: str, problems: Problems, repeats: int, sample: int
    ):
        """Takes workers, a folder for what they read, and where problems come from."""
        self.workers, self.repeats, self.sample = workers, repeats, sample
        self._folder, self._problems = Path(folder), problems
        self._known: dict[str, tuple[str, list[Condition]]] = {}
        self._costs: dict[tuple, Costs] = {}

    def problem(self, name: str) -> tuple[str, list[Condition]]:
        """Returns the file of a problem and its conditions."""
        if name not in self._known:
            found, path = self._problems(name), self._folder / f"{name}.pickle"
            path.write_bytes(pickle.dumps(found))
            self._known[name] = str(path), found.conditions
        return self._known[name]

    def standard(self, name: str) -> int:
        """Returns which of a problem's conditions is the standard one."""
        return next(i for i, c in enumerate(self.problem(name)[1]) if c.regime == "standard")

    def one(self, side: str, method: str, name: str, which: Sequence[int], choices=None) -> Costs:
        """Measures some conditions in one call, every worker the same at the same time."""
        key = (side, method, name, tuple(which), choices is None)
        if key not in self._costs:
            piece = Piece(side, self.problem(name)[0], method, tuple(which), choices)
            jobs = [(piece, self.repeats)] * self.workers.count
            found: list[Timing] = self.workers.run(measure, jobs)
            wall, cpu = (np.mean([getattr(t, f) for t in found], axis=0) for f in ("wall", "cpu"))
            first = float(np.mean([timing.first for timing in found]))
            self._costs[key] = Costs(wall, cpu, max(0.0, first - float(np.median(wall))))
        return self._costs[key]

    def every(self, side: str, method: str, name: str) -> Costs:
        """Measures all conditions of a problem: in one call, or from a sample if not batched."""
        path, conditions = self.problem(name)
        if is_batched(side, method):
            return self.one(side, method, name, range(len(conditions)))
        key = (side, method, name)
        if key not in self._costs:
            drawn = [drawing(conditions, self.sample, seed) for seed in range(self.repeats)]
            jobs = [(Piece(side, path, method, (i,)), 1) for one in drawn for i in one]
            found = iter(self.workers.run(measure, jobs))
            costs = np.array(
                [
                    np.sum([_scaled(next(found), weight) for weight in one.values()], axis=0)
                    for one in drawn
                ]
            )
            self._costs[key] = Costs(*costs.T)
        return self._costs[key]

    def sampled(self, name: str) -> str:
        """Says how much of what is sampled is run and how much is inferred."""
        conditions = self.problem(name)[1]
        count = len(drawing(conditions, self.sample, 0))
        return f"{count} of {len(conditions)} conditions, other ones in every repeat"


def _scaled(timing: Timing, weight: float) -> tuple[float, float]:
    return weight * timing.wall[0], weight * timing.cpu[0]


def drawing(conditions: Sequence[Condition], count: int, seed: int) -> dict[int, float]:
    """Draws some conditions of every regime and padded training size.

    Args:
      conditions: to draw from.
      count: of each kind; 0 for all.
      seed: of the draw.

    Returns:
      Which conditions, and how many each stands for.
    """
    rng = np.random.default_rng(seed)
    kinds: dict[tuple[str, int], list[int]] = {}
    for i, c in enumerate(conditions):
        size = sizes.up(len(c.train), sizes.TRAIN)
        kinds.setdefault((c.regime, size), []).append(i)
    found = {}
    for members in kinds.values():
        size = min(count or len(members), len(members))
        for i in rng.choice(members, size, replace=False).tolist():
            found[i] = len(members) / size
    return found


def compare(ours: Sequence[Costs], theirs: Sequence[Costs], **more) -> dict:
    """Compares the costs of several problems: medians over repeats, then over problems."""
    ratios = [b.wall / a.wall for a, b in zip(ours, theirs, strict=True)]
    cpu = [np.median(b.cpu / a.cpu) for a, b in zip(ours, theirs, strict=True)]

    def seconds(costs: Sequence[Costs]) -> float:
        return round(statistics.median(float(np.median(each.wall)) for each in costs), 4)

    return {
        "ours": seconds(ours),
        "theirs": seconds(theirs),
        "unit": "s of a core",
        "ratio": round(statistics.median(float(np.median(each)) for each in ratios), 2),
        "ratio_of_cpu_time": round(statistics.median(map(float, cpu)), 2),
        "range": [round(float(f(np.concatenate(ratios))), 2) for f in (np.min, np.max)],
        "compile": round(statistics.median(each.compile for each in ours), 2),
        **more,
    }


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


def at_equal_accuracy(bench: Bench, method: str, names: Sequence[str]) -> dict:
    """Measures one standard condition against the fastest solver for each C.

    Where no solver of others gets there, theirs leave the strength out; ours never do.
    """
    ours, theirs, choices, left_out = [], [], [], set()
    for name in names:
        which = (bench.standard(name),)
        piece = Piece("theirs", bench.problem(name)[0], method, which)
        grid = STRENGTHS.tolist()
        found = bench.workers.run(choose, [(piece, C) for C in grid])
        by_C = {C: choice for C, choice in zip(grid, found, strict=True) if choice}
        if not by_C:
            raise ValueError(
                f"{method} on {name}: no solver of others reaches a relative gap of 1e-6 at any C; "
                "this record cannot be measured."
            )
        choices += by_C.values()
        left_out |= set(grid) - set(by_C)
        ours.append(bench.one("ours", method, name, which))
        theirs.append(bench.one("theirs", method, name, which, by_C))
    more = {
        "solvers": sorted({f"{choice.solver} {choice.tolerance:.0e}" for choice in choices}),
        "worst_gap": float(f"{max(choice.gap for choice in choices):.1e}"),
        "left_out": [f"{C:g}" for C in sorted(left_out)],
    }
    return compare(ours, theirs, tasks=list(names), **more)


def default_threads(bench: Bench, method: str, name: str) -> dict:
    """Measures theirs once with one thread per core in one process."""
    which = (bench.standard(name),)
    piece = Piece("theirs", bench.problem(name)[0], method, which)
    timing = alone(measure, (piece, 1), bench.workers.count)
    # It has all cores to itself.
    costs = bench.workers.count * np.array(timing.wall), np.array(timing.cpu)
    found = compare([bench.one("ours", method, name, which)], [Costs(*costs)], tasks=[name])
    return found | {"threads": "default", "seconds": round(timing.wall[0], 2)}


def whole(bench: Bench, names: Sequence[str], with_xgboost: bool) -> dict:
    """Measures all methods, tasks and regimes: the sum of their costs."""
    kinds = (*methods.DEFAULT, *(("xgboost",) if with_xgboost else ()))
    steps = {"ours": (*kinds, "select"), "theirs": (*kinds, "rank")}
    parts = {
        (side, step): _sum([bench.every(side, step, name) for name in names])
        for side in steps
        for step in steps[side]
    }
    parts["theirs", "encode"] = _sum([bench.one("theirs", "encode", name, ()) for name in names])
    ours, theirs = (_sum([c for (s, _), c in parts.items() if s == side]) for side in steps)
    seconds = {
        side: {
            step: round(float(np.median(c.wall)), 2) for (s, step), c in parts.items() if s == side
        }
        for side in steps
    }
    sampled = {name: bench.sampled(name) for name in names} if bench.sample else None
    return compare([ours], [theirs], tasks=list(names), sampled=sampled, seconds=seconds)


def _sum(costs: Sequence[Costs]) -> Costs:
    return Costs(
        np.sum([c.wall for c in costs], axis=0),
        np.sum([c.cpu for c in costs], axis=0),
        sum(c.compile for c in costs),
    )


def records(some: Sequence[str], demo: Sequence[str]) -> dict[str, tuple[float | None, Callable]]:
    """Returns name -> the ratio to reach, and what measures it.

    Args:
      some: tasks for what concerns one task.
      demo: tasks of the whole sweep.
    """
    made = {d: (f"{_SYNTHETIC}{d}",) for d in (2304, 3584)}
    found: dict[str, tuple[float | None, Callable]] = {}
    for d, names, target, target_of_all in (
        (640, some, 8.0, 20.0),
        (2304, made[2304], 25.0, 50.0),
        (3584, made[3584], None, None),
    ):
        found[f"logreg/standard/{d}"] = target, lambda b, n=names: standard(b, "logreg", n)
        found[f"logreg/all/{d}"] = target_of_all, lambda b, n=names: every(b, "logreg", n)
    equal = at_equal_accuracy
    found |= {
        "logreg/equal_accuracy/2304": (30.0, lambda b: equal(b, "logreg", made[2304])),
        "logreg/default_threads/640": (None, lambda b: default_threads(b, "logreg", some[0])),
        "sae_k128/standard": (30.0, lambda b: standard(b, "sae_k128", some)),
        "sae_k128/equal_accuracy": (3.0, lambda b: equal(b, "sae_k128", some)),
    }
    for method, target in (("knn", 8.0), ("pca", 2.0), ("mlp", 2.0), ("xgboost", 3.0)):
        found[f"{method}/standard"] = target, lambda b, m=method: standard(b, m, some)
        found[f"{method}/all"] = target, lambda b, m=method: every(b, m, some)
    found["sweep/without_xgboost"] = 12.0, lambda b: whole(b, demo, False)
    found["sweep/with_xgboost"] = 4.0, lambda b: whole(b, demo, True)
    return found


def problems(cache_dir: str | None) -> Problems:
    """Returns where problems come from: tasks by their name, and synthetic_<d_model>."""

    def problem(name: str) -> Problem:
        if name.startswith(_SYNTHETIC):
            x, y = synthetic_activations.draw(_ROWS, int(name.removeprefix(_SYNTHETIC)))
            return Problem(x, tasks.conditions(y, tasks.REGIMES))
        config = sweep.Config(tasks=(name,), methods=("logreg",))
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


def suite(repeats: int, cache_dir: str | None) -> Iterator[dict]:
    """Yields the records that --only names.

    Raises:
      ValueError: it names none, or a task does not exist.
      FileNotFoundError: see `check_references`.
    """
    check_references()
    names = tasks.match(_TASKS.value) if _TASKS.value else ()
    every_record = records(names or _SOME, names or tasks.DEMO)
    wanted = fnmatch.filter(every_record, _ONLY.value)
    if not wanted:
        raise ValueError(f"--only={_ONLY.value} names none of {', '.join(every_record)}.")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = Workers(os.path.join(folder, "compiled"))
        stack.callback(workers.close)
        bench = Bench(workers, folder, problems(cache_dir), repeats, _SAMPLE.value)
        for name in wanted:
            target, measured = every_record[name]
            yield {"name": name, "target": target, "repeats": repeats, **measured(bench)}

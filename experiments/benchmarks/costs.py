"""What a piece of work costs on either side, measured once, and how two sides compare."""

import pickle
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.probe_pieces import (
    Piece,
    Problem,
    Timing,
    Workers,
    is_batched,
    measure,
    measure_sweep,
)
from probejax import sizes
from probejax.sweep import Config
from probejax.tasks import Condition

Problems = Callable[[str], Problem]


class Costs(NamedTuple):
    """Seconds of a core for one problem and method, one entry per repeat; compiling apart."""

    wall: np.ndarray
    cpu: np.ndarray
    compile: float = 0.0

    def per(self, count: int) -> "Costs":
        """Returns the costs of one of so many parts."""
        return Costs(self.wall / count, self.cpu / count, self.compile)

    def times(self, count: int) -> "Costs":
        """Returns the costs of doing it so many times, compiled once."""
        return Costs(self.wall * count, self.cpu * count, self.compile)

    def cold(self) -> "Costs":
        """Returns the costs of doing it with nothing compiled before."""
        return Costs(self.wall + self.compile, self.cpu + self.compile, self.compile)


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
            self._costs[key] = _mean(self.workers.run(measure, jobs))
        return self._costs[key]

    def sweep(self, config: Config, cache_dir: str | None) -> Costs:
        """Measures all units of a sweep, every worker the same at the same time."""
        jobs = [(config, cache_dir, self.repeats)] * self.workers.count
        return _mean(self.workers.run(measure_sweep, jobs))

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


def _mean(timings: Sequence[Timing]) -> Costs:
    """Returns the costs of what workers did at the same time."""
    wall, cpu = (np.mean([getattr(t, field) for t in timings], axis=0) for field in ("wall", "cpu"))
    first = float(np.mean([timing.first for timing in timings]))
    return Costs(wall, cpu, max(0.0, first - float(np.median(wall))))


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


def total(costs: Sequence[Costs]) -> Costs:
    """Returns the costs of several pieces together."""
    return Costs(
        np.sum([c.wall for c in costs], axis=0),
        np.sum([c.cpu for c in costs], axis=0),
        sum(c.compile for c in costs),
    )

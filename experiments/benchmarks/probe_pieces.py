"""What worker processes of the suite `probes` do: a method on some conditions, by either side.

A worker has one core and one thread, whichever side it works for.
"""

import functools
import multiprocessing
import os
import pickle
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probejax import devices, probes, saes, sweep
from probejax.probes.logreg import STRENGTHS
from probejax.solvers import l1, l2
from probejax.sweep import data as task_data
from probejax.tasks import Condition

MOST_LATENTS = 128
_TIGHT = 1e-9  # what the best known objective is solved to, or as far as it goes


class Piece(NamedTuple):
    """Some work of one side.

    Attributes:
      side: `ours` or `theirs`.
      problem: file with a `Problem`.
      method: one of probejax's; `select` (ours) or `encode` and `rank` (theirs), which is what SAE
        methods do before they fit.
      conditions: which of the problem's.
      choices: for theirs, what to run instead of the study's solver, by C.
    """

    side: str
    problem: str
    method: str
    conditions: tuple[int, ...]
    choices: Any = None


class Problem(NamedTuple):
    """Activations [N, d] float32, and conditions that name their rows."""

    features: np.ndarray
    conditions: list[Condition]


class Timing(NamedTuple):
    """Seconds by the clock and of the processor; `first` is what the first run took, if apart."""

    first: float
    wall: list[float]
    cpu: list[float]


def is_batched(side: str, method: str) -> bool:
    """Tells whether conditions are fitted together, by programs that are compiled.

    Ours are, but for those of xgboost: its fits share next to nothing.
    """
    return side == "ours" and method != "xgboost"


def measure(piece: Piece, repeats: int) -> Timing:
    """Times a piece; what is compiled for it has run once before."""
    return _timed(prepare(piece), is_batched(piece.side, piece.method), repeats)


def measure_sweep(config: sweep.Config, cache_dir: str | None, repeats: int) -> Timing:
    """Times all units of a sweep, from activations on the disk to results in memory."""

    def work():
        job = sweep.Execution(sweep.resolve(config, cache_dir))
        for unit in job.plan.units():
            job.run(unit)

    return _timed(work, True, repeats)


def _timed(work: Callable[[], Any], compiles: bool, repeats: int) -> Timing:
    first, wall, cpu = 0.0, [], []
    if compiles:
        began = time.perf_counter()
        work()
        first = time.perf_counter() - began
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    return Timing(first, wall, cpu)


def prepare(piece: Piece) -> Callable[[], list]:
    """Loads what a piece needs, and returns the work that is timed."""
    return (_ours if piece.side == "ours" else _theirs)(piece)


def _ours(piece: Piece) -> Callable[[], list]:
    features, conditions = _on_device(piece.problem), _conditions(piece)
    if piece.method == "select":
        return lambda: [_select(features, rows) for _, rows in _batches(conditions)]
    method = probes.parse(piece.method)
    if not method.k:
        fit = probes.BASELINES[method.family]
        return lambda: [fit(features, rows) for _, rows in _batches(conditions)]
    chosen = _selections(piece.problem, piece.conditions)
    return lambda: [
        probes.sae.fit(selection, rows, method.k)
        for selection, (_, rows) in zip(chosen, _batches(conditions), strict=True)
    ]


def _theirs(piece: Piece) -> Callable[[], list]:
    from tests.reference import rival_solvers, study_as_shipped, study_probes

    x, conditions = _load(piece.problem).features, _conditions(piece)
    if piece.method == "encode":
        return lambda: [study_as_shipped.encode(_sae(), x)]
    if piece.method == "rank":
        latents = _latents(piece.problem)
        return lambda: [
            study_probes.rank(latents[c.train], c.y_train, MOST_LATENTS, normalised=True)
            for c in conditions
        ]
    k = probes.parse(piece.method).k
    rows = [(x[c.train], c.y_train, x[c.test], c.y_test) for c in conditions]
    if k:
        rows = [_latents_of(piece.problem, i, k) for i in piece.conditions]
    if piece.choices:
        fit = rival_solvers.planned(piece.choices, "l1" if k else "l2")
        return lambda: [study_probes.probe(*each, fit) for each in rows]
    return lambda: [study_as_shipped.probe(piece.method, *each) for each in rows]


def choose(piece: Piece, C: float) -> Any:
    """Finds the solver of others that is fastest at a relative gap of 1e-6, on the search fold.

    Args:
      piece: of theirs, with one condition that has one fold.
      C: the inverse strength.
    """
    from tests.reference import rival_solvers, study_probes

    k = probes.parse(piece.method).k
    (condition,) = _conditions(piece)
    x, y = _load(piece.problem).features[condition.train], condition.y_train
    if k:
        x, y, _, _ = _latents_of(piece.problem, piece.conditions[0], k)
    ((train, _),) = study_probes.folds(y)
    x, y, penalty = x[train], y[train], "l1" if k else "l2"
    w, b = _best(x.tobytes(), x.shape, y.tobytes(), penalty)[C]
    best = rival_solvers.objective(x, y, C, w, b, penalty)
    return rival_solvers.fastest(x, y, C, penalty, best)


@functools.lru_cache(maxsize=1)
def _best(x: bytes, shape: tuple[int, int], y: bytes, penalty: str) -> dict[float, tuple]:
    """Solves one problem at every C of the grid as well as float32 weights can say."""
    features = np.frombuffer(x, np.float32).reshape(shape)
    labels = np.frombuffer(y, np.int64).astype(np.int32)[None]
    mean, mask = features.mean(axis=0), np.ones(labels.shape, bool)
    if penalty == "l2":
        z, rows = features - mean, np.arange(labels.size)[None]
        path = l2.solve_path(z, rows, mask, labels, STRENGTHS, tolerance=_TIGHT)
    else:
        mean = np.zeros_like(mean)  # latents are zero for the most part, and stay so
        lane = map(jnp.asarray, (features[None], mask, labels, STRENGTHS))
        path = l1.solve_path(*lane, tolerance=_TIGHT)
    w, b = np.asarray(path.w[0], np.float64), np.asarray(path.b[0], np.float64)
    return {C: (w[i], b[i] - w[i] @ mean) for i, C in enumerate(STRENGTHS.tolist())}


def _conditions(piece: Piece) -> list[Condition]:
    every = _load(piece.problem).conditions
    return [every[i] for i in piece.conditions]


def _batches(conditions: list[Condition]):
    return task_data.pack(conditions).batches  # as the sweep has them: equal fits are one


def _latents_of(problem: str, condition: int, k: int):
    """Returns the study's inputs on the latents that ours chooses for one condition."""
    (chosen,) = _selections(problem, (condition,))
    c = _load(problem).conditions[condition]
    z = np.asarray(chosen.values)[:, chosen.columns[0, :k]]
    return z[c.train], c.y_train, z[c.test], c.y_test


def _select(features, rows) -> probes.sae.Selection:
    selection = probes.sae.select(features, rows, _sae(), MOST_LATENTS, "normalised")
    jax.block_until_ready(selection.values)
    return selection


@functools.lru_cache(maxsize=4)
def _selections(problem: str, conditions: tuple[int, ...]) -> list[probes.sae.Selection]:
    some = [_load(problem).conditions[i] for i in conditions]
    return [_select(_on_device(problem), rows) for _, rows in _batches(some)]


@functools.lru_cache(maxsize=1)
def _latents(problem: str) -> np.ndarray:
    return np.asarray(saes.encode(_sae(), _on_device(problem)))


@functools.lru_cache(maxsize=1)
def _sae() -> saes.SAE | saes.StoredSAE:
    return saes.shipped("gemma-3-270m")[0].load()


@functools.lru_cache(maxsize=1)
def _on_device(problem: str) -> jax.Array:
    return jnp.asarray(_load(problem).features)


@functools.lru_cache(maxsize=1)
def _load(problem: str) -> Problem:
    return pickle.loads(Path(problem).read_bytes())


class Workers:
    """One process per core of this one, each on its own core and with one thread."""

    def __init__(self, compiled: str):
        """Starts them; `compiled` is the folder for compiled programs."""
        context = multiprocessing.get_context("spawn")
        names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        threads: dict[str, str] = dict.fromkeys(names, "1")
        self._pools: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        with devices.environment(threads):
            pools = [
                ProcessPoolExecutor(1, context, _begin, (core, compiled))
                for core in sorted(os.sched_getaffinity(0))
            ]
            for started in [pool.submit(os.getpid) for pool in pools]:
                started.result()
        self.count = len(pools)
        for pool in pools:
            self._pools.put(pool)

    def run(self, function: Callable, jobs: Sequence[tuple]) -> list:
        """Calls a function for every job, in their order as workers come free."""

        def one(job: tuple):
            pool = self._pools.get()
            try:
                return pool.submit(function, *job).result()
            finally:
                self._pools.put(pool)

        with ThreadPoolExecutor(self.count) as threads:
            return list(threads.map(one, jobs))

    def close(self) -> None:
        """Ends them."""
        for _ in range(self.count):
            self._pools.get().shutdown()


def alone(function: Callable, job: tuple, threads: int) -> Any:
    """Calls a function in a process whose linear algebra has so many threads."""
    context = multiprocessing.get_context("spawn")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with (
        devices.environment(dict.fromkeys(names, str(threads))),
        ProcessPoolExecutor(1, context) as pool,
    ):
        return pool.submit(function, *job).result()


def _begin(core: int, compiled: str) -> None:
    os.sched_setaffinity(0, {core})
    devices.compilation_cache(compiled)

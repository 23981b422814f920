"""The benchmark of probes at a small size: both sides do the same work, and are counted alike."""

import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import costs as bench_costs
from experiments.benchmarks import probe_pieces, synthetic_activations
from experiments.benchmarks import probes as bench_probes
from experiments.benchmarks.costs import Bench, Costs
from experiments.benchmarks.probe_pieces import Piece, Problem, Timing
from probejax import saes, tasks
from probejax.probes import xgboost
from probejax.probes.logreg import STRENGTHS
from tests import probe_cases
from tests.reference import rival_solvers

SIZES = (3, 40, 140)
STANDARD = 2  # the last of them


class Inline:
    """Workers in this process, which count what they are given."""

    count = 2

    def __init__(self):
        self.calls = []

    def run(self, function, jobs):
        self.calls.append((function.__name__, jobs))
        return [function(*job) for job in jobs]


def conditions(y):
    found = probe_cases.conditions(y, SIZES)
    object.__setattr__(found[STANDARD], "regime", "standard")
    return found


def problem(name="some", d=24):
    x, y = synthetic_activations.draw(probe_cases.N_TASK, d)
    return Problem(x, conditions(y))


@pytest.fixture
def path(tmp_path):
    bench = Bench(Inline(), str(tmp_path), problem, 1, 0)
    return bench.problem("some")[0]


@pytest.fixture
def a_small_sae(monkeypatch):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(24, 200)).astype(np.float32)
    zeros = np.zeros(200, np.float32)
    parts = (W, zeros, None, np.zeros(24, np.float32), zeros + 10)
    sae = saes.SAE(*(part if part is None else jnp.asarray(part) for part in parts))
    monkeypatch.setattr(probe_pieces, "_sae", lambda: sae)
    return sae


def test_synthetic_activations_have_the_shape_of_real_ones():
    x, y = synthetic_activations.draw(3000, 640)
    assert x.dtype == np.float32 and y.sum() == 1500
    mean, centred = x.mean(axis=0), x - x.mean(axis=0)
    outlier = np.argmax(mean)
    assert mean[outlier] == pytest.approx(6950, rel=0.01)
    assert np.linalg.norm(x, axis=1).mean() == pytest.approx(7300, rel=0.02)
    total = (centred**2).sum()
    assert np.sqrt(total / len(x)) == pytest.approx(1100, rel=0.03)
    assert (centred[:, outlier] ** 2).sum() / total == pytest.approx(0.57, abs=0.02)
    share = np.cumsum(np.linalg.svd(centred, compute_uv=False) ** 2) / total
    for count, expected in ((1, 0.64), (4, 0.73), (16, 0.83), (64, 0.91), (256, 0.985)):
        assert share[count - 1] == pytest.approx(expected, abs=0.02)
    again, _ = synthetic_activations.draw(3000, 640)
    np.testing.assert_array_equal(x, again)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method", ["logreg", "pca", "knn", "mlp", "mean_difference", "lda", "sae_k16", "xgboost"]
)
def test_both_sides_reach_the_same_validation_auc(path, a_small_sae, monkeypatch, method):
    monkeypatch.setattr(xgboost, "DRAWS", 2)
    monkeypatch.setitem(xgboost.CHOICES, "n_estimators", [10])
    ours = probe_pieces.prepare(Piece("ours", path, method, (STANDARD,)))()[0].scores
    (theirs,) = probe_pieces.prepare(Piece("theirs", path, method, (STANDARD,)))()
    assert ours.val_auc[0] == pytest.approx(theirs["val_auc"], abs=0.05)
    assert ours.test_auc[0] == pytest.approx(theirs["test_auc"], abs=0.05)
    assert ours.test_auc[0] > 0.55


def test_both_sides_rank_the_same_latents(path, a_small_sae):
    (selection,) = probe_pieces.prepare(Piece("ours", path, "select", (STANDARD,)))()
    (ranked,) = probe_pieces.prepare(Piece("theirs", path, "rank", (STANDARD,)))()
    assert len(ranked) == 128
    np.testing.assert_array_equal(selection.latents[0][:20], ranked[:20])
    (latents,) = probe_pieces.prepare(Piece("theirs", path, "encode", ()))()
    np.testing.assert_allclose(latents, probe_pieces._latents(path), rtol=1e-4, atol=1e-2)
    assert 0.1 < (latents > 0).mean() < 0.9


def test_all_conditions_are_timed_apart_from_the_first_run(path):
    timing = probe_pieces.measure(Piece("ours", path, "mean_difference", (0, 1, 2)), 3)
    assert timing.first > 0 and min(timing.wall) > 0 and len(timing.wall) == len(timing.cpu) == 3
    assert probe_pieces.measure(Piece("theirs", path, "mean_difference", (0, 1)), 2).first == 0


def test_a_sample_stands_for_all_conditions():
    y = np.arange(1300) % 2
    every = tasks.conditions(y, tasks.REGIMES)
    drawn = bench_costs.drawing(every, 2, 0)
    assert sum(drawn.values()) == pytest.approx(len(every)) and len(drawn) < 20
    noise = [i for i in drawn if every[i].regime == "label_noise"]
    assert len(noise) == 2 and all(drawn[i] == 5.5 for i in noise)
    assert drawn != bench_costs.drawing(every, 2, 1)
    everything = bench_costs.drawing(every, 0, 0)
    assert everything == dict.fromkeys(range(len(every)), 1.0)


def test_a_ratio_is_the_median_over_repeats_and_then_over_tasks():
    def costs(*wall):
        return Costs(np.array(wall), np.array(wall) / 2, 7.0)

    found = bench_costs.compare(
        [costs(1, 1, 1), costs(2, 2, 2), costs(1, 1, 1)],
        [costs(3, 9, 4), costs(2, 2, 2), costs(10, 30, 20)],
        tasks=["a"],
    )
    assert (found["ratio"], found["ratio_of_cpu_time"], found["range"]) == (4.0, 4.0, [1.0, 30.0])
    assert (found["ours"], found["theirs"], found["compile"]) == (1.0, 4.0, 7.0)
    assert found["tasks"] == ["a"]


def test_sampled_costs_are_scaled_and_pieces_measured_once(tmp_path, monkeypatch):
    def measure(piece, repeats):
        size = 1.0 + sum(piece.conditions)
        return Timing(10.0 if piece.side == "ours" else 0.0, [size] * repeats, [size] * repeats)

    def many(name):
        x, y = synthetic_activations.draw(1300, 4)
        return Problem(x, tasks.conditions(y, ("standard", "label_noise")))

    monkeypatch.setattr(bench_costs, "measure", measure)
    workers = Inline()
    bench = Bench(workers, str(tmp_path), many, 3, 0)
    found = bench_probes.every(bench, "logreg", ["some"])
    # Twelve conditions, 0 to 11, in one call of ours and one by one of theirs.
    assert (found["ours"], found["theirs"], found["ratio"]) == (67.0, 78.0, round(78 / 67, 2))
    assert found["compile"] == 0 and found["sampled"] is None
    assert [len(jobs) for _, jobs in workers.calls] == [2, 36]
    assert bench_probes.every(bench, "logreg", ["some"]) == found
    assert len(workers.calls) == 2
    whole = bench_probes.whole(bench, ["some"], with_xgboost=False)
    steps = len(bench_probes.methods.DEFAULT) + 1  # and what selects latents
    assert whole["ours"] == steps * 67 and whole["theirs"] == steps * 78 + 1  # and what encodes
    assert whole["seconds"]["theirs"]["encode"] == 1
    count = len(workers.calls)
    bench_probes.every(bench, "xgboost", ["some"])  # one by one on both sides
    assert [len(jobs) for _, jobs in workers.calls[count:]] == [36, 36]


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["logreg", "sae_k16"])
def test_rivals_reach_the_accuracy_that_is_asked_for(tmp_path, a_small_sae, monkeypatch, method):
    monkeypatch.setattr(bench_probes, "STRENGTHS", STRENGTHS[4:6])
    monkeypatch.setattr(rival_solvers, "installed", lambda penalty: RIVALS[penalty])
    monkeypatch.setattr("tests.reference.study_probes.GRID", STRENGTHS[4:6])
    bench = Bench(Inline(), str(tmp_path), problem, 1, 1)
    found = bench_probes.at_equal_accuracy(bench, method, ["some"])
    assert -1e-6 < found["worst_gap"] <= 1e-6
    assert found["solvers"] and found["ratio"] > 0 and found["left_out"] == []
    monkeypatch.setattr(rival_solvers, "installed", lambda penalty: [])
    bench = Bench(Inline(), str(tmp_path), problem, 1, 1)
    with pytest.raises(ValueError, match=f"{method} on some: no solver .* at any C"):
        bench_probes.at_equal_accuracy(bench, method, ["some"])


@pytest.mark.thorough
def test_strengths_that_no_rival_solves_are_left_out_of_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_probes, "STRENGTHS", STRENGTHS[4:6])
    monkeypatch.setattr("tests.reference.study_probes.GRID", STRENGTHS[4:6])
    solved = {float(STRENGTHS[4]): rival_solvers.Choice("lbfgs float64", 1e-4, 100, 0.1, 1e-7)}
    monkeypatch.setattr(rival_solvers, "fastest", lambda x, y, C, *rest: solved.get(C))
    bench = Bench(Inline(), str(tmp_path), problem, 1, 1)
    found = bench_probes.at_equal_accuracy(bench, "logreg", ["some"])
    assert found["left_out"] == [f"{STRENGTHS[5]:g}"]
    assert found["solvers"] == ["lbfgs float64 1e-04"]


@pytest.mark.parametrize("exact", [False, True])
def test_fits_are_counted_on_both_sides(tmp_path, monkeypatch, exact):
    """Ours takes eleven fits of each large condition in one call, theirs a path or what it can."""
    asked = []

    def measure(piece, repeats):
        asked.append((piece.side, len(piece.conditions), piece.choices))
        seconds = [7.7 if piece.side == "ours" else 2.2] * repeats
        return Timing(9.0 if piece.side == "ours" else 0.0, seconds, seconds)

    def many(name):
        x, y = synthetic_activations.draw(1300, 4)
        return Problem(x, tasks.conditions(y, ("standard", "label_noise", "scarcity")))

    solved = {float(STRENGTHS[4]): rival_solvers.Choice("lbfgs float64", 1e-4, 100, 0.1, 1e-7)}
    monkeypatch.setattr(bench_probes, "rivals", lambda *_: solved)
    monkeypatch.setattr(bench_costs, "measure", measure)
    found = bench_probes.fits_a_second(
        Bench(Inline(), str(tmp_path), many, 1, 1), "logreg", ["some"], exact
    )
    large = asked[0][1]
    assert {side for side, *_ in asked} == {"ours", "theirs"} and 12 < large < 20
    assert found["ours"] == pytest.approx(large * 11 / 7.7, rel=1e-2)
    assert found["theirs"] == pytest.approx((2 if exact else 11) / 2.2, rel=1e-2)
    assert found["ratio"] == pytest.approx(found["ours"] / found["theirs"], rel=1e-2)
    assert asked[-1] == ("theirs", 1, solved if exact else None)
    assert found.get("solvers") == (["lbfgs float64 1e-04"] if exact else None)


def test_growth_is_told_against_as_many_single_runs(tmp_path, monkeypatch):
    def measure(piece, repeats):
        seconds = [5.0 if "@" in piece.problem else 2.0] * repeats
        return Timing(0.0, seconds, seconds)

    monkeypatch.setattr(bench_costs, "measure", measure)
    bench = Bench(Inline(), str(tmp_path), problem, 1, 1)
    found = bench_probes.growth_with_seeds(bench, ["some"], 3)
    assert (found["ours"], found["theirs"], found["ratio"]) == (20.0, 24.0, 1.2)


def test_growth_with_tasks_is_told_against_the_sum_of_sweeps_over_each(tmp_path, monkeypatch):
    prepared = []

    class Job:
        def __init__(self, config):
            self.config, self.plan = config, self

        def prepare(self, name):
            prepared.append(name)

        def units(self):
            return [(task, method) for task in self.config.tasks for method in self.config.methods]

        def run(self, unit):
            seconds[0] += 1.0

    seconds = [0.0]
    monkeypatch.setattr(probe_pieces.sweep, "resolve", lambda config, cache_dir: config)
    monkeypatch.setattr(probe_pieces.sweep, "Execution", Job)
    monkeypatch.setattr(probe_pieces.time, "perf_counter", lambda: seconds[0] + 10.0)
    bench = Bench(Inline(), str(tmp_path), problem, 1, 1)
    found = bench_probes.growth_with_tasks(bench, ["5_hist_fig_ismale", "87_glue_cola"], None)
    assert prepared == ["5_hist_fig_ismale", "87_glue_cola"]
    assert (found["ours"], found["theirs"], found["ratio"]) == (6.0, 6.0, 1.0)


def test_what_is_compiled_counts_where_the_sweep_is_cold(tmp_path, monkeypatch):
    def measure(piece, repeats):
        ours = piece.side == "ours"
        return Timing(5.0 if ours else 0.0, [2.0 if ours else 30.0], [2.0 if ours else 30.0])

    monkeypatch.setattr(bench_costs, "measure", measure)
    monkeypatch.setattr(bench_probes.methods, "DEFAULT", ("logreg",))
    bench = Bench(Inline(), str(tmp_path), problem, 1, 0)
    warm, cold = (bench_probes.whole(bench, ["some"], cold=cold) for cold in (False, True))
    assert (warm["ours"], cold["ours"]) == (4.0, 10.0)  # the fits, and what chooses latents
    assert warm["theirs"] == cold["theirs"]


RIVALS = {"l2": ["newton-cholesky float64", "lbfgs float64"], "l1": ["liblinear 1e4", "saga"]}


def test_a_looser_tolerance_and_the_faster_solver_win(monkeypatch):
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    took = {"slow": 5.0, "fast": 2.0, "never": 1.0}

    def timed(fit, x, y, C, tolerance, most):
        good = fit != "never" and tolerance < 1e-3
        return took[fit], (np.zeros(4) if good else np.ones(4), 0.0)

    monkeypatch.setattr(rival_solvers, "_timed", timed)
    monkeypatch.setitem(rival_solvers.SOLVERS, "l2", {name: name for name in took})
    found = rival_solvers.fastest(x, y, 1.0, "l2", 4 * np.log(2))
    assert (found.solver, found.tolerance, found.gap) == ("fast", pytest.approx(10**-3.5), 0)
    # A rival may iterate for as long as the best so far took, and a fifth longer.
    assert found.max_iter == int(1.2 * 10 * 5 / 2)


@pytest.mark.thorough
def test_workers_have_one_thread_and_a_core_each(tmp_path):
    before = dict(os.environ)
    workers = probe_pieces.Workers(str(tmp_path / "compiled"))
    try:
        assert workers.count == len(os.sched_getaffinity(0))
        names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        assert workers.run(os.getenv, [(name,) for name in names]) == ["1", "1", "1"]
        cores = workers.run(os.sched_getaffinity, [(0,)] * workers.count)
        assert all(len(found) == 1 for found in cores)
    finally:
        workers.close()
    assert dict(os.environ) == before


def test_missing_references_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    for name in [name for name in sys.modules if name.startswith("tests.reference.study_")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(name)
    with pytest.raises(FileNotFoundError, match="needs xgboost; run it in the root of a checkout"):
        bench_probes.check_references()


def test_records_can_be_named():
    names = list(bench_probes.records(("a",), ("a", "b"), None))
    assert len(names) == 33 and names[0] == "sweep/cold"  # before anything is compiled
    assert {"fits/sae_k128/640/equal_accuracy", "growth/seeds/9", "growth/tasks/16"} < set(names)

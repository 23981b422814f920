"""Tasks side by side on the devices of a host: lanes together, the same bytes as one by one."""

import dataclasses
import importlib
import json
import pkgutil

import jax
import pytest

import probejax
from probejax import devices, storage, sweep
from probejax.solvers import meeting
from probejax.sweep import workers
from tests import tiny_models
from tests.test_sweep import write_sae, write_task

TASKS = ("own_a", "own_b", "own_c", "own_d")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_to_import():
    """Two threads that parse a file at once can fail in Python 3.11, and annotations are checked
    by parsing."""
    for module in pkgutil.walk_packages(probejax.__path__, "probejax."):
        importlib.import_module(module.name)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("devices")
    (root / "tasks").mkdir()
    for seed, name in enumerate(TASKS):
        write_task(root / "tasks" / f"{name}.csv", 130 + 4 * seed, seed)
    (root / "sae").mkdir()
    write_sae(root / "sae" / "params.npz")
    return sweep.Config(
        model=tiny_models.write(root / "tiny"),
        site="1",
        tasks=TASKS,
        regimes=("standard", "label_noise"),
        data=str(root / "tasks"),
        sae=(str(root / "sae" / "params.npz"), "random:16:4"),
    )


def _side_by_side(job, out, count, at_once=None):
    groups = workers.by_task(job.plan.units())
    return list(workers._side_by_side(job, groups, str(out), count, True, False, at_once))


def _same(job, one, many):
    """Every unit, its scores and its probes are the same bytes."""
    for unit in job.plan.units():
        found = [json.dumps(storage.Store(out).read(unit.name)) for out in (one, many)]
        assert found[0] == found[1], unit
    for folder in ("scores", "probes"):
        files = sorted((one / folder).iterdir())
        assert len(files) == len(job.plan.units())
        for path in files:
            assert path.read_bytes() == (many / folder / path.name).read_bytes(), path.name


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["float64", "float32"])
def test_lanes_of_several_tasks_are_fitted_together_to_the_same_bytes(
    config, engine, tmp_path, monkeypatch
):
    """On one device and a thread at a time: on a CPU two programs with LAPACK may wait for ever."""
    own = dataclasses.replace(
        config,
        engine=engine,
        methods=("logreg", "pca", "lda", "ridge", "mlp", "knn", "mean_difference", "sae_k4"),
    )
    job = sweep.Execution(sweep.resolve(own, tmp_path / "cache"))
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [jax.config.jax_default_device])
    units = job.plan.units()
    one = list(sweep.run_units(job, units, str(tmp_path / "one"), save_probes=True))
    met, answered = [], meeting._Table.answered
    spy = lambda self, group, results: met.append(len(group)) or answered(self, group, results)
    monkeypatch.setattr(meeting._Table, "answered", spy)
    monkeypatch.setattr(devices, "apart", lambda: True)  # so features and states stay there
    many = _side_by_side(job, tmp_path / "many", len(TASKS), at_once=1)
    assert sorted(many) == sorted(one) == sorted(units)
    _same(job, tmp_path / "one", tmp_path / "many")
    assert len(met) > 20 and sum(size == len(TASKS) for size in met) > len(met) / 2, met


def test_tasks_have_devices_in_turn_and_share_what_is_loaded(config, tmp_path, monkeypatch):
    """On four devices at once, with methods that have no LAPACK; room for five tasks."""
    own = dataclasses.replace(config, sae=(), methods=("mean_difference", "knn"))
    job = sweep.Execution(sweep.resolve(own, tmp_path / "cache"))
    used, loaded = {}, []
    run, load = sweep.Execution.run, sweep.Execution._load_model

    def watched(self, unit):
        used.setdefault(unit.task, set()).add(jax.config.jax_default_device)
        return run(self, unit)

    monkeypatch.setattr(devices, "apart", lambda: True)
    monkeypatch.setattr(sweep.Execution, "run", watched)
    monkeypatch.setattr(sweep.Execution, "_load_model", lambda self: loaded.append(1) or load(self))
    many = _side_by_side(job, tmp_path / "many", 5)
    assert sorted(many) == sorted(job.plan.units()) and len(loaded) <= 4
    assert all(len(each) == 1 for each in used.values())
    assert set.union(*used.values()) == set(jax.local_devices())
    monkeypatch.setattr(sweep.Execution, "run", run)
    list(sweep.run_units(job, job.plan.units(), str(tmp_path / "one"), save_probes=True))
    _same(job, tmp_path / "one", tmp_path / "many")


def test_an_error_of_one_task_is_the_run_s(config, tmp_path, monkeypatch):
    own = dataclasses.replace(config, sae=(), methods=("mean_difference",))
    job = sweep.Execution(sweep.resolve(own, tmp_path / "cache"))

    def broken(self, unit):
        raise ValueError(f"{unit.task} is broken.")

    monkeypatch.setattr(sweep.Execution, "run", broken)
    with pytest.raises(ValueError, match=r"own_. is broken"):
        _side_by_side(job, tmp_path, 4)

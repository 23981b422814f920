"""Several devices of a host: a thread each, tasks of its own, the same numbers."""

import json

import jax
import pytest

from probejax import storage, sweep
from probejax.sweep import workers
from tests import tiny_models
from tests.test_sweep import write_task

METHODS = ("mean_difference", "knn")  # on a CPU two programs with LAPACK in them must not meet
TASKS = ("own_a", "own_b", "own_c", "own_d")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("devices")
    (root / "tasks").mkdir()
    for seed, name in enumerate(TASKS):
        write_task(root / "tasks" / f"{name}.csv", 130, seed)
    config = sweep.Config(
        model=tiny_models.write(root / "tiny"),
        site="1",
        tasks=TASKS,
        regimes=("standard", "label_noise"),
        methods=METHODS,
        data=str(root / "tasks"),
    )
    return sweep.Execution(sweep.resolve(config, root / "cache"))


def _groups(job):
    return workers.by_task(job.plan.units())


@pytest.mark.thorough
def test_devices_share_the_tasks_and_find_what_one_finds(job, tmp_path, monkeypatch):
    used = {}
    run = sweep.Execution.run

    def watched(self, unit):
        used.setdefault(unit.task, set()).add(jax.config.jax_default_device)
        return run(self, unit)

    one = list(sweep.run_units(job, job.plan.units(), str(tmp_path / "one")))
    monkeypatch.setattr(sweep.Execution, "run", watched)
    places = jax.local_devices()[1:]
    many = list(
        workers._on_devices(job, _groups(job), str(tmp_path / "many"), places, False, False)
    )
    assert sorted(many) == sorted(one) == sorted(job.plan.units())
    assert all(len(each) == 1 for each in used.values())
    assert len(set.union(*used.values())) > 1
    for unit in one:
        found = [
            json.dumps(storage.Store(tmp_path / name).read(unit.name)) for name in ("one", "many")
        ]
        assert found[0] == found[1]


def test_an_error_on_a_device_is_the_run_s(job, tmp_path, monkeypatch):
    def broken(self, unit):
        raise ValueError(f"{unit.task} is broken.")

    monkeypatch.setattr(sweep.Execution, "run", broken)
    with pytest.raises(ValueError, match=r"own_. is broken"):
        list(
            workers._on_devices(job, _groups(job), str(tmp_path), jax.local_devices(), False, False)
        )

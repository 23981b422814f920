"""Files that somebody writes anew while a run goes on: no unit may hold what its name denies."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import probejax as px
from probejax import storage, sweep
from probejax.sweep import cluster, processes
from tests import tiny_models
from tests.test_sweep import write_sae, write_task

D = 8
METHODS = {"methods": ("mean_difference",), "regimes": ("standard",)}


@pytest.fixture
def texts(tmp_path):
    tiny_models.write(tmp_path / "tiny")
    sae = write_sae(tmp_path / "sae")
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks" / "mine.csv", 60, 1)
    where = {"model": str(tmp_path / "tiny"), "site": 1, "data": str(tmp_path / "tasks")}
    return sweep.Config(**where, sae=(sae,), **METHODS)


@pytest.fixture
def vectors(tmp_path):
    save_vectors(tmp_path, seed=0)
    files = {"activations": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}
    return sweep.Config(**files, **METHODS)


def save_vectors(folder, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, D))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x[:, 0] > 0)


def edit_task(config):
    write_task(Path(config.data) / "mine.csv", 60, 2)


def add_shifted(config):
    write_task(Path(config.data) / "mine_OOD.csv", 60, 2)


def delete_task(config):
    (Path(config.data) / "mine.csv").unlink()


def edit_sae(config):
    (path,) = Path(config.sae[0]).glob("params.npz")
    path.unlink()
    path.parent.rmdir()
    write_sae(path.parent, d_sae=25)


def edit_model(config):
    path = Path(config.model) / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


def edit_vectors(config):
    save_vectors(Path(config.activations).parent, seed=1)


def edit_labels(config):
    np.save(config.labels, ~np.load(config.labels))


EDITS = [
    ("texts", edit_task, r"tasks/mine\.csv is not what it was when the run began, so mine__resid"),
    ("texts", add_shifted, r"tasks/mine\.csv or \S+mine_OOD\.csv is not what it was"),
    ("texts", delete_task, r"^--data=\S+tasks is not what it was"),
    ("vectors", edit_vectors, r"x\.npy or \S+y\.npy is not what it was when .*put back what was"),
    ("vectors", edit_labels, r"x\.npy or \S+y\.npy is not what it was"),
]


@pytest.mark.parametrize(("kind", "edit", "says"), EDITS)
@pytest.mark.parametrize("when", ["before the fit", "before it is written"])
def test_no_unit_is_written_of_a_file_that_was_changed(
    kind, edit, says, when, request, tmp_path, monkeypatch
):
    config = request.getfixturevalue(kind)
    job = sweep.Execution(sweep.resolve(config, tmp_path / "cache"))
    (unit,) = job.plan.units()
    if when == "before the fit":
        edit(config)
        monkeypatch.setattr(job, "run", lambda unit: pytest.fail("fits what has changed"))
    else:
        run = job.run
        monkeypatch.setattr(job, "run", lambda unit: (run(unit), edit(config))[0])
    with pytest.raises(ValueError, match=says) as caught:
        list(job.write_all([unit], str(tmp_path / "out"), save_probes=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (edit_model, r"tiny is not what it was when the run began"),
        (edit_sae, r"params\.npz is not what it was when the run began, so mine__\S+__sae_k2"),
    ],
)
def test_another_process_says_which_file_is_another(texts, tmp_path, edit, says):
    config = dataclasses.replace(texts, methods=("sae_k2",))
    (unit,) = sweep.resolve(config, tmp_path / "cache").units()
    edit(config)
    job = sweep.Execution(sweep.resolve(config, tmp_path / "cache"))
    with pytest.raises(ValueError, match=says):
        list(job.write_all([unit], str(tmp_path / "out"), save_probes=False))


def test_a_file_that_was_only_touched_is_the_same(vectors, tmp_path):
    job = sweep.Execution(sweep.resolve(vectors, tmp_path / "cache"))
    save_vectors(tmp_path, seed=0)
    assert list(job.write_all(job.plan.units(), str(tmp_path / "out"), save_probes=False))


@pytest.mark.parametrize(("kind", "edit"), [("texts", edit_task), ("vectors", edit_vectors)])
def test_a_worker_refuses_what_was_changed_before_it_opened_it(
    kind, edit, request, tmp_path, monkeypatch
):
    config, start = request.getfixturevalue(kind), processes._start
    monkeypatch.setattr(processes, "_start", lambda: (edit(config), start())[1])
    with pytest.raises(ValueError, match="is not what it was when the run began"):
        px.run(config, tmp_path / "out", cache_dir=tmp_path / "cache", workers=1, show="nothing")
    assert not storage.Store(tmp_path / "out").done()


def test_a_host_of_a_cluster_refuses_files_that_are_not_the_driver_s(vectors, tmp_path):
    units = sweep.resolve(vectors, tmp_path / "cache").units()
    edit_vectors(vectors)
    host = cluster.Host(cluster.Work(vectors, str(tmp_path / "out"), tmp_path / "cache"), 0)
    with host.open:
        done, error = host.run([units])
    assert not done and re.search("x.npy or .*y.npy is not what it was", str(error))

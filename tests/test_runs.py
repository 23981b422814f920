"""A whole run as a Python caller has it: from a script, from standard input, and read back."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import probejax as px
from probejax.runs.limits import check_limits
from probejax.saes import train
from tests.test_layers import imports
from tests.test_sweep import place, write_task

__all__ = ["place"]  # a fixture

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def config(place):
    return px.Config(
        model=str(place / "tiny"),
        site=1,
        sae=(str(place / "sae"),),
        tasks=("own_a", "own_b"),
        data=str(place / "tasks"),
        regimes=("standard", "label_noise"),
        methods=("mean_difference", "sae_k2"),
    )


@pytest.fixture(scope="module")
def finished(config, place):
    """The folder of a run, and what the call has returned."""
    out = place.parent / "out"
    settings = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    return out, px.run(config, out, save_probes=True, **settings)


def test_a_run_returns_its_results(finished):
    out, found = finished
    assert len(found.units) == 4 and set(found.units["task"]) == {"own_a", "own_b"}
    assert len(found.results) == found.units["fits"].sum() == 4 * 12
    assert set(found.quiver()["regime"]) == {"standard", "label_noise"}
    assert (out / "report.html").exists() and found.ran and found.left_out == {}
    standard = found.results[found.results["regime"] == "standard"].set_index(["task", "method"])
    for key, rows in found.scores.groupby(["task", "method"]):
        auc = roc_auc_score(rows["label"], rows["logit"])
        assert auc == pytest.approx(standard.loc[key, "test_auc"], abs=1e-6)
        assert len(rows) == standard.loc[key, "num_test"]
    for path in found.probes:
        assert px.load_probe(path).origin["task"] in ("own_a", "own_b")
    assert len(found.probes) == 4
    said = repr(found)
    assert said.startswith(f"Run in {out}. Complete: 4 units.\n48 fits (2 tasks, 2 methods, 2 regi")
    assert "mean_difference" in said and "label_noise" in said


def test_a_run_that_is_there_is_not_made_again(config, place, finished):
    out, first = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()}
    again = px.run(config, out, cache_dir=place / "cache", show="nothing")
    assert before == {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()}
    assert again.results.equals(first.results) and repr(again) == repr(first)


def test_an_unfinished_run_is_read_as_it_stands(finished, tmp_path):
    out, whole = finished
    for name in ("units", "timings"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_bytes((out / "config.json").read_bytes())
    assert "0 of 4 units" in repr(px.read(tmp_path)) and px.read(tmp_path).units.empty
    for path in sorted((out / "units").iterdir())[:3]:
        (tmp_path / "units" / path.name).write_bytes(path.read_bytes())
    found = px.read(tmp_path)
    assert found.status.startswith("Unfinished: 3 of 4 units") and len(found.results) == 36
    assert set(found.results.columns) == set(whole.results.columns) and found.probes == []


@pytest.mark.parametrize("kind", ["texts", "vectors"])
def test_a_run_that_is_interrupted_is_called_unfinished(config, place, tmp_path, monkeypatch, kind):
    """Of vectors too, whose tasks only their files tell."""
    if kind == "vectors":
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "x.npz", x=rng.normal(size=(120, 4)), y=np.arange(120) % 3)
        fields = {"methods": ("mean_difference", "ridge"), "regimes": ("standard",)}
        config = px.Config(activations=str(tmp_path / "x.npz"), **fields)
    monkeypatch.setattr("probejax.runs.start._watch", lambda finished, *_: next(finished))
    found = px.run(config, tmp_path / "out", cache_dir=place / "cache", workers=1, show="nothing")
    every = 6 if kind == "vectors" else 4
    assert found.status.startswith(f"Unfinished: 1 of {every} units")
    (tmp_path / "out" / "plan.json").write_text('{"units": 3}')
    with pytest.raises(ValueError, match=r"plan\.json .*delete it; the next run writes it anew"):
        px.read(tmp_path / "out")


def test_a_folder_without_a_run_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run: it has neither config"):
        px.read(tmp_path / "absent")
    with pytest.raises(ValueError, match="no place for results"):
        px.read("s3://bucket/run")


def test_a_share_is_a_run_that_others_finish(config, place, tmp_path, capsys):
    settings = {"cache_dir": place / "cache", "workers": 1, "count": 2}
    config = dataclasses.replace(config, methods=("mean_difference",), regimes=("standard",))
    assert len(px.run(config, tmp_path, rank=1, **settings).units) == 1
    assert "1 of 2 units are still missing; other processes run them." in capsys.readouterr().out
    assert len(px.run(config, tmp_path, rank=0, **settings).units) == 2
    assert "Complete: 2 units" in capsys.readouterr().out


def test_workers_start_whatever_stands_in_the_search_path(config, place, tmp_path, monkeypatch):
    """Python itself passes over what is no text."""
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path, b"bytes", None])
    config = dataclasses.replace(config, methods=("mean_difference",), regimes=("standard",))
    settings = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    assert len(px.run(config, tmp_path / "out", **settings).units) == 2


def test_an_interrupt_between_two_units_ends_the_workers(config, place, tmp_path, monkeypatch):
    began = []

    def interrupted(finished, *_):
        began.append(finished)
        next(finished)
        raise KeyboardInterrupt

    monkeypatch.setattr("probejax.runs.start._watch", interrupted)
    # What was raised holds every frame, so nothing ends just because nobody refers to it.
    with pytest.raises(KeyboardInterrupt):
        px.run(config, tmp_path, cache_dir=place / "cache", workers=1, show="nothing")
    assert began[0].gi_frame is None


def test_its_pages_of_examples_show_the_prompts_of_the_files(finished, config):
    out, found = finished
    for name in ("own_a", "own_b"):
        page = (out / "examples" / f"{name}.html").read_text()
        task = px.tasks.load(name, data=config.data)
        line = r'<tr><td[^>]*>(\d+)</td><td>(\w+)</td>.*?<td class="prompt">([^<]*)</td></tr>'
        shown = {(int(row), label, text) for row, label, text in re.findall(line, page)}
        tested = found.scores[found.scores["task"] == name]
        assert shown and shown <= {
            (row, task.class_names[label], task.prompts[row])
            for row, label in tested[["row", "label"]].itertuples(index=False)
        }


def test_what_cannot_run_is_left_out_and_said(config, place, tmp_path, capsys):
    for name, rows in (("good", 130), ("few", 3)):
        write_task(tmp_path / f"{name}.csv", rows, 1)
    changes = {"data": str(tmp_path), "tasks": None, "methods": ("mean_difference",)}
    config = dataclasses.replace(config, **changes, regimes=("standard",))
    found = px.run(config, tmp_path / "out", cache_dir=place / "cache", show="nothing")
    assert not found.ran and set(found.left_out) == {"few"} and set(found.units["task"]) == {"good"}
    said = capsys.readouterr()
    assert said.err.startswith("Left out: ") and "few" in said.err and said.out == ""
    assert "Left out: " in repr(found)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"show": "bar"}, "show=bar does not exist; choose from bars, json, nothing"),
        ({}, {"rank": 2, "count": 2}, "Process 2 of 2 does not exist"),
        ({}, {"out": "s3://x"}, "no place for results"),
        ({}, {"workers": -1}, "--workers=-1 must be a whole number of at least 1; leave it out"),
        ({}, {"workers": 0}, "--workers=0 must be a whole number of at least 1"),
        ({}, {"workers": True}, "--workers=True must be a whole number"),
        ({}, {"memory_gb": 0.0}, "--memory_gb=0.0 must be a number of at least 0.1; leave it out"),
        ({}, {"memory_gb": float("nan")}, "--memory_gb=nan must be a number of at least 0.1"),
        ({}, {"disk_gb": -1.0}, "--disk_gb=-1.0 must be a number of at least 0"),
        ({}, {"disk_gb": float("inf")}, "--disk_gb=inf must be a number of at least 0"),
        ({}, {"model_parallel": 0}, "--model_parallel=0 must be a whole number of at least 1"),
        ({"tasks": ("own_c",)}, {}, "there is no task 'own_c'"),
    ],
)
def test_a_mistake_is_told_before_any_work(config, tmp_path, changes, settings, message):
    arguments = {"out": tmp_path / "out", "cache_dir": tmp_path / "cache"} | settings
    with pytest.raises(ValueError, match=message):
        px.run(dataclasses.replace(config, **changes), **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["one machine", "a host of a cluster"])
def test_a_unit_without_probes_is_fitted_again_when_they_are_wanted(
    config, place, finished, tmp_path, capsys, how
):
    """It writes the same bytes; what has its probes stays."""
    whole, settings = finished[0], {"cache_dir": place / "cache", "workers": 1}
    out = tmp_path / "out"
    assert len(px.run(config, out, **settings).units) == 4
    units = lambda folder: {path.name: path.read_bytes() for path in (folder / "units").iterdir()}
    kept = next(iter((whole / "probes").iterdir()))
    (out / "probes").mkdir()
    shutil.copy(kept, out / "probes")
    before = units(out)
    if how == "one machine":
        px.run(config, out, save_probes=True, **settings)
        assert "3 finished units have no probes yet" in capsys.readouterr().out
    else:
        groups = px.sweep.by_task(px.sweep.resolve(config, place / "cache").units())
        work = px.sweep.cluster.Work(config, str(out), place / "cache", save_probes=True)
        host = px.sweep.cluster.Host(work, 0)
        with host.open:
            found, error = host.run(groups)
        assert error is None and {f"{unit.name}.json" for unit in found} == {*before}
    assert units(out) == before == units(whole)
    for path in (whole / "probes").iterdir():
        assert (out / "probes" / path.name).read_bytes() == path.read_bytes()


def test_a_limit_is_a_number():
    check_limits(workers=None, memory_gb=2, disk_gb=0, model_parallel=np.int64(2))
    for limit in ({"workers": 1.5}, {"workers": "1"}, {"memory_gb": "2"}, {"disk_gb": [1]}):
        with pytest.raises(ValueError, match=r"must be a (whole )?number of at least"):
            check_limits(**limit)


def test_a_limit_that_nothing_keeps_is_refused_by_the_other_long_jobs_too(config, tmp_path):
    options = train.TrainOptions()
    with pytest.raises(ValueError, match="--model_parallel=0 must be a whole number"):
        px.runs.train_sae(tmp_path / "out", options, model_parallel=0)
    with pytest.raises(ValueError, match="--max_length=0 leaves no token"):
        px.runs.plan_filling(config.model, max_length=0)
    plan = px.runs.plan_filling(
        config.model, ("own",), (1,), data=config.own, cache_dir=tmp_path / "cache"
    )
    for limits in ({"disk_gb": -1.0}, {"disk_gb": float("nan")}, {"model_parallel": 0}):
        with pytest.raises(ValueError, match=r"must be a (whole )?number of at least"):
            px.runs.fill_cache(plan, **limits)
    job = px.sweep.Execution(px.sweep.resolve(config, tmp_path / "cache"))
    with pytest.raises(ValueError, match="workers=-1 cannot run units"):
        px.sweep.run_units(job, job.plan.units(), str(tmp_path / "out"), workers=-1)


def test_a_run_that_is_refused_leaves_the_folder_of_the_other_as_it_was(config, place, tmp_path):
    """A task's file has changed, and another has become one that cannot run."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("one", "two"):
        write_task(data / f"{name}.csv", 60, 1)
    changes = {"data": str(data), "tasks": None, "methods": ("ridge",), "regimes": ("standard",)}
    config = dataclasses.replace(config, **changes)
    settings = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    px.run(config, tmp_path / "out", **settings)
    files = lambda: {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    before = files()
    write_task(data / "one.csv", 60, 2)
    write_task(data / "two.csv", 3, 2)
    with pytest.raises(px.storage.ConfigMismatch, match="units that this one would not make"):
        px.run(config, tmp_path / "out", **settings)
    assert files() == before


def test_a_run_grows_and_what_it_has_stays(config, place, tmp_path):
    settings = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    first = dataclasses.replace(config, tasks=("own_a",), methods=("mean_difference",))
    more = dataclasses.replace(config, methods=("ridge", "mean_difference", "sae_k2"))
    px.run(first, tmp_path, **settings)
    ((unit, before),) = {p: (p.read_bytes(), p.stat()) for p in tmp_path.glob("units/*")}.items()
    with pytest.raises(px.storage.ConfigMismatch, match=r"methods.* add .* give --extend"):
        px.run(more, tmp_path, **settings)
    found = px.run(more, tmp_path, extend=True, **settings)
    assert len(found.units) == 6 and len(px.read(tmp_path).results) == 6 * 12
    assert (unit.read_bytes(), unit.stat()) == before
    assert found.config["methods"] == ["ridge", "mean_difference", "sae_k2"]
    assert px.run(more, tmp_path, **settings).status == found.status  # it is that run now
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    others = {"tasks": ("own_b",), "methods": ("ridge",), "seeds": (7,), "protocol": "strict"}
    for name, value in others.items():
        with pytest.raises(px.storage.ConfigMismatch, match=r"would not make.* leave all else"):
            px.run(dataclasses.replace(more, **{name: value}), tmp_path, extend=True, **settings)
    with pytest.raises(px.storage.ConfigMismatch, match=r"engine is .* leave all else"):
        px.run(dataclasses.replace(more, engine="float32"), tmp_path, extend=True, **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == files


def test_what_a_run_was_to_have_is_not_forgotten_when_it_grows(config, place, tmp_path):
    settings = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    first = dataclasses.replace(config, tasks=("own_a",), methods=("mean_difference", "ridge"))
    px.run(first, tmp_path, **settings)
    for path in list(tmp_path.glob("units/*")):  # as after a kill
        if '"ridge"' in path.read_text():
            path.unlink()
    less = dataclasses.replace(first, methods=("mean_difference", "sae_k2"))
    with pytest.raises(px.storage.ConfigMismatch, match=r"1 units that this one would not make"):
        px.run(less, tmp_path, extend=True, **settings)
    more = dataclasses.replace(less, methods=("ridge", *less.methods))
    assert len(px.run(more, tmp_path, extend=True, **settings).units) == 3


SCRIPT = """
import probejax as px
from probejax.runs.limits import check_limits
from probejax.saes import train
print("begins")
found = px.run(px.Config({config}), {out!r}, cache_dir={cache!r}, workers=2)
print(len(found.units), "units")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["a file", "standard input"])
def test_a_script_needs_no_main_guard(config, place, tmp_path, how):
    """Workers are no copies of the caller: its code runs once, and it may have no file."""
    config = dataclasses.replace(config, methods=("mean_difference",), regimes=("standard",))
    fields = ", ".join(f"{name}={value!r}" for name, value in vars(config).items())
    out, cache = str(tmp_path / "out"), str(place / "cache")
    text = SCRIPT.format(config=fields, out=out, cache=cache)
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py") if how == "a file" else "-"],
        input=text,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begins") == 1 and done.stdout.endswith("2 units\n")


def test_the_wheel_carries_no_code_that_needs_the_repository():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = wheel["targets"]["wheel"]
    left_out = [f"{pattern}*" for pattern in wheel["exclude"]]
    files = [path for each in wheel["packages"] for path in (ROOT / each).rglob("*.py")]
    names = {path.relative_to(ROOT).as_posix(): path for path in files}
    shipped = {n: p for n, p in names.items() if not any(fnmatch(n, each) for each in left_out)}
    for command in ("sweep", "harvest", "report", "train_sae"):
        assert f"experiments/{command}.py" in shipped
    for name, path in shipped.items():
        for found in imports(path):
            assert not found.startswith(("tests", "experiments.bench")), f"{name} imports {found}"
    assert not any(name.startswith("experiments/bench") for name in shipped)
    ignored = (ROOT / ".gitignore").read_text().replace("/\n", "\n").split()  # a wheel heeds it
    assert not {part for name in shipped for part in Path(name).parts} & set(ignored)

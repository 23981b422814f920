"""What a run is said to take is what it then does: the same units, in the same shares."""

import dataclasses
import shutil

import pytest

import probejax as px
from probejax.sweep import machines
from tests.test_runs import config, finished
from tests.test_sweep import place

__all__ = ["config", "finished", "place"]  # fixtures

UNITS = 4


@pytest.fixture(autouse=True)
def a_speed_that_nobody_measures(monkeypatch):
    monkeypatch.setattr(machines, "measured_flops", lambda dtype: 1e9)


@pytest.fixture
def begun(finished, tmp_path):
    """The folder of a run that lacks one unit of its second task."""
    out = shutil.copytree(finished[0], tmp_path / "out")
    units = (path for path in (out / "units").iterdir() if '"own_b"' in path.read_text())
    next(units).unlink()
    return out


def names(out):
    return {path.name for path in (out / "units").iterdir()}


def everything(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_of_a_run_that_has_begun_the_rest_is_told(config, place, begun):
    before, there = names(begun), everything(begun)
    found = px.runs.foresee(config, begun, cache_dir=place / "cache")
    assert everything(begun) == there
    px.run(config, begun, cache_dir=place / "cache", workers=1, show="nothing")
    (new,) = names(begun) - before
    unit = px.storage.Store(begun).read(new.removesuffix(".json"))
    (row,) = found.rows
    assert (row.method, row.units) == (unit["unit"]["method"], 1)
    alone = dataclasses.replace(config, tasks=("own_b",), methods=(row.method,))
    assert row == px.runs.foresee(alone, cache_dir=place / "cache").rows[0]
    assert (found.tasks, found.finished) == (1, UNITS - 1)
    assert "1 task, 1 unit, " in str(found)
    assert "\n3 units are finished and not among them.\n" in str(found)


def test_a_run_that_is_done_takes_nothing(config, place, finished):
    found = px.runs.foresee(config, finished[0], cache_dir=place / "cache")
    assert not found.rows and found.seconds == 0 and found.ran
    assert str(found) == "Nothing is left to run here; 4 units are finished."
    with_probes = px.runs.foresee(
        config, finished[0], cache_dir=place / "cache", save_probes=True, target="v5e-8"
    )
    assert not with_probes.rows  # they are there


def test_units_whose_probes_are_wanted_and_missing_are_told(config, place, begun):
    shutil.rmtree(begun / "probes")
    how = {"cache_dir": place / "cache"}
    found = px.runs.foresee(config, begun, save_probes=True, **how)
    assert sum(row.units for row in found.rows) == UNITS and found.finished == 0
    assert sum(row.units for row in px.runs.foresee(config, begun, **how).rows) == 1


def test_each_process_is_told_its_own_share(config, place, tmp_path):
    how = {"cache_dir": place / "cache"}
    whole = px.runs.foresee(config, **how)
    shares = [px.runs.foresee(config, rank=rank, count=3, **how) for rank in range(3)]
    assert sum(row.fits for row in whole.rows) == sum(row.fits for s in shares for row in s.rows)
    for rank, share in enumerate(shares):
        out = tmp_path / str(rank)
        px.run(config, out, rank=rank, count=3, workers=1, show="nothing", **how)
        there = names(out) if (out / "units").exists() else ()
        assert sum(row.units for row in share.rows) == len(there)
    assert [share.tasks for share in shares] == [1, 1, 0]  # two tasks for three


@pytest.mark.parametrize("settings", [{}, {"extend": True}])
def test_another_runs_folder_is_refused_as_the_run_refuses_it(config, place, begun, settings):
    other, there = dataclasses.replace(config, ranking="raw"), everything(begun)
    said = []
    for call in (px.runs.foresee, px.run):
        with pytest.raises(px.storage.ConfigMismatch) as refusal:
            call(other, begun, cache_dir=place / "cache", **settings)
        said.append(str(refusal.value))
    assert said[0] == said[1] and ("ranking is" in said[0]) == (not settings)
    assert everything(begun) == there


def test_a_run_that_grows_is_told_what_is_new(config, place, begun):
    more = dataclasses.replace(config, methods=("mean_difference", "sae_k2", "lda"))
    with pytest.raises(px.storage.ConfigMismatch, match="give --extend"):
        px.runs.foresee(more, begun, cache_dir=place / "cache")
    found = px.runs.foresee(more, begun, cache_dir=place / "cache", extend=True)
    assert {row.method: row.units for row in found.rows}["lda"] == 2
    assert found.finished == UNITS - 1

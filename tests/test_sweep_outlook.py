"""What a run is said to take before it runs: counts are exact, the rest is arithmetic."""

import collections
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probejax import probes, sweep
from probejax import sizes as listed
from probejax.rules import TARGETS
from probejax.sweep import machines, memory, outlook, work
from tests import tiny_models
from tests.test_sweep import write_sae, write_task

D = 16


@pytest.fixture(scope="module", autouse=True)
def a_speed_that_nobody_measures(module_mocker=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "measured_flops", lambda dtype: 1e9)
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Three tasks of one's own, a tiny model and an SAE."""
    root = tmp_path_factory.mktemp("outlook")
    (root / "tasks").mkdir()
    tiny_models.write(root / "tiny")
    for seed, rows in enumerate((130, 300, 1500)):
        write_task(root / "tasks" / f"t{rows}.csv", rows, seed)
    config = sweep.Config(
        model=str(root / "tiny"),
        site="1",
        sae=(write_sae(root / "sae"),),
        data=str(root / "tasks"),
        methods=("logreg", "mean_difference", "sae_k5", "sae_max_k5"),
        regimes=("standard", "scarcity"),
    )
    return sweep.resolve(config, root / "cache")


def test_units_fits_and_tokens_are_counted_and_nothing_is_made(plan):
    found = sweep.look(plan)
    expected = {name: [0, 0] for name in plan.methods}
    tokens = set()
    for unit in plan.units():
        drawing = plan.source.drawing(unit.task)
        fits = {(c.train.tobytes(), c.y_train.tobytes(), c.test.tobytes(), c.seed)
                for c in drawing.conditions}  # fmt: skip
        expected[unit.method][0] += 1
        expected[unit.method][1] += len(fits)
        tokens |= set(drawing.sets[0].prompts)
    assert {row.method: [row.units, row.fits] for row in found.rows} == expected
    tokenizer = plan.checkpoint.tokenizer()
    lengths = sum(1 + len(tokenizer.encode(text, add_special_tokens=False)) for text in tokens)
    assert found.tokens >= lengths  # of all tokens: a method reads them
    assert not any((Path(plan.cache_dir or "") / "activations").glob("*"))
    text = str(found)
    assert f"3 tasks, {len(plan.units())} units" in text and "not known" in text
    assert f"on {found.machine.devices} core" in text and ": at the least " in text
    assert text.endswith(", without a method whose time is not known.")


def test_a_memory_that_the_run_refuses_is_refused_before_it_too(plan):
    """At the bound itself, by the same sentence."""
    largest = max(plan.tasks, key=lambda task: len(plan.prompts(task)[0].prompts))
    plan = dataclasses.replace(plan, methods=("logreg", "sae_k5"))  # without tokens
    (site,) = plan.sites
    sizes = (len(plan.prompts(largest)[0].prompts), plan.width(site), 24, plan.most_latents)
    least = memory.predicted_bytes(*sizes, listed.TRAIN[-1]) / 1e9
    assert sweep.look(plan, memory_gb=least + 1e-6).rows
    unit = next(unit for unit in plan.units() if unit.task == largest)
    for refuses in (
        lambda: sweep.look(plan, memory_gb=least - 1e-6),
        lambda: sweep.Execution(plan, least - 1e-6).run(unit),
    ):
        with pytest.raises(ValueError, match=r"--memory_gb=\S+ per process is too little: 1500 pr"):
            refuses()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_time(plan, target):
    found = sweep.look(plan, target)
    times = {row.method: row.seconds for row in found.rows}
    assert np.isnan(times.pop("sae_max_k5")) and min(times.values()) > 0
    assert 0 < found.seconds < 1e6 and not found.faults
    assert found.machine.name == target
    assert ("a batch of fits in hand" in found.on_device) == (target != "cpu")


def test_more_of_anything_takes_longer(plan):
    whole = sweep.look(plan, "v5e-8")
    one = sweep.look(dataclasses.replace(plan, tasks=plan.tasks[:1]), "v5e-8")
    for few, many in zip(one.rows, whole.rows, strict=True):
        assert few.units < many.units and few.fits < many.fits
        assert np.isnan(few.seconds) or few.seconds < many.seconds
    size = work.Size(1024, 30, 30, 9000)
    for name in ("logreg", "ridge", "pca", "knn", "lda", "mlp", "mean_difference", "sae_k16"):
        method = probes.parse(name)
        figures = [
            work.of_unit(method, [some], 5000, d, 4096)
            for d in (640, 2304)
            for some in (size, size._replace(lanes=60, folds=60))
        ]
        assert all(figure and figure.flops > 0 for figure in figures)
        assert all(figure.kernels > 0 for figure in figures) == (name != "ridge")  # the host's
        small, more, wide, _ = (figure.flops for figure in figures)  # pyright: ignore
        assert small < more and small < wide, name


def test_every_default_method_is_known():
    for name in ("logreg", "ridge", "pca", "knn", "lda", "mlp", "mean_difference", "sae_k16"):
        family = probes.parse(name).family
        assert family in work.SHARE and family in work.PROGRAMS


def test_controls_are_counted_as_they_run(plan):
    config = dataclasses.replace(plan.config, methods=("logreg", "sae_k5"), controls=True)
    found = sweep.resolve(config, plan.cache_dir)
    units = collections.Counter(unit.method for unit in found.units())
    assert {row.method: row.units for row in sweep.look(found).rows} == dict(units)
    assert len(set(units.values())) > 1  # a random SAE has no control of its own


def test_what_the_run_refuses_the_dry_run_does(plan, monkeypatch):
    """Without flags too: on a machine whose memory does not hold one fit of a task."""
    with pytest.raises(ValueError, match="a host of h100 has 1"):
        sweep.look(plan, "h100", model_parallel=2)
    with pytest.raises(ValueError, match="cannot be cut evenly over 64 devices"):
        sweep.look(plan, model_parallel=64)
    with pytest.raises(ValueError, match=r"The tokens need .* more than --disk_gb=1e-06"):
        sweep.look(plan, disk_gb=1e-6)
    monkeypatch.setattr(memory.devices, "memory_room", lambda: 10**9)
    with pytest.raises(ValueError, match=r"--memory_gb=1 per process .* or fewer --workers\.$"):
        sweep.look(plan)


def test_fewer_tasks_go_at_once_where_memory_does_not_hold_more(plan, monkeypatch):
    """README's first line on a laptop: eight cores and 16 GB, half of them for the fits."""
    monkeypatch.setenv("NPROC", "8")
    monkeypatch.setattr(memory.devices, "memory_room", lambda: 8 * 10**9)
    least = memory.predicted_bytes(5000, *memory.widths(plan), listed.TRAIN[-1])
    assert 8e9 / 8 < least < 8e9 / 2
    count, each = memory.at_once(plan)
    assert 2 <= count < 8 and least <= each * 1e9 == pytest.approx(8e9 / count)
    assert memory.at_once(plan, 8) == (8, 1.0)
    assert memory.at_once(plan, 0) == (0, each) and memory.at_once(plan, 1) == (1, each)
    monkeypatch.setattr(memory.devices, "memory_room", lambda: 10**12)
    assert memory.at_once(plan) == (8, 125.0)
    # A device holds the language model besides, and no Python.
    monkeypatch.setattr(memory.devices, "apart", lambda: True)
    monkeypatch.setattr(memory.devices, "workers", lambda parallel: memory.devices.TASKS)
    monkeypatch.setattr(memory.devices, "host_room", lambda: 10**12)
    model, tasks = memory.model_bytes(plan), memory.devices.TASKS
    monkeypatch.setattr(memory.devices, "memory_room", lambda: model + 4e9)
    monkeypatch.setattr(memory.jax, "local_device_count", lambda: 1)
    assert model > 0 and memory.at_once(plan) == (tasks, pytest.approx(4 / tasks))
    assert memory.together(plan, 100, (model + 4e9) / 0.8) == tasks
    assert memory.together(plan, 3, (model + 4e9) / 0.8) == 3
    monkeypatch.setattr(memory.devices, "memory_room", lambda: model + 2.1 * (least - 1.3e9))
    assert memory.at_once(plan)[0] == 2
    assert memory.together(plan, 100, (model + 2.1 * (least - 1.3e9)) / 0.8) == 2
    assert memory.together(plan, 100, model) == 1
    # And the host keeps the rows of its lanes.
    monkeypatch.setattr(memory.devices, "memory_room", lambda: model + 4e9)
    monkeypatch.setattr(memory.devices, "host_room", lambda: 3 * memory.rows_bytes(plan))
    assert memory.at_once(plan) == (3, pytest.approx(4 / 3))


def test_lanes_of_several_tasks_fill_batches():
    """A share of a batch is what a task pays for, and no task pays for more than alone."""
    for name in ("logreg", "pca", "sae_k16"):
        method, costs = probes.parse(name), []
        for together in (1, 2, 4, 8):
            size = work.Size(1024, 30, 30, 9000, together)
            figure = work.of_unit(method, [size], 5000, 640, 4096)
            assert figure
            costs.append(figure.kernels)
        assert costs == sorted(costs, reverse=True) and costs[-1] < 0.8 * costs[0], name


def test_a_model_too_large_is_said_with_its_remedy(plan, monkeypatch):
    small = dict(machines._PUBLISHED)
    small["v5e-8"] = small["v5e-8"]._replace(memory=1000.0)
    monkeypatch.setattr(machines, "_PUBLISHED", small)
    found = sweep.look(plan, "v5e-8")
    assert len(found.faults) == 1 and "--dtype=bfloat16" in found.faults[0]
    assert f"Does not fit: {found.faults[0]}" in str(found)
    model = found.on_device["language model"]
    small["v5e-8"] = small["v5e-8"]._replace(memory=model + 1000)  # it fits, the rest does not
    assert "features" in sweep.look(plan, "v5e-8").faults[0]


def test_only_known_machines():
    with pytest.raises(ValueError, match="--target=v9 does not exist; choose from cpu, v5e-8"):
        machines.machine("v9")
    assert set(TARGETS) == {"cpu", *machines._PUBLISHED}
    assert outlook.Outlook.__doc__


def test_the_command_makes_no_folder_and_needs_none(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(60, 4)))
    np.save(tmp_path / "y.npy", np.arange(60) % 2)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", "--dry_run", "--target=h100",
         "--activations=x.npy", "--labels=y.npy", "--methods=logreg"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    refused = subprocess.run(
        [*done.args, "--memory_gb=0.5"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert refused.returncode == 1 and "--memory_gb=0.5 per process is too" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "1 task, 1 unit," in done.stdout and "time on h100" in done.stdout
    assert "Does not fit" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy"]


def test_the_models_time_is_a_floor_but_on_this_machine():
    """Dense products reach all of a device's speed; a harvest on a CPU has had 0.5 to 0.8."""
    tpu = machines.machine("v5e-8")
    assert tpu.model_seconds(8 * 197e12, "bfloat16") == pytest.approx(1)
    assert tpu.model_seconds(8 * 197e12, "float32") == pytest.approx(6)
    cpu = machines.machine("cpu")  # 1e9 a second, all cores together
    assert 1 / 0.8 <= cpu.model_seconds(1e9, "float32") <= 1 / 0.5
    assert cpu.float32 * cpu.devices == pytest.approx(1e9)

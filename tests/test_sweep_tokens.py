"""Probes on all tokens in a run: one harvest, the disk they take, and what is deleted."""

import dataclasses
import threading
import time
from multiprocessing import connection
from types import SimpleNamespace

import numpy as np
import pytest

from probejax import activations, probes, storage, sweep
from probejax.probes import token_training
from probejax.sweep import memory, processes, token_disk
from tests.test_sweep import make, place, write_task

__all__ = ["place"]  # a fixture

LIGHT = ("logreg", "sae_k3", "sae_max_k3", "mean_pool")


@pytest.fixture(scope="module")
def config(place):
    return sweep.Config(
        model=str(place / "tiny"),
        site="1",
        sae=(str(place / "sae"),),
        tasks=("own_a", "own_b"),
        regimes=("standard",),
        methods=LIGHT,
        max_length=5,
        data=str(place / "tasks"),
    )


def fresh(config, tmp_path, **changes):
    """A run with a cache of its own."""
    return sweep.Execution(
        sweep.resolve(dataclasses.replace(config, **changes), tmp_path / "cache")
    )


def token_folders(root):
    return {path.name for path in (root / "cache" / "activations").glob("*/x.npy")}


def folders(root):
    found = root / "cache" / "activations"
    return sorted(path.name for path in found.iterdir()) if found.exists() else []


def units_of(out):
    return {path.name: path.read_bytes() for path in (out / "units").glob("*.json")}


# ---- names --------------------------------------------------------------------------------------


def test_multitoken_is_a_list_of_its_own():
    assert sweep.Config(methods=("multitoken",)).all_methods() == (
        *("logreg", "sae_k128", "sae_max_k128", "sae_mean_k128"),
        *("attention", "attention_no_bos", "attention_newton", "concat_pca"),
        *("mean_pool", "max_pool", "multimax", "max_of_rolling_means", "ema", "softmax"),
    )
    for name in ("default", "all"):
        names = sweep.Config(methods=(name,)).all_methods()
        assert not any(probes.parse(each).reads_tokens for each in names)
    names = sweep.Config(methods=("attention", "sae_mean_k16_binarised"), controls=True)
    assert names.all_methods() == (
        *("attention", "attention_shuffled", "sae_mean_k16_binarised"),
        *("sae_mean_k16_binarised_shuffled", "sae_mean_k16_binarised_random_latents"),
    )
    with pytest.raises(ValueError, match=r"Did you mean attention\?"):
        sweep.Config(methods=("atention",))
    with pytest.raises(ValueError, match=r"Did you mean sae_max_k128\?"):
        sweep.Config(methods=("sae_maxk128",))


# ---- running ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(config, place):
    return make(config, place, methods=(*LIGHT, "sae_max_k3_random_latents"))


def test_one_harvest_serves_last_tokens_too(job, config, place, tmp_path):
    data, alone = job.data("own_a"), make(config, place, methods=("logreg",)).data("own_a")
    assert job.plan.recipe.positions == "all" and alone.tokens is None and data.tokens is not None
    assert data.tokens.counts.max() == 5 and data.tokens.counts.min() >= 2
    np.testing.assert_array_equal(data.features, alone.features)
    np.testing.assert_array_equal(data.features, data.tokens.last())
    other = fresh(config, tmp_path)
    other.prepare("own_a")
    assert len(folders(tmp_path)) == 1


def test_units_are_the_probes_numbers(job):
    data = job.data("own_a")
    ((_, rows),) = job._lanes("own_a", "resid_post.1", False).batches
    found = {u.method: job.run(u).payload for u in job.plan.units() if u.task == "own_a"}
    direct = probes.TOKEN_METHODS["mean_pool"](data.tokens, rows, "paper").scores
    np.testing.assert_allclose(found["mean_pool"]["fits"]["test_auc"], direct.test_auc, rtol=5e-8)
    sae = job._sae(next(iter(job.plan.saes)), "own_a", "resid_post.1")
    chosen = probes.sae_pooled.select(data.tokens, rows, sae, 3, "max", "normalised", "paper")
    direct = probes.sae.fit(chosen, rows, 3).scores
    np.testing.assert_allclose(found["sae_max_k3"]["fits"]["test_auc"], direct.test_auc, rtol=5e-8)
    assert found["sae_max_k3"]["unit"]["k"] == 3
    assert found["sae_max_k3"]["unit"]["ranking"] == "normalised"
    # Its cards are about pooled latents, not those of the last token.
    (cards,) = found["sae_max_k3"]["latents"]
    values = np.asarray(chosen.values)[data.conditions[0].train]
    best = values[:, chosen.columns[0, 0]]
    expected = [best[data.conditions[0].y_train == label].mean() for label in (0, 1)]
    np.testing.assert_allclose(cards[0]["mean"], expected, rtol=1e-6)
    assert cards[0]["index"] == chosen.latents[0, 0]
    assert found["sae_max_k3"]["latents"] != found["sae_k3"]["latents"]
    assert found["sae_max_k3_random_latents"]["latents"] != found["sae_max_k3"]["latents"]


def test_a_shifted_test_set_has_its_tokens(config, place):
    job = make(config, place, tasks=("own_long",), regimes=("covariate_shift",))
    data = job.data("own_long")
    assert len(data.tokens.counts) == 1024 + 40 == len(data.features)
    np.testing.assert_array_equal(data.features, data.tokens.last())


def test_memory_counts_the_tokens():
    tokens = activations.Activations(
        np.zeros((6000, 8), np.float32), np.arange(2000), np.full(2000, 3)
    )
    assert memory.token_bytes(tokens) == 3 * 6000 * 8 * 4
    assert memory._TOKENS_TOGETHER == token_training._SHARE
    huge = activations.Activations(
        SimpleNamespace(shape=(1, 2**12), dtype=np.float32), np.zeros(5000), np.full(5000, 1000)
    )
    # One fit has 1,024 prompts at most, which here is more than is else taken together.
    assert memory.token_bytes(huge) == 3 * 1024 * 1000 * 2**12 * 4
    short = huge._replace(counts=np.full(5000, 100))
    assert memory.token_bytes(short) == 3 * 2**31
    sizes = (5000, 640, 4096, 128)
    rows = memory.rows_that_fit(4.0, *sizes, token_bytes=10**9)
    assert memory.predicted_bytes(*sizes, rows, token_bytes=10**9) <= 4.0e9
    assert rows < memory.rows_that_fit(4.0, *sizes)
    with pytest.raises(ValueError, match=r"need 7\.\d GB .*, 6\.0 GB of it for their tokens; give"):
        memory.rows_that_fit(4.0, *sizes, token_bytes=6 * 10**9)


@pytest.mark.thorough
def test_no_number_on_tokens_depends_on_the_memory_of_the_machine(config, place):
    """Fits in other company train with other sums; `test_sweep_source` has what reads vectors."""
    changes = {"regimes": ("standard", "label_noise"), "methods": ("ema", "attention_newton")}
    wanted = dataclasses.replace(config, tasks=("own_a",), **changes)
    plan = sweep.resolve(wanted, place / "cache")
    data = sweep.Execution(plan).data("own_a")
    tokens = memory.token_bytes(data.tokens)
    sizes = (*data.features.shape, 0, plan.most_latents, 1024)
    few = memory.predicted_bytes(*sizes, token_bytes=tokens) / 1e9 + 1e-6
    assert memory.rows_that_fit(few, *sizes[:4], token_bytes=tokens) < 12 * 128
    for unit in plan.units():
        one, other = (
            storage.encode_json(sweep.Execution(plan, memory_gb).run(unit).payload)
            for memory_gb in (None, few)
        )
        assert one == other, unit.method


# ---- the disk -----------------------------------------------------------------------------------


def test_tokens_go_when_their_task_is_done(config, tmp_path):
    job = fresh(config, tmp_path)
    out = tmp_path / "out"
    seen = []
    for unit in sweep.run_units(job, job.plan.units(), str(out)):
        seen.append((unit.task, len(folders(tmp_path))))
    assert seen == [("own_a", 1)] * 3 + [("own_a", 0)] + [("own_b", 1)] * 3 + [("own_b", 0)]
    assert not list((out / "harvested").iterdir())
    # Kept on demand, with the same bytes.
    job = fresh(config, tmp_path)
    list(sweep.run_units(job, job.plan.units(), str(tmp_path / "kept"), keep_tokens=True))
    assert len(folders(tmp_path)) == 2 and not (tmp_path / "kept" / "harvested").exists()
    assert units_of(tmp_path / "kept") == units_of(out) and len(units_of(out)) == 8


def test_what_was_there_before_is_never_deleted(config, tmp_path):
    job = fresh(config, tmp_path)
    job.prepare("own_b")
    mine = folders(tmp_path)
    list(sweep.run_units(job, job.plan.units(), str(tmp_path / "out")))
    assert folders(tmp_path) == mine and len(mine) == 1
    # Neither are last-token activations, which take next to nothing.
    job = fresh(config, tmp_path, methods=("logreg",))
    list(sweep.run_units(job, job.plan.units(), str(tmp_path / "last")))
    assert len(folders(tmp_path)) == 3


def test_killed_and_run_again_loses_and_leaves_nothing(config, tmp_path):
    whole = fresh(config, tmp_path)
    list(sweep.run_units(whole, whole.plan.units(), str(tmp_path / "whole")))
    job, out = fresh(config, tmp_path), tmp_path / "out"
    running = sweep.run_units(job, job.plan.units(), str(out))
    for _ in range(2):
        next(running)
    running.close()  # in the middle of a task: its tokens are there, and noted
    assert len(folders(tmp_path)) == 1 and len(list((out / "harvested").iterdir())) == 1
    again = fresh(config, tmp_path)
    todo = [unit for unit in again.plan.units() if unit.name not in storage.Store(out).done()]
    assert len(todo) == 6
    list(sweep.run_units(again, todo, str(out)))
    assert folders(tmp_path) == [] and units_of(out) == units_of(tmp_path / "whole")
    # Killed between the last unit and the release: the next start of the run deletes.
    disk = sweep.TokenDisk(again, out, keep=False)
    disk.prepare("own_a")
    assert len(folders(tmp_path)) == 1
    list(sweep.run_units(again, [], str(out)))
    assert folders(tmp_path) == []
    # But not what another process, which has units to do, is about to read.
    disk.prepare("own_a")
    next((out / "units").glob("*.json")).unlink()
    (missing,) = [u for u in again.plan.units() if u.name not in storage.Store(out).done()]
    disk.release_finished(storage.Store(out).done())
    assert len(folders(tmp_path)) == int(missing.task == "own_a")


def test_classes_of_one_file_share_its_tokens(config, place, tmp_path, monkeypatch):
    texts = [f"w{i} w{i % 7} w{i % 11}" for i in range(90)]
    rows = [f"{text},{'abc'[i % 3]}" for i, text in enumerate(texts)]
    (tmp_path / "three.csv").write_text("\n".join(["text,label", *rows]))
    changes = {"data": str(tmp_path / "three.csv"), "tasks": ("own",), "methods": ("mean_pool",)}
    job, out = fresh(config, tmp_path, **changes), str(tmp_path / "out")
    assert len(job.plan.tasks) == 3
    lists = token_disk.plans(job.plan, job.plan.tasks)
    assert [sum(each.tokens for each in some) > 0 for some in lists.values()] == [
        True,
        False,
        False,
    ]
    read = []
    whole = activations.forward.run
    monkeypatch.setattr(activations.forward, "run", lambda *given: (
        read.append(part.tokens) or part for part in whole(*given)))  # fmt: skip
    for unit in sweep.run_units(job, job.plan.units(), out):
        assert len(folders(tmp_path)) == (unit.task != job.plan.tasks[-1])
    (first, *_), *_ = lists.values()
    assert sum(read) == first.tokens
    # A run that was killed has its note under another task than is finished last.
    disk = sweep.TokenDisk(job, out, keep=False)
    for task in job.plan.tasks[::-1]:
        disk.prepare(task)
    for task in job.plan.tasks:
        assert folders(tmp_path) or task != job.plan.tasks[0]
        disk.release(task)
    assert folders(tmp_path) == [] and not list((tmp_path / "out" / "harvested").iterdir())


class FakeDisk(sweep.TokenDisk):
    """Counts tasks whose tokens lie there."""

    def __init__(self):
        self.live, self.most = set(), 0

    def prepare(self, task):
        self.live.add(task)
        self.most = max(self.most, len(self.live))


def test_the_harvest_is_not_further_ahead_than_there_are_workers():
    disk, (harvested, says) = FakeDisk(), connection.Pipe(duplex=False)
    names = [f"t{i}" for i in range(12)]
    room = threading.Semaphore(token_disk.tasks_at_once(2))
    arguments = (disk, names, says, room, [], threading.Event())
    thread = threading.Thread(target=processes._harvest, args=arguments, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert len(disk.live) == 4  # two in work, two ahead
    for _ in range(12):
        number = processes._number(harvested, [])
        time.sleep(0.005)
        disk.live.discard(names[number])
        room.release()
    thread.join(5)
    assert disk.most == 4


def test_what_stops_the_harvest_stops_the_run():
    disk, (harvested, says) = FakeDisk(), connection.Pipe(duplex=False)
    disk.prepare = lambda task: (_ for _ in ()).throw(OSError(f"no room for {task}"))
    room, failure, ended = threading.Semaphore(2), [], threading.Event()
    processes._harvest(disk, ["a", "b"], says, room, failure, ended)
    with pytest.raises(OSError, match="no room for a"):
        processes._number(harvested, failure)


def test_nobody_harvests_for_a_run_that_has_ended():
    disk, (harvested, says) = FakeDisk(), connection.Pipe(duplex=False)
    room, ended = threading.Semaphore(0), threading.Event()
    arguments = (disk, ["a", "b", "c"], says, room, [], ended)
    thread = threading.Thread(target=processes._harvest, args=arguments, daemon=True)
    thread.start()
    room.release()
    assert processes._number(harvested, []) == 0
    ended.set()
    room.release()
    thread.join(5)
    assert not thread.is_alive() and disk.live == {"a"}


@pytest.mark.thorough
def test_workers_bound_the_disk_and_find_the_same(config, place, tmp_path):
    for i in range(6):
        write_task(place / "tasks" / f"six_{i}.csv", 120, 10 + i)
    changes = {"tasks": ("six_*",), "methods": ("mean_pool",)}
    alone = fresh(config, tmp_path, **changes)
    list(sweep.run_units(alone, alone.plan.units(), str(tmp_path / "alone")))
    job = fresh(config, tmp_path, **changes)
    most, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            most[0] = max(most[0], len(token_folders(tmp_path)))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    list(sweep.run_units(job, job.plan.units(), str(tmp_path / "out"), workers=2))
    stop.set()
    watcher.join()
    assert units_of(tmp_path / "out") == units_of(tmp_path / "alone")
    assert 1 <= most[0] <= 4 and folders(tmp_path) == []


def plan(size, cached=False):
    return activations.Plan("t", 1, 1, 1, size, cached)


def test_the_peak_is_what_lies_there_together():
    found = {"a": [plan(10), plan(5)], "b": [plan(20)], "c": [plan(8)], "d": [plan(100, True)]}
    # d is there already; the two largest of the rest; the largest list twice while it is joined.
    assert token_disk.peak(found, 2, keep=False) == 100 + (20 + 15) + 20
    assert token_disk.peak(found, 1, keep=False) == 100 + 20 + 20
    assert token_disk.peak(found, 2, keep=True) == 143 + 20


def test_the_forecast_is_exact_and_the_limit_is_kept(config, tmp_path):
    job = fresh(config, tmp_path)
    ask = lambda **more: sweep.forecast(
        token_disk.plans(job.plan, job.plan.tasks),
        **({"workers": 1, "keep": False, "allowed_gb": None, "free": 10**12} | more),
    )
    line = ask()
    expected = token_disk.plans(job.plan, job.plan.tasks)
    job.prepare("own_a")
    (folder,) = (tmp_path / "cache" / "activations").iterdir()
    (a,) = expected["own_a"]
    rows = np.load(folder / "x.npy", mmap_mode="r")
    assert a.tokens == len(rows) and a.bytes == rows.nbytes + 48 * a.prompts
    total = sum(each.tokens for lists in expected.values() for each in lists)
    assert line.startswith(f"tokens: {total:,}, 0.00 GB in all, on the disk at most 0.00 GB")
    assert line.endswith("(1 of 2 tasks together, then deleted)") and "\n" not in line
    assert ask(keep=True).endswith("(all are kept)")
    with pytest.raises(ValueError, match=r"^The tokens need 0\.00 GB, more than --disk_gb=1e-05: "):
        ask(allowed_gb=1e-5, keep=True)
    with pytest.raises(ValueError, match=r"only 0\.00 GB are free where the cache is: "):
        ask(free=100)
    with pytest.raises(ValueError, match=r"give --workers=1, which takes"):
        ask(free=100, workers=2)


def test_probes_on_all_tokens_are_saved_too(config, tmp_path):
    job = fresh(config, tmp_path, tasks=("own_a",))
    units = [unit for unit in job.plan.units() if unit.method in ("sae_max_k3", "mean_pool")]
    list(sweep.run_units(job, units, str(tmp_path / "out"), save_probes=True))
    for unit in units:
        found = probes.saved.load_probe(tmp_path / "out" / "probes" / f"{unit.label}.safetensors")
        assert found.origin["method"] == unit.method

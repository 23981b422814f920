"""A run at several sites: one pass of the model, and for each site what a run at it alone gives."""

import dataclasses
import json

import pytest

from probejax import activations, saes, sites, storage, sweep
from probejax.activations import cache, forward
from probejax.runs.start import run
from tests import tiny_models
from tests.test_sweep import CONFIG, ROWS, make, write_sae, write_task

SITES = ("resid_post.1", "mlp_out.2")
RECORDS = {
    "stream": {"model": "tiny", "site": SITES[0]},
    "mlp": {"model": "tiny", "site": SITES[1]},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("sites") / "inputs"
    (root / "tasks").mkdir(parents=True)
    tiny_models.write(root / "tiny", CONFIG)
    for name, record in RECORDS.items():
        write_sae(root / name, d_sae=24 - len(name), record=record)
    write_sae(root / "nowhere", d_sae=21)
    for seed, name in enumerate(("own_a", "own_b")):
        write_task(root / "tasks" / f"{name}.csv", ROWS, seed)
    return root


@pytest.fixture(scope="module")
def config(place):
    return sweep.Config(
        model=str(place / "tiny"),
        site=SITES,
        sae=tuple(str(place / name) for name in RECORDS),
        tasks=("own_a", "own_b"),
        regimes=("standard",),
        methods=("mean_difference", "sae_k4"),
        data=str(place / "tasks"),
        controls=True,
    )


def alone(config, number):
    """The run at one of the sites, with the SAE that reads it."""
    return dataclasses.replace(config, site=SITES[number], sae=(config.sae[number],))


def written(out):
    return {path.name: path.read_bytes() for path in (out / "units").iterdir()}


@pytest.mark.thorough
def test_each_site_has_the_units_of_a_run_at_it_alone(config, place, tmp_path):
    quiet = {"cache_dir": place / "cache", "workers": 1, "show": "nothing"}
    found = run(config, tmp_path / "both", save_probes=True, **quiet)
    both = written(tmp_path / "both")
    for number in range(2):
        job = make(alone(config, number), place)
        for unit in job.plan.units():
            expected = storage.encode_json(job.run(unit).payload) + "\n"
            assert both.pop(f"{unit.name}.json").decode() == expected
    assert not both
    assert set(found.units["site"]) == set(SITES) and "Complete" in repr(found)
    assert all(site in repr(found) for site in SITES)  # a line of means for each
    assert len(found.probes) == len(found.payloads)
    one = ["task", "site", "method", "sae_id", "seed"]  # what tells the rows of two units apart
    assert not found.scores.duplicated([*one, "row"]).any()
    counts = found.scores.groupby(one).size()
    assert counts.to_dict() == found.results.set_index(one)["num_test"].to_dict()
    assert json.loads((tmp_path / "both" / "config.json").read_text())["site"] == list(SITES)
    # In another order they are the same run, which has nothing left to do.
    swapped = dataclasses.replace(config, site=SITES[::-1], sae=config.sae)
    again = run(swapped, tmp_path / "both", cache_dir=place / "cache", workers=2, show="nothing")
    assert len(again.payloads) == len(found.payloads)


def test_a_run_that_grows_by_a_site_keeps_its_probes(config, place, tmp_path):
    quiet = {"cache_dir": place / "cache", "workers": 1, "show": "nothing", "save_probes": True}
    out = tmp_path / "out"
    run(alone(config, 0), out, **quiet)
    before = {path: path.stat().st_mtime_ns for path in (out / "probes").iterdir()}
    run(config, out, extend=True, **quiet)
    after = {path: path.stat().st_mtime_ns for path in (out / "probes").iterdir()}
    assert before.items() <= after.items() and len(after) == 2 * len(before) > 0


def test_all_sites_come_from_one_pass(config, place, tmp_path, monkeypatch):
    passes = []
    harvest = forward.run

    def read(model, todo, at, *more):
        passes.append(at)
        return harvest(model, todo, at, *more)

    monkeypatch.setattr(forward, "run", read)
    job = sweep.Execution(sweep.resolve(config, tmp_path / "cache"))
    for _ in sweep.run_units(job, job.plan.units(), str(tmp_path / "out")):
        pass
    assert [sorted(map(str, at)) for at in passes] == [sorted(SITES)] * 2  # one for each task
    names = {path.name for path in (tmp_path / "cache" / "activations").iterdir()}
    single = {
        activations.key(plan.recipe, plan.sites[0], each.prompts)
        for plan in (make(alone(config, number), place).plan for number in range(2))
        for task in plan.tasks
        for each in plan.prompts(task)
    }
    assert names == single


def units(config, place, **changes):
    found = make(config, place, tasks=("own_a",), controls=False, **changes).plan.units()
    return [(unit.site, unit.method, unit.sae_id.rpartition("/")[2]) for unit in found]


def test_an_sae_is_used_at_the_site_it_says(config, place):
    assert units(config, place) == [
        (SITES[0], "mean_difference", ""),
        (SITES[0], "sae_k4", "stream"),
        (SITES[1], "mean_difference", ""),
        (SITES[1], "sae_k4", "mlp"),
    ]
    first = config.sae[:1]
    assert [site for site, method, _ in units(config, place, sae=first) if method == "sae_k4"] == [
        SITES[0]
    ]
    nowhere = (str(place / "nowhere"),)
    assert [row for row in units(config, place, sae=nowhere) if row[1] == "sae_k4"] == [
        (site, "sae_k4", "nowhere") for site in SITES
    ]
    # Without --site the run is at the sites that they say.
    assert units(config, place, site=None) == units(config, place)


def test_a_random_twin_stands_beside_its_sae_alone(config, place):
    plan = make(config, place, sae=config.sae[:1]).plan
    assert {plan.name_of(site) for places in plan.places.values() for site in places} == {SITES[0]}
    assert len(plan.saes) == 2


def test_an_sae_of_no_site_of_the_run_is_refused(config, place):
    with pytest.raises(ValueError) as caught:
        make(config, place, site=("resid_post.0", SITES[0]))
    assert str(caught.value).endswith(
        "/mlp reads mlp_out.2, the run is at resid_post.0, resid_post.1; give an SAE of one of "
        "these, or add mlp_out.2 to them."
    )


def test_the_shipped_sae_is_used_at_its_own_site(config, place, monkeypatch):
    shipped = [saes.find(config.sae[0])]
    monkeypatch.setattr(saes, "shipped", lambda model: tuple(shipped))
    rows = units(config, place, sae=(), site="all")
    assert [site for site, *_ in rows] == ["resid_post.0", *[SITES[0]] * 2, "resid_post.2"]
    with pytest.raises(ValueError, match=r"reads resid_post\.1, the run is at resid_post\.0, re"):
        units(config, place, sae=(), site=("0", "2"))


def test_a_dry_run_counts_the_units_of_every_site(config, place):
    found = {
        count: sweep.look(make(config, place, site=at, methods=("lda",), sae=()).plan)
        for count, at in ((1, "2"), (3, "all"))
    }
    assert found[3].rows[0].units == 3 * found[1].rows[0].units
    assert found[3].rows[0].fits == 3 * found[1].rows[0].fits
    assert found[3].tokens == found[1].tokens  # they are read once
    to_come = {count: each.on_disk["activations to come"] for count, each in found.items()}
    assert to_come[3] == pytest.approx(3 * to_come[1], rel=0.01) and to_come[1] > 0


def test_the_names_of_batches_fit_a_disk_however_many_sites_there_are():
    every = [sites.Site(kind, layer) for layer in range(80) for kind in sites.KINDS]
    names = {cache._stem(every[:count]) for count in (1, 2, 40, 41, 400)}
    assert len(names) == 5 and max(map(len, names)) <= 200
    assert cache._stem(every[3:5]) == "mlp_out.0_resid_post.0"  # as in a harvest begun before

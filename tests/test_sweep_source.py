"""What a run draws from: one's own files of texts, or vectors that no model made here."""

import json
import pickle

import numpy as np
import pytest

import probejax as px
from probejax import storage, stored_unit, sweep, tasks
from probejax.analysis.report import report
from probejax.analysis.run import read_run
from probejax.sweep import memory, places, source
from probejax.tasks import registry
from tests import tiny_models
from tests.test_sweep import write_sae

D = 16


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """120 vectors, the first of whose numbers tells the labels apart."""
    path = tmp_path_factory.mktemp("vectors") / "mine.npz"
    rng = np.random.default_rng(0)
    y = rng.random(120) < 0.3
    x = rng.normal(size=(120, D)).astype(np.float32)
    x[:, 0] += 3 * y
    np.savez(path, x=x, y=y)
    return path


def config_of(vectors, **changes):
    return sweep.Config(
        **{
            "activations": str(vectors),
            "methods": ("logreg", "sae_k2"),
            "regimes": ("standard",),
            **changes,
        }
    )


def test_vectors_are_swept_without_a_model(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("probejax.models.find", lambda *a, **k: pytest.fail("looks for a model"))
    sae = write_sae(tmp_path / "sae", d_model=D)
    job = sweep.Execution(sweep.resolve(config_of(vectors, sae=(sae,)), tmp_path / "cache"))
    assert job.plan.tasks == ("mine",) and not job.plan.notes
    for _ in sweep.run_units(job, job.plan.units(), str(tmp_path / "out")):
        pass
    for payload in read_run(tmp_path / "out").payloads:
        assert stored_unit.checked(payload) == payload
        unit, fits = payload["unit"], payload["fits"]
        assert (unit["model"], unit["dtype"], unit["max_length"]) == (
            "activations",
            "float32",
            None,
        )
        assert (fits["num_train"], fits["num_test"]) == ([90], [30])
        assert fits["test_auc"][0] > (0.9 if unit["method"] == "logreg" else 0.4)
    assert "activations, given, paper protocol" in report(tmp_path / "out")
    # The vectors are those of the rows.
    x, y = np.load(vectors)["x"], np.load(vectors)["y"]
    data = job.data("mine")
    (condition,) = data.conditions
    for rows, labels in ((condition.train, condition.y_train), (condition.test, condition.y_test)):
        for vector, label in zip(np.asarray(data.features)[rows], labels, strict=True):
            (row,) = np.flatnonzero((x == vector).all(axis=1))
            assert y[row] == label


def test_other_vectors_are_other_units(vectors, tmp_path):
    names = set()
    arrays = dict(np.load(vectors))
    for x, y, positive in (
        (arrays["x"], arrays["y"], None),
        (arrays["x"] + 1, arrays["y"], None),
        (arrays["x"], ~arrays["y"], None),
        (arrays["x"], arrays["y"], "False"),
    ):
        np.savez(tmp_path / "mine.npz", x=x, y=y)
        config = config_of(tmp_path / "mine.npz", methods=("logreg",), positive=positive)
        (unit,) = sweep.resolve(config, tmp_path / "cache").units()
        names.add(unit.name)
    assert len(names) == 4


def test_methods_that_need_what_vectors_lack_are_left_out_or_refused(vectors, tmp_path):
    job = sweep.Execution(sweep.resolve(config_of(vectors), tmp_path / "cache"))
    assert job.plan.methods == ("logreg",)
    assert list(job.plan.notes) == [
        "Left out: sae_k2 reads latents of an SAE: give one with --sae that reads vectors of width "
        "16."
    ]
    for changes, said in (
        ({"methods": ("sae_k2",)}, r"^sae_k2 reads latents of an SAE: give one with --sae"),
        ({"methods": ("logreg", "attention")}, r"one vector for each row, and attention read all"),
        (
            {"sae": (write_sae(tmp_path / "wide", d_model=48),)},
            r"width 48, but those of .* have 16",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            sweep.resolve(config_of(vectors, **changes), tmp_path / "cache")


def test_vectors_of_many_classes_are_tasks_against_the_rest(vectors, tmp_path):
    x = np.load(vectors)["x"]
    np.savez(tmp_path / "mine.npz", x=x, y=np.array(["a", "b", "c"])[np.arange(120) % 3])
    config = config_of(tmp_path / "mine.npz")
    assert source.open_source(config).names() == ("mine=a", "mine=b", "mine=c")
    again = pickle.loads(pickle.dumps(source.open_source(config)))  # as for another process
    assert again.names() == ("mine=a", "mine=b", "mine=c")
    config = config_of(tmp_path / "mine.npz", positive="b")
    drawing = source.open_source(config).drawing("mine=b")
    assert drawing.task.class_names == ("not b", "b") and drawing.task.labels.sum() == 40
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(120) / 7)
    with pytest.raises(ValueError, match=r"mine\.npz has 120 classes .*look like measurements"):
        source.open_source(config_of(tmp_path / "mine.npz"))


def test_strict_counts_equal_vectors_once(vectors, tmp_path):
    x, y = np.load(vectors)["x"], np.load(vectors)["y"]
    np.savez(tmp_path / "twice.npz", x=np.concatenate([x, x]), y=np.concatenate([y, y]))
    for protocol, rows in (("paper", 240), ("strict", 120)):
        config = config_of(tmp_path / "twice.npz", protocol=protocol)
        (condition,) = source.open_source(config).drawing("twice").conditions
        assert len(condition.train) + len(condition.test) == rows


def test_no_number_depends_on_the_memory_of_the_machine(tmp_path):
    """Less of it makes more and smaller batches of fits."""
    names = ("logreg", "pca", "lda", "knn", "mlp", "mean_difference", "ridge", "sae_k2")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 32)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=x[:, 0] + rng.normal(size=400) > 0)
    how = {"regimes": ("standard", "label_noise"), "sae": ("random:64:4",)}
    config = config_of(tmp_path / "mine.npz", methods=names, **how)
    plan = sweep.resolve(config)
    (task,), (site,), (sae,) = plan.tasks, map(plan.name_of, plan.sites), plan.saes.values()
    few = memory.predicted_bytes(400, 32, sae.d_sae, plan.most_latents, 1024) / 1e9 + 1e-6
    jobs = [sweep.Execution(plan), sweep.Execution(plan, few)]
    batches = [len(job._lanes(task, site, False).batches) for job in jobs]
    assert batches[0] < batches[1]
    for unit in plan.units():
        one, other = (storage.encode_json(job.run(unit).payload) for job in jobs)
        assert one == other, unit.method


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    tiny_models.write(root / "tiny")
    return root


def write_reviews(path, rows, classes=("bad", "good")):
    """Distinct texts, a language for each; the last word tells the classes apart."""
    lines = ["text,language,sentiment"]
    for i, text in enumerate(tiny_models.prompts(rows, 5)):
        k = i % len(classes)
        lines.append(f"{text} w{30 + 5 * k},{('en', 'fr', 'de')[i // 2 % 3]},{classes[k]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_regime_that_cannot_be_had_is_left_out_and_the_others_run(place):
    data = write_reviews(place / "reviews.csv", 40)
    config = sweep.Config(
        model=str(place / "tiny"), site="resid_post.1", methods=("mean_difference",), data=data
    )
    job = sweep.Execution(sweep.resolve(config, place / "cache"))
    assert job.plan.tasks == ("reviews",) and set(job.plan.left_out["reviews"]) == {"imbalance"}
    (line,) = tasks.sentences(job.plan.left_out)
    assert line.startswith("reviews, imbalance: there are no two shares of 'good' among 40 rows")
    fits = job.run(job.plan.units()[0]).payload["fits"]
    assert [*dict.fromkeys(fits["regime"])] == ["standard", "scarcity", "label_noise"]


def test_group_shift_runs_and_its_groups_have_names(place, tmp_path):
    data = write_reviews(place / "grouped.csv", 90)
    config = sweep.Config(
        model=str(place / "tiny"),
        site="resid_post.1",
        regimes=("standard",),
        methods=("mean_difference",),
        data=data,
        groups="language",
    )
    assert config.regimes == ("standard", "group_shift")
    job = sweep.Execution(sweep.resolve(config, place / "cache"))
    for _ in sweep.run_units(job, job.plan.units(), str(tmp_path)):
        pass
    (payload,) = read_run(tmp_path).payloads
    assert payload["groups"] == ["de", "en", "fr"]
    assert payload["fits"]["regime"] == ["standard"] + ["group_shift"] * 3
    assert payload["fits"]["level"] == [None, 0.0, 1.0, 2.0]
    assert payload["fits"]["num_test"][1:] == [30, 30, 30]
    assert read_run(tmp_path).facts["groups, by number"] == ["grouped: 0 = de, 1 = en, 2 = fr"]
    results = px.read(tmp_path).results
    assert results["group"].tolist() == ["", "de", "en", "fr"]
    report(tmp_path)
    assert "group_shift,0,de," in (tmp_path / "results.csv").read_text().replace('"', "")
    html = (tmp_path / "report.html").read_text()
    assert "Group shift" in html and "0 = de, 1 = en, 2 = fr" in html


def test_a_task_that_has_none_of_the_regimes_cannot_run(place, vectors, tmp_path):
    """The regimes of all kinds of tasks: own texts, own vectors, the study's."""
    write_reviews(tmp_path / "plain.csv", 90)
    write_reviews(tmp_path / "moved.csv", 90)
    write_reviews(tmp_path / "moved_OOD.csv", 60)
    shift, cache = {"regimes": ("covariate_shift",)}, tmp_path / "cache"
    reads = {"model": str(place / "tiny"), "site": 1, "methods": ("ridge",), "data": str(tmp_path)}
    plan = sweep.resolve(sweep.Config(**reads, **shift), cache)
    assert plan.tasks == ("moved",)
    why = (
        "plain has no shifted test set, so there is nothing in --regimes=covariate_shift; add "
        "another regime."
    )
    assert plan.left_out == {"plain": why}
    with pytest.raises(ValueError, match=r"^mine has no shifted test set, so there is nothing"):
        sweep.resolve(config_of(vectors, **shift), cache)
    reads |= {"tasks": ("all",), "groups": "language"}
    plan = sweep.resolve(sweep.Config(**reads, **shift), cache)
    assert plan.tasks == (*registry.SHIFTED, "moved", "plain")
    assert "no shifted test set and no groups" in plan.left_out["48_cm_correct"]
    assert not (cache / "activations").exists()


def test_units_of_before_without_a_fit_are_read_and_reported(vectors, tmp_path):
    job = sweep.Execution(sweep.resolve(config_of(vectors, methods=("ridge",)), tmp_path / "cache"))
    (unit,) = job.plan.units()
    payload = job.run(unit).payload
    store = storage.Store(tmp_path / "out")
    empty = unit._replace(regimes=("covariate_shift",))
    store.put(empty.name, {"unit": empty.facts, "fits": {name: [] for name in payload["fits"]}})
    assert repr(px.read(tmp_path / "out")) == f"Run in {tmp_path / 'out'}. 1 units."
    assert px.read(tmp_path / "out").results.empty
    with pytest.raises(FileNotFoundError, match=r"The 1 units in .* hold no fits, because"):
        report(tmp_path / "out")
    store.put(unit.name, payload)
    assert "Tables, figures and report.html are in" in report(tmp_path / "out")


def test_a_run_of_before_knows_where_its_tasks_were(place, tmp_path):
    write_reviews(tmp_path / "mine.csv", 40)
    for field in ("tasks_dir", "data"):
        config = {"tasks": ["own"], "methods": ["logreg"], field: str(tmp_path)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        run = read_run(tmp_path)
        assert run.own == tasks.Own(str(tmp_path)) and run.expected == 1
    (tmp_path / "left_out.json").write_text('{"mine": "task \'mine\' will not do."}')
    assert read_run(tmp_path).left_out == ["task 'mine' will not do."]
    assert read_run(tmp_path).expected == 0
    (tmp_path / "left_out.json").write_text('{"mine": {"imbalance": "why"}}')
    assert read_run(tmp_path).left_out == ["mine, imbalance: why."]
    assert read_run(tmp_path).expected == 1


def test_vectors_that_are_called_as_a_task_of_the_study_are_not_that_task(vectors, tmp_path):
    path = tmp_path / "87_glue_cola.npz"
    path.write_bytes(vectors.read_bytes())
    config = config_of(path, methods=("mean_difference",))
    plan = sweep.resolve(config, tmp_path / "cache")
    assert plan.tasks == ("87_glue_cola (vectors)",)
    (mine,) = sweep.resolve(config_of(vectors, methods=("mean_difference",)), tmp_path).tasks
    one = plan.source.drawing(plan.tasks[0]).conditions
    other = source.open_source(config_of(vectors)).drawing(mine).conditions
    for a, b in zip(one, other, strict=True):  # their own balance, as under any other name
        np.testing.assert_array_equal(a.train, b.train)
    px.run(config, tmp_path / "out", cache_dir=tmp_path / "cache", workers=1, show="nothing")
    assert set(px.read(tmp_path / "out").results["task"]) == {"87_glue_cola (vectors)"}


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a" * 1001])
def test_a_name_that_no_unit_may_hold_is_told_before_any_is_written(tmp_path, name):
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.array([name, "c", "d"] * 20)
    np.savez(tmp_path / "v.npz", x=x.astype(np.float32), y=y)
    config = config_of(tmp_path / "v.npz", methods=("mean_difference",))
    with pytest.raises(ValueError, match=r"^The task 'v=a.* cannot stand in results: a name there"):
        px.run(config, tmp_path / "out", cache_dir=tmp_path / "cache", show="nothing")
    assert not (tmp_path / "out").exists()


def test_saes_that_no_method_reads_are_told(vectors, tmp_path):
    config = config_of(vectors, sae=("absent",), methods=("logreg", "ridge"))
    (note,) = sweep.resolve(config, tmp_path).notes
    assert note == "No method reads latents: neither --sae=absent nor its site is used."


def test_the_site_of_a_model_is_that_of_its_sae(tmp_path):
    config = sweep.Config(model="smollm2-135m", methods=("logreg",))
    numbers = tiny_models.change(
        tiny_models.LLAMA, layer_types=30 * tiny_models.LLAMA.layer_types[:1]
    )
    (site,) = places.find_sites(config, numbers, "smollm2-135m")
    assert str(site) == "resid_post.14"
    with pytest.raises(ValueError, match="Nothing says where mine is to be read; give --site"):
        places.find_sites(config, numbers, "mine")

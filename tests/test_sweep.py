"""A run from its configuration to finished units, on a tiny model with the user's own tasks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import models, probes, saes, storage, sweep, tasks
from probejax.saes import gemma_scope, registry
from probejax.sweep import data, memory, standard_scores, units
from tests import tiny_models
from tests.reference import study_probes

CONFIG = tiny_models.GEMMA3
ROWS = 130  # 98 train, 32 test


def write_sae(path, d_model=CONFIG.d_model, d_sae=24, record=None):
    rng = np.random.default_rng(d_sae)
    arrays = {
        "W_enc": rng.normal(size=(d_model, d_sae)),
        "b_enc": rng.normal(size=d_sae),
        "W_dec": rng.normal(size=(d_sae, d_model)),
        "b_dec": np.zeros(d_model),
        "threshold": np.full(d_sae, 0.1),
    }
    path.mkdir(parents=True)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    (path / "params.npz").write_bytes(gemma_scope.to_bytes(arrays))
    if record:
        (path / "training.json").write_text(json.dumps(record))
    return str(path)


def write_task(path, rows, seed, longest=6):
    """Prompts of distinct random words, and a last word of four for each label."""
    lines = []
    for i, text in enumerate(tiny_models.prompts(rows, longest - 1, seed=seed)):
        lines.append(f"{text} w{(i * 7) % 4 + 30 * (i % 2)},{('no', 'yes')[i % 2]}")
    path.write_text("prompt,target\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, an SAE and tasks; the SAE is called place0/inputs/sae."""
    root = tmp_path_factory.mktemp("sweep") / "inputs"
    (root / "tasks").mkdir(parents=True)
    tiny_models.write(root / "tiny", CONFIG)
    write_sae(root / "sae")
    for seed, name in enumerate(("own_a", "own_b")):
        write_task(root / "tasks" / f"{name}.csv", ROWS, seed)
    write_task(root / "tasks" / "own_long.csv", 1100, 5)
    write_task(root / "tasks" / "own_long_OOD.csv", 40, 6, longest=3)
    return root


@pytest.fixture(scope="module")
def config(place):
    return sweep.Config(
        model=str(place / "tiny"),
        site="1",
        sae=(str(place / "sae"),),
        tasks=("own_a", "own_b"),
        regimes=("standard", "label_noise"),
        methods=("logreg", "sae_k2", "sae_k5"),
        data=str(place / "tasks"),
    )


def make(config, place, **changes):
    return sweep.Execution(sweep.resolve(dataclasses.replace(config, **changes), place / "cache"))


# ---- the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"regimes": ("standard", "noise")},
            "--regimes=noise does not exist; choose from standard, scarcity, imbalance, "
            "label_noise, covariate_shift, group_shift.",
        ),
        (
            {"ranking": "best"},
            "--ranking=best does not exist; choose from raw, normalised.",
        ),
        ({"protocol": "lax"}, "--protocol=lax does not exist; choose from "),
        (
            {"dtype": "float16"},
            "--dtype=float16 does not exist; choose from float32, bfloat16.",
        ),
        ({"tasks": ()}, "--tasks is empty; give at least one."),
        ({"regimes": ()}, "--regimes is empty; give at least one."),
        ({"methods": ()}, "--methods is empty; give at least one."),
        ({"seeds": ()}, "--seeds is empty; give at least one."),
        ({"methods": ("logreg", "logrg")}, "There is no method 'logrg'; the methods are logreg, "),
        ({"methods": ("logrg",)}, "Did you mean logreg?"),
        ({"methods": ("sae_16",)}, "Did you mean sae_k16?"),
        ({"methods": ("sae_k0",)}, "There is no method 'sae_k0'"),
    ],
)
def test_a_value_that_does_not_exist_names_those_that_do(changes, message):
    with pytest.raises(ValueError) as caught:
        sweep.Config(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_default_configuration_is_the_main_job():
    config = sweep.Config()
    assert (config.model, config.tasks, config.protocol) == ("gemma-3-270m", ("demo",), "paper")
    assert config.regimes == tasks.REGIMES and config.seeds == (42,)
    assert config.all_methods() == (
        *("logreg", "pca", "knn", "mlp", "mean_difference", "lda"),
        *("sae_k16", "sae_k128"),
    )
    everything = sweep.Config(methods=("all",), controls=True).all_methods()
    assert {"xgboost", "logreg_l1", "sae_k512", "logreg_shuffled"} < set(everything)
    assert "sae_k16_random_latents" in everything and "logreg_random_latents" not in everything


# ---- what it resolves to ------------------------------------------------------------------------


def test_units_are_all_tasks_times_methods_with_unique_names(config, place):
    units = make(config, place).plan.units()
    assert [(u.task, u.method, u.k) for u in units] == [
        (task, method, k)
        for task in ("own_a", "own_b")
        for method, k in (("logreg", None), ("sae_k2", 2), ("sae_k5", 5))
    ]
    assert len({unit.name for unit in units}) == 6
    assert [u.source for u in units[:2]] == ["resid", saes.find(config.sae[0]).sae_id]
    assert (units[0].sae_id, units[0].sae_weights, units[0].ranking) == ("", "", "")
    assert [u.name for u in make(config, place).plan.units()] == [u.name for u in units]


def test_a_method_on_latents_runs_once_per_sae(config, place, tmp_path):
    both = (*config.sae, write_sae(tmp_path / "other", d_sae=9))
    units = make(config, place, sae=both, tasks=("own_a",)).plan.units()
    assert [u.method for u in units] == ["logreg", "sae_k2", "sae_k2", "sae_k5", "sae_k5"]
    assert len({u.source for u in units}) == 3 and len({u.name for u in units}) == 5


def test_changing_any_field_changes_the_name(config, place):
    unit = make(config, place).plan.units()[1]
    changed = {
        name: (99 if isinstance(value, int) else (*value, "x") if isinstance(value, tuple) else "x")
        for name, value in unit._asdict().items()
    }
    names = {unit._replace(**{name: value}).name for name, value in changed.items()}
    assert len(names | {unit.name}) == len(sweep.Unit._fields) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "2"},
        {"site": "embed"},
        {"regimes": ("standard",)},
        {"ranking": "raw"},
        {"seeds": (42, 43)},
        {"dtype": "bfloat16"},
        {"max_length": 4},
    ],
)
def test_changing_a_setting_changes_the_names(config, place, changes):
    before, after = make(config, place), make(config, place, **changes)
    baseline, latents = (before.plan.units()[i].name != after.plan.units()[i].name for i in (0, 1))
    assert latents
    assert baseline == ("ranking" not in changes)  # which does not concern the residual stream


def test_other_weights_change_the_names(config, place, tmp_path):
    before = make(config, place).plan.units()
    path = tmp_path / "inputs" / "sae"
    write_sae(path)
    content = bytearray((path / "params.npz").read_bytes())
    content[-1000] ^= 1
    (path / "params.npz").write_bytes(content)
    after = make(config, place, sae=(str(path),)).plan.units()
    assert after[0].name == before[0].name and after[1].sae_weights != before[1].sae_weights


def test_a_site_has_one_text_however_it_was_given(config, place):
    for given, text in ((2, "resid_post.2"), ("embed", "resid_pre.0"), ("mlp_out.1", "mlp_out.1")):
        run = make(config, place, site=given)
        assert str(run.plan.sites[0]) == run.plan.units()[0].site == text
        assert run.plan.config.site == (text,) and run.plan.site_names == text
    with pytest.raises(ValueError, match=r"^--site=-1 is no site: give a kind and a zero-based"):
        make(config, place, site="-1")
    with pytest.raises(
        ValueError, match=r"--site=mlp_out\.3 was asked for, but tiny has layers 0 to 2"
    ):
        make(config, place, site="mlp_out.3")


def test_the_site_is_the_sae_s_unless_it_is_given(config, place, tmp_path):
    at_two = write_sae(tmp_path / "two", record={"model": "tiny", "layer": 2})
    assert str(make(config, place, site=None, sae=(at_two,)).plan.sites[0]) == "resid_post.2"
    mlp = write_sae(tmp_path / "mlp", record={"site": "mlp_out.0"})
    assert str(make(config, place, site=None, sae=(mlp,)).plan.sites[0]) == "mlp_out.0"
    with pytest.raises(
        ValueError, match=r"/two reads resid_post\.2, the run is at resid_post\.1; give"
    ):
        make(config, place, sae=(at_two,))
    both = make(config, place, site=None, sae=(at_two, mlp)).plan
    assert both.site_names == ["mlp_out.0", "resid_post.2"]
    with pytest.raises(ValueError, match=r"^Nothing says where tiny is to be read; give --site\.$"):
        make(config, place, site=None)


def test_an_sae_of_another_width_is_refused_with_both_widths(config, place, tmp_path):
    other = write_sae(tmp_path / "wide", d_model=48)
    message = (
        r"/wide reads vectors of width 48, but those at resid_post\.1 of tiny have 32; give an"
    )
    with pytest.raises(ValueError, match=message):
        make(config, place, sae=(other,))


def test_an_sae_with_fewer_latents_than_k_is_refused_at_once(config, place, tmp_path):
    small = write_sae(tmp_path / "small", d_sae=4)
    with pytest.raises(ValueError, match=r"asks for sae_k5, but .*/small has only 4 latents\.$"):
        make(config, place, sae=(small,))
    assert len(make(config, place, sae=(small,), methods=("sae_k4",)).plan.units()) == 2


def test_two_saes_of_one_name_are_refused(config, place, tmp_path):
    paths = [write_sae(tmp_path / top / "x" / "y" / "z", d_sae=9) for top in ("a", "b")]
    with pytest.raises(ValueError, match="would both be called x/y/z in the results"):
        make(config, place, sae=tuple(paths))
    assert len(make(config, place, sae=(paths[0], paths[0])).plan.saes) == 1
    paths = [write_sae(tmp_path / top, d_sae=9) for top in ("c/v/w/x_y/z", "d/v/w/x/y_z")]
    with pytest.raises(ValueError, match="The SAEs w/x_y/z and w/x/y_z would share files of re"):
        make(config, place, sae=tuple(paths))


def test_a_model_without_an_sae_asks_for_one(config, place, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_SHIPPED", tmp_path)
    with pytest.raises(ValueError, match="No SAE ships with probejax for tiny; give --sae, or"):
        make(config, place, sae=())
    assert make(config, place, sae=(), methods=("logreg",)).plan.saes == {}


def test_tasks_that_cannot_run_are_left_out_before_anything_is_fetched(config, place, tmp_path):
    for name in ("good", "v[2]", "a,b", "my task"):
        write_task(tmp_path / f"{name}.csv", ROWS, 1)
    (tmp_path / "cut.csv").write_text("target,prompt\nyes,Hello, you\nno,Goodbye\n")
    write_task(tmp_path / "few.csv", 7, 1)
    lines = (tmp_path / "good.csv").read_text().splitlines()
    skewed = [line for line in lines if line.endswith("no")] + lines[1:4]
    (tmp_path / "skewed.csv").write_text("\n".join([lines[0], *skewed]) + "\n")
    own = {"tasks": None, "data": str(tmp_path), "regimes": ("standard",)}
    job = make(config, place, **own)
    assert job.plan.tasks == ("a,b", "good", "my task", "v[2]")
    assert set(job.plan.left_out) == {"cut", "few", "skewed"}
    assert "cut.csv has 3 fields on line 2" in job.plan.left_out["cut"]
    assert all(name in why for name, why in job.plan.left_out.items())
    assert {unit.task for unit in job.plan.units()} == set(job.plan.tasks)
    with pytest.raises(ValueError, match=r"^[^:]*cut\.csv has 3 fields"):
        make(config, place, **own | {"tasks": ("cut",), "model": "fetched/never"})


def test_an_unknown_task_is_refused_at_once(config, place):
    with pytest.raises(ValueError, match=r"there is no task 'own_c'; did you mean own_"):
        make(config, place, tasks=("own_c",))


# ---- running ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(config, place):
    return make(config, place)


@pytest.fixture(scope="module")
def results(job):
    return {unit: job.run(unit) for unit in job.plan.units()}


def test_a_unit_holds_one_row_per_condition(job, results):
    assert len(results) == 6
    for unit, (payload, timing, *_) in results.items():
        assert payload["unit"] == unit.facts
        assert set(payload) == {"unit", "fits"} | ({"latents", "sae"} if unit.sae_id else set())
        fits = payload["fits"]
        assert list(fits) == [
            *("regime", "level", "seed", "num_train", "num_test"),
            *("val_auc", "test_auc", "test_acc", "test_f1", "test_tpr", "test_ece"),
            *("hyperparameter", "gap", "code"),
        ]
        assert {len(column) for column in fits.values()} == {12}
        assert fits["regime"] == ["standard"] + ["label_noise"] * 11
        assert fits["level"] == [None, *tasks.NOISE_FRACTIONS]
        assert set(fits["seed"]) == {42}
        assert set(fits["num_train"]) == {98} and set(fits["num_test"]) == {32}
        assert set(fits["code"]) == {0} and max(fits["gap"]) < 1e-5
        assert set(timing) == {"seconds", "rows", "device", "jax"}
        json.loads(storage.encode_json(payload))
    # Without noise, label noise is the standard regime.
    for payload, *_ in results.values():
        fits = payload["fits"]
        assert fits["test_auc"][0] == fits["test_auc"][1]
        assert fits["test_auc"][0] > 0.65 and len(set(fits["test_auc"])) > 3


def test_the_numbers_are_those_of_the_probe(job, results):
    data = job.data("own_b")
    fits = next(r for u, r in results.items() if (u.task, u.method) == ("own_b", "logreg"))[0][
        "fits"
    ]
    for i in (0, 5):
        condition = data.conditions[i]
        x = np.asarray(data.features, np.float64)
        w, b = study_probes.fit_l2(x[condition.train], condition.y_train, fits["hyperparameter"][i])
        truth = study_probes.roc_auc_score(condition.y_test, x[condition.test] @ w + b)
        np.testing.assert_allclose(fits["test_auc"][i], truth, atol=2e-3)


def test_the_features_are_the_residuals_of_the_last_token(job, place, config):
    task = tasks.load("own_a", data=config.data)
    model = tiny_models.language_model(CONFIG)
    for row in (0, 77):
        ids = [2, *(int(word[1:]) + 3 for word in task.prompts[row].split())]
        tokens = jnp.array([ids], jnp.int32)
        found = models.residuals(model.transformer, tokens, jnp.ones_like(tokens), (1,))
        expected = np.asarray(found[1])[0, -1]
        np.testing.assert_allclose(job.data("own_a").features[row], expected, atol=1e-4)


def test_a_smaller_k_is_a_prefix_whatever_the_largest(job, results, config, place):
    sae_id = next(iter(job.plan.saes))
    only = make(config, place, methods=("sae_k2",), tasks=("own_a",))
    large, small = (
        each._selection("own_a", "resid_post.1", sae_id, False, 0, "normalised")
        for each in (job, only)
    )
    # Twelve conditions are eleven fits: no noise is the standard one.
    assert large.latents.shape == (11, 5) and small.latents.shape == (11, 2)
    np.testing.assert_array_equal(large.latents[:, :2], small.latents)
    (unit,) = only.plan.units()
    assert unit in results
    ours, theirs = only.run(unit).payload["fits"], results[unit].payload["fits"]
    for name in ("val_auc", "test_auc", "hyperparameter"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)


def test_running_a_unit_again_gives_the_same_bytes(results, config, place):
    unit = list(results)[1]
    again = make(config, place).run(unit).payload
    assert storage.encode_json(again) == storage.encode_json(results[unit].payload)


def test_a_user_s_shifted_prompts_are_the_test_set_of_covariate_shift(config, place):
    job = make(config, place, tasks=("own_long", "own_a"), regimes=("covariate_shift",))
    data = job.data("own_long")
    (condition,) = data.conditions
    assert (condition.regime, len(condition.train), len(condition.test)) == (
        "covariate_shift",
        1024,
        40,
    )
    assert data.features.shape == (1024 + 40, CONFIG.d_model)  # the rows that are drawn
    assert condition.test.min() == 1024 and condition.train.max() < 1024
    # A task without a shifted test set has nothing to fit, and is left out by name.
    assert {unit.task for unit in job.plan.units()} == {"own_long"}
    assert "no shifted test set" in job.plan.left_out["own_a"]


def test_every_score_is_stored():
    fits = units.columns([], {name: np.zeros(0) for name in probes.Scores._fields})
    assert set(probes.Scores._fields) <= set(fits)


# ---- latents, controls, strict, saved probes ----------------------------------------------------


def test_a_unit_describes_the_latents_of_its_standard_condition(job, results):
    unit = next(u for u in results if u.method == "sae_k2")
    cards, *rest = results[unit].payload["latents"]
    assert len(cards) == 2 and set(rest) == {None}
    condition = job.data(unit.task).conditions[0]
    x = np.asarray(job.data(unit.task).features)[condition.train]
    z = np.asarray(saes.encode(saes.load(job.plan.config.sae[0]), x))[:, cards[0]["index"]]
    np.testing.assert_allclose(cards[0]["mean"][1], z[condition.y_train == 1].mean(), rtol=1e-4)
    np.testing.assert_allclose(cards[0]["rate"][0], (z[condition.y_train == 0] != 0).mean())


def test_a_unit_keeps_the_test_scores_of_its_standard_condition(job, results, tmp_path):
    for unit, result in results.items():
        (draw,) = result.scores.draws
        task = tasks.load(unit.task, data=job.plan.config.data)
        assert draw.seed == 42 and result.scores.classes == task.class_names == ("no", "yes")
        np.testing.assert_array_equal(draw.labels, task.labels[draw.rows])
        assert len(draw.rows) == 32 and (np.diff(draw.rows) > 0).all()
        truth = study_probes.roc_auc_score(draw.labels, draw.logits)
        assert truth == pytest.approx(result.payload["fits"]["test_auc"][0], abs=1e-6)
    unit = next(u for u in results if u.method == "sae_k5")
    job.save(unit, results[unit], tmp_path / "p")  # the probe itself, read back
    draw, x = results[unit].scores.draws[0], np.asarray(job.data(unit.task).features)
    probe = probes.load_probe(tmp_path / "p").find("standard")
    np.testing.assert_allclose(draw.logits, np.asarray(probe(x))[draw.rows], atol=1e-5)
    latents, prompts = draw.latents, job.data(unit.task).task.prompts
    w = dict(zip(probe.probe.latents.tolist(), probe.probe.w.tolist(), strict=True))
    assert w == dict(zip(latents.numbers.tolist(), latents.weights.tolist(), strict=True))
    assert (np.diff(np.abs(latents.weights)) <= 0).all() and len(w) == 5
    z = np.asarray(saes.encode(saes.load(job.plan.config.sae[0]), x))
    for number, rows, values in zip(latents.numbers, latents.rows, latents.values, strict=True):
        there = rows[rows >= 0]
        np.testing.assert_allclose(values[rows >= 0], z[there, number], rtol=1e-4)
        largest = list(dict.fromkeys(prompts[i] for i in np.argsort(-z[:, number])))
        assert [prompts[i] for i in there] == largest[: min(4, (z[:, number] > 0).sum())]


def test_scores_name_the_rows_of_the_whole_task():
    """Also where only some of its rows were drawn, and whatever their order."""
    task = tasks.Task("t", tuple("abcde"), np.array([0, 1, 0, 1, 1]), False, class_names=("n", "y"))
    one = tasks.Condition("standard", None, 3, *map(np.array, ([0, 1], [0, 1], [4, 2], [1, 0])))
    other = dataclasses.replace(one, regime="scarcity", level=2.0, seed=4)
    rows = np.array([5, 60, 70, 80, 900])
    known = data.TaskData([other, one], np.zeros((5, 2), np.float32), task, rows)
    packed = data.pack(known.conditions)
    logits = np.array([[9, 9, 0], [2.5, -1, 0]], np.float32)  # one padded test row each
    scores = probes.Scores(*np.zeros((9, 2)))
    linear = probes.families.Linear(np.zeros((2, 2)), np.zeros(2), np.zeros(2))
    fitted = [((0, 1), probes.Fit(linear, scores, test_logits=logits))]
    kept = standard_scores.kept(known, packed, fitted)
    assert kept is not None and kept.classes == ("n", "y") and len(kept.draws) == 1
    (draw,) = kept.draws
    assert draw.seed == 3 and draw.rows.tolist() == [70, 900] and draw.labels.tolist() == [0, 1]
    assert draw.logits.tolist() == [-1, 2.5] and draw.latents is None
    none = known._replace(conditions=[other])
    assert (
        standard_scores.kept(
            none, data.pack(none.conditions), [((0,), fitted[0][1][np.array([0])])]
        )
        is None
    )


def test_equal_conditions_are_fitted_once():
    y = np.arange(400) % 2
    drawn = tasks.conditions(y, ("standard", "scarcity", "label_noise"))
    packed = data.pack(drawn)
    fits = sum(len(lanes) for lanes, _ in packed.batches)
    assert len(drawn) == 1 + 16 + 11 and fits == len(drawn) - 1  # no noise is the standard one
    assert len(packed.fit_of) == len(drawn) and packed.fit_of[0] == packed.fit_of[17]
    few = data.pack(drawn, most_rows=1024)
    assert max(len(lanes) * rows.train.shape[1] for lanes, rows in few.batches) <= 1024
    assert sum(len(lanes) for lanes, _ in few.batches) == fits


def test_shuffled_labels_are_noise_and_random_latents_are_others(config, place):
    methods = ("sae_k5",)
    job = make(config, place, tasks=("own_b",), methods=methods, controls=True)
    assert [u.method for u in job.plan.units()] == [
        *("sae_k5", "sae_k5", "sae_k5_shuffled", "sae_k5_random_latents"),
    ]
    assert [u.sae_id.startswith("random/") for u in job.plan.units()] == [False, True, False, False]
    found = {(u.method, u.sae_id): job.run(u).payload for u in job.plan.units()}
    auc = {key: payload["fits"]["test_auc"][0] for key, payload in found.items()}
    sae_id = job.plan.units()[0].sae_id
    assert auc["sae_k5", sae_id] > 0.65 > auc["sae_k5_shuffled", sae_id]
    chosen = {
        name: {card["index"] for card in found[name, sae_id]["latents"][0]}
        for name in ("sae_k5", "sae_k5_random_latents", "sae_k5_shuffled")
    }
    assert chosen["sae_k5"] != chosen["sae_k5_random_latents"]
    rates = [card["rate"] for card in found["sae_k5_random_latents", sae_id]["latents"][0]]
    assert all(sum(rate) > 0 for rate in rates)


def test_a_second_task_of_the_same_size_compiles_nothing(config, place, results, caplog, tmp_path):
    del results  # two tasks have run
    write_task(tmp_path / "third.csv", ROWS, 9)
    job = make(config, place, tasks=("third",), data=str(tmp_path))
    job.prepare("third")
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for unit in job.plan.units():
            job.run(unit)
    assert not [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]


def test_programs_are_kept_few_after_every_unit(config, place, results, monkeypatch, tmp_path):
    del results  # has compiled what runs here
    calls = []
    monkeypatch.setattr(sweep.execute.devices, "limit_programs", lambda: calls.append(1))
    job = make(config, place, methods=("logreg", "sae_k5"), tasks=("own_a",))
    for _ in sweep.run_units(job, job.plan.units(), str(tmp_path)):
        pass
    assert len(calls) == 2


def test_an_edited_task_is_another_unit(config, place, tmp_path):
    changes = {"tasks": ("twice", "once"), "data": str(tmp_path), "methods": ("logreg",)}
    for name in changes["tasks"]:
        write_task(tmp_path / f"{name}.csv", 200, 1)
    job = make(config, place, **changes)
    first = job.plan.units()
    done = [unit.name for unit in first]
    sweep.check_done("out", first, done[:1])
    for edit in ("twice.csv", "twice_OOD.csv"):
        before = job.plan.units()
        write_task(tmp_path / edit, 200, 2)
        changed = [
            old.task for old, new in zip(before, job.plan.units(), strict=True) if old != new
        ]
        assert changed == ["twice"]
    with pytest.raises(
        storage.ConfigMismatch, match=r"out is of a run with 1 units .* units/[0-9a-f]{16}\.js"
    ):
        sweep.check_done("out", job.plan.units(), done)
    assert tasks.fingerprint("87_glue_cola", data=str(tmp_path)) == ""


def test_strict_draws_from_distinct_prompts(config, place, tmp_path):
    lines = [f"w{i % 150} w{i % 3},{('no', 'yes')[i % 2]}" for i in range(300)]
    (tmp_path / "twice.csv").write_text("prompt,target\n" + "\n".join(lines) + "\n")
    changes = {"tasks": ("twice",), "data": str(tmp_path), "methods": ("logreg",)}
    overlap = {}
    for protocol in ("paper", "strict"):
        job = make(config, place, protocol=protocol, **changes)
        prompts = tasks.load("twice", data=str(tmp_path)).prompts
        for c in job.data("twice").conditions:
            train, test = ({prompts[row] for row in rows} for rows in (c.train, c.test))
            overlap[protocol] = overlap.get(protocol, 0) + len(train & test)
        assert max(job.run(job.plan.units()[0]).payload["fits"]["code"]) == 0
    assert overlap["paper"] > 100 and overlap["strict"] == 0


def test_distinct_rows_are_balanced_and_drop_contradictions():
    prompts = ["a", "a", "b", "c", "c", "d", "e", "f"]
    labels = np.array([0, 0, 1, 0, 1, 0, 0, 1])
    # c occurs with both labels; of a, d, e the last is one too many
    np.testing.assert_array_equal(tasks.distinct_rows(prompts, labels), [0, 2, 5, 7])


def test_a_prediction_of_memory_grows_with_what_is_in_hand():
    small = memory.predicted_bytes(5000, 640, 4096, 128, 1024)
    assert memory.predicted_bytes(5000, 640, 4096, 128, 64 * 1024) > small
    rows = memory.rows_that_fit(2.0, 5000, 640, 4096, 128)
    assert memory.predicted_bytes(5000, 640, 4096, 128, rows) <= 2.0e9
    with pytest.raises(ValueError, match=r"--memory_gb=0\.5 per process is too little"):
        memory.rows_that_fit(0.5, 5000, 640, 4096, 128)


def test_saved_probes_score_as_the_unit_did(job, results, tmp_path):
    for unit in (u for u in results if u.task == "own_a"):
        path = tmp_path / f"{unit.method}.safetensors"
        job.save(unit, results[unit], path)
        loaded = probes.load_probe(path)
        data = job.data("own_a")
        for number in (0, 1, 7):
            condition = data.conditions[number]
            scores = np.asarray(loaded[number](data.features))[condition.test]
            truth = study_probes.roc_auc_score(condition.y_test, scores)
            stored = results[unit].payload["fits"]["test_auc"][number]
            np.testing.assert_allclose(stored, truth, atol=1e-3)

"""Probes read back from their file score as the sweep scored them."""

import dataclasses
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

import probejax as px
from probejax import probes, saes, sites
from probejax.probes import saved, scores, xgboost
from probejax.saes import random_sae
from probejax.saes.named import NamedSAE
from probejax.saes.winners import Keep
from tests import probe_cases

OLD = Path(__file__).parent / "golden" / "probes"
SIZES, GROUPS = (3, 20, 40), (64, 256)
D = 8


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(xgboost, "DRAWS", 1)


def problem(seed=0):
    """Features in columns of different scale, on a mean far from zero."""
    y = probe_cases.labels(seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.normal(size=(probe_cases.N_TASK, D)) + 0.4 * np.outer(2 * y - 1, rng.normal(size=D))
    return (3 + x * np.geomspace(0.3, 3, D)).astype(np.float32), y


def dictionary(keep=None, d_sae=24, normalise="none"):
    rng = np.random.default_rng(5)
    single = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return saes.SAE(
        W_enc=single(D, d_sae),
        b_enc=single(d_sae),
        W_dec=None,
        b_dec=single(D),
        threshold=jnp.abs(single(d_sae)),
        center=3 + single(D),
        normalise=normalise,
        **({} if keep is None else {"keep": keep}),
    )


def fit_all(method, x, found, sae=None):
    """Returns for every batch which conditions its lanes are, its rows and its fits."""
    results = []
    for lanes, rows in probes.batches(found, GROUPS):
        if sae is None:
            fitted = probes.BASELINES[method](jnp.asarray(x), rows)
        else:
            chosen = probes.sae.select(jnp.asarray(x), rows, sae, 4, "raw")
            binarised = probes.parse(method).binarised
            fitted = probes.sae.fit(chosen, rows, 4, binarised=binarised)
        results.append((lanes, rows, fitted))
    return results


def save(path, method, x, found, fits, sae=None):
    unit = {"task": "made_up", "method": method, "layer": 9, "sae_id": "s" if sae else ""}
    saved.write(path, unit, found, [(lanes, fitted) for lanes, _, fitted in fits], x, ("a", "b"))
    return probes.load_probe(path, sae)


def check(loaded, x, found, fits):
    """Compares AUC and accuracy of the loaded probes with those of the fits."""
    for lanes, _, fitted in fits:
        for position, lane in enumerate(lanes):
            test, y = found[lane].test, found[lane].y_test
            logits = np.asarray(loaded[lane](x[test]))
            assert logits.shape == (len(test),) and np.ptp(logits) >= 0
            auc = scores.metrics.auc(logits.astype(np.float32), y, np.ones(len(y), bool))
            np.testing.assert_allclose(auc, fitted.scores.test_auc[position], atol=1e-3)
            accuracy = ((logits > 0) == y).mean()
            np.testing.assert_allclose(accuracy, fitted.scores.test_acc[position], atol=0.008)


def check_thresholds(loaded, x, found, fits):
    """Each threshold is a negative's score, and lies as low as 1 % of false alarms allow."""
    for lanes, _, fitted in fits:
        for position, lane in enumerate(lanes):
            y = found[lane].y_test
            logits = np.asarray(loaded(x))[lane, found[lane].test]
            negative, threshold = logits[y == 0], loaded.thresholds[lane]
            assert threshold in negative
            assert (negative > threshold).mean() <= 0.01
            lower = negative[negative < threshold]
            assert not len(lower) or (negative > lower.max()).mean() > 0.01
            caught = (logits[y == 1] > threshold).mean()
            np.testing.assert_allclose(caught, fitted.scores.test_tpr[position], atol=0.02)


@pytest.mark.parametrize("method", probes.BASELINES)
def test_every_method_scores_as_it_was_scored(method, tmp_path):
    x, y = problem()
    found = probe_cases.conditions(y, SIZES)
    fits = fit_all(method, x, found)
    loaded = save(tmp_path / "p.safetensors", method, x, found, fits)
    check(loaded, x, found, fits)
    check_thresholds(loaded, x, found, fits)
    assert loaded.origin["method"] == method and loaded.origin["layer"] == 9


@pytest.mark.parametrize("method", ["sae_k4", "sae_k4_binarised"])
@pytest.mark.parametrize("normalise", ["none", "layer_norm"])
def test_latents_come_along(method, normalise, tmp_path):
    x, y = problem()
    found, sae = probe_cases.conditions(y, SIZES), dictionary(normalise=normalise)
    fits = fit_all(method, x, found, sae)
    save(tmp_path / "p.safetensors", method, x, found, fits, sae)
    loaded = probes.load_probe(tmp_path / "p.safetensors")
    part = loaded.probe.sae
    assert part.sae.d_sae == len(part.latents) < sae.d_sae
    check(loaded, x, found, fits)
    check_thresholds(loaded, x, found, fits)
    whole = probes.load_probe(tmp_path / "p.safetensors", sae)  # the same with the whole SAE
    np.testing.assert_allclose(loaded(x), whole(x), rtol=1e-5, atol=1e-5)


def test_latents_that_compete_need_their_sae(tmp_path):
    x, y = problem()
    found, sae = probe_cases.conditions(y, (40,)), dictionary(Keep("top", 6))
    fits = fit_all("sae_k4", x, found, sae)
    loaded = save(tmp_path / "p.safetensors", "sae_k4", x, found, fits, sae)
    check(loaded, x, found, fits)
    alone = probes.load_probe(tmp_path / "p.safetensors")
    assert alone.probe.sae is None
    with pytest.raises(ValueError, match=r"compete with others.*sae=\.\.\."):
        alone(x)


def test_probes_are_found_by_what_they_were_trained_on(tmp_path):
    x, y = problem()
    found = probe_cases.conditions(y, (20, 140)) + probe_cases.conditions(y, (20,), noise=0.1)
    found.append(dataclasses.replace(found[0], seed=7))
    fits = fit_all("mean_difference", x, found)
    loaded = save(tmp_path / "p.safetensors", "mean_difference", x, found, fits)
    assert [(c.regime, c.level, c.seed) for c in loaded.conditions] == [
        ("scarcity", 20.0, 42),
        ("scarcity", 140.0, 42),
        ("label_noise", 0.1, 42),
        ("scarcity", 20.0, 7),
    ]
    for number, where in enumerate([("scarcity", 20, 42), ("scarcity", 140), ("label_noise",)]):
        assert loaded.find(*where).conditions == (loaded.conditions[number],)
        np.testing.assert_allclose(loaded.find(*where)(x), loaded(x)[number], rtol=1e-4)
    with pytest.raises(ValueError, match="2 saved probes are of regime 'scarcity', level 20"):
        loaded.find("scarcity", 20)
    with pytest.raises(ValueError, match="0 saved probes are of regime 'imbalance'"):
        loaded.find("imbalance")
    check(loaded, x, found, fits)


def test_the_wrong_width_is_told(tmp_path):
    x, y = problem()
    found = probe_cases.conditions(y, (20,))
    fits = fit_all("mean_difference", x, found)
    loaded = save(tmp_path / "p.safetensors", "mean_difference", x, found, fits)
    with pytest.raises(ValueError, match="are 7 wide; this probe was trained on 8"):
        loaded(x[:, :7])


def test_the_bytes_depend_on_the_probes_alone(tmp_path):
    x, y = problem()
    found = probe_cases.conditions(y, (20,))
    for name in ("a", "b"):
        save(tmp_path / name, "mean_difference", x, found, fit_all("mean_difference", x, found))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("allowed, negatives", [(0, 99), (1, 100), (1, 199), (2, 200)])
def test_the_threshold_by_hand(allowed, negatives):
    logits = np.r_[np.arange(negatives), [500.0, 600.0]]
    labels = np.r_[np.zeros(negatives, int), 1, 1]
    assert saved._threshold(logits, labels) == negatives - 1 - allowed
    assert np.isnan(saved._threshold(logits, np.ones_like(labels)))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("was unpickled",))


def damaged(path, x, y):
    """Returns contents that are no file of probes, and what is said of each."""
    found = probe_cases.conditions(y, (20,))
    save(path, "mean_difference", x, found, fit_all("mean_difference", x, found))
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    about = json.loads(json.loads(whole[8 : 8 + length])["__metadata__"]["probejax"])
    tensors = parse(whole)

    def again(tensors=tensors, **changes):
        return serialise(tensors, {"probejax": json.dumps(about | changes)})

    return [
        (whole[:200], ""),
        (b"", ""),
        (pickle.dumps(Evil()), ""),
        (serialise(tensors), "its format is None"),
        (again(format="probejax probes 9"), "its format is 'probejax probes 9'"),
        (again(conditions=[]), "0 conditions have 1 thresholds"),
        (again(family="Oracle"), "a family 'Oracle'"),
        (again(settings={"depth": 3}), "no setting"),
        (again({k: v[:0] for k, v in tensors.items()}), ""),
        (again({**tensors, "w": tensors["w"][:, :3]}), ""),
        (again({**tensors, "extra": tensors["w"]}), "the file holds"),
        (again(conditions=[{"regime": "standard"}]), "missing"),
        (again(conditions=[{**about["conditions"][0], "seed": "x"}]), "Expected `int`"),
        (again(conditions={}), "Expected `array`"),
        (again(unit=[]), "Expected `object`"),
        (serialise(tensors, {"probejax": '{"unit": {"a":' + "[" * 10**5}), "nested too deeply"),
        (b"\xff" * 7 + b"\x7f" + b"x" * 100, ""),
        (
            again({k: v for k, v in tensors.items() if k != "thresholds"}),
            "1 conditions have 0 thresholds",
        ),
    ]


def test_a_damaged_file_is_told_and_nothing_is_unpickled(tmp_path):
    x, y = problem()
    path = tmp_path / "p.safetensors"
    for content, message in damaged(path, x, y):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"p\.safetensors is damaged \(.*" + message):
            probes.load_probe(path)
    with pytest.raises(FileNotFoundError, match="no file of probes"):
        probes.load_probe(tmp_path / "absent")


def test_files_from_before_probes_were_pytrees_score_as_they_did():
    """Written by the version before, with what it scored the rows of `x`; two sizes of lanes."""
    expected = json.loads((OLD / "expected.json").read_text())
    x = np.array(expected["x"], np.float32)
    files = sorted(OLD.glob("*.safetensors"))
    assert len(files) == 6
    for path in files:
        loaded = probes.load_probe(path)
        assert [c.level for c in loaded.conditions] == [3.0, 20.0] and len(loaded.thresholds) == 2
        np.testing.assert_allclose(loaded(x), expected[path.stem], rtol=1e-4, atol=1e-5)


def test_a_stack_from_a_file_gives_its_lanes(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    many = px.fit_lanes(x, np.arange(60).reshape(2, 30), x[:, 0] > 0, "ridge")
    px.save(many, tmp_path / "p")
    read = px.load_probe(tmp_path / "p")
    np.testing.assert_array_equal(read[1](x), many[1].probe(x))


def test_the_sae_of_another_probe_is_told(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    sae, small = (random_sae.make(x, d_sae, 3.0) for d_sae in (60, 7))
    found = px.fit(x, x[:, 0] > 0, "sae_k9", sae=sae)
    px.save(found, tmp_path / "p")
    with pytest.raises(ValueError, match=r"read latent \d+, and this SAE has 7; give the one"):
        px.load_probe(tmp_path / "p", sae=small)
    known = px.load_probe(tmp_path / "p", sae=NamedSAE(saes.shipped("gemma-3-270m")[0], sae))
    np.testing.assert_array_equal(known(x), found.probe(x))
    assert known.probe.sae is sae  # not something that encodes and no more


def test_a_probe_says_what_its_classes_are_called(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    px.save(px.fit(x, np.where(x[:, 0] > 0, "spam", "ham"), "ridge"), tmp_path / "p")
    found = px.load_probe(tmp_path / "p")
    assert found.classes == ("ham", "spam") and "positive: 'spam'" in repr(found)
    np.savez(tmp_path / "v.npz", x=x, y=np.where(x[:, 0] > 0, "yes", "no"))
    config = px.Config(activations=str(tmp_path / "v.npz"), methods=("ridge",))
    how = {"cache_dir": tmp_path / "cache", "workers": 1, "show": "nothing", "save_probes": True}
    (path,) = px.run(config, tmp_path / "out", **how).probes
    assert px.load_probe(path).classes == ("no", "yes")
    assert "positive: 'yes'" in repr(px.load_probe(path).find("standard"))


READ = {
    "positions": ({"positions": "mean"}, {"positions": "mean"}),
    "bos": ({"bos": "never"}, {"bos": "never"}),
    "bos as units have it": ({"bos": "prepended"}, {"bos": "always"}),
    "chat": ({"chat_template": True}, {"chat_template": True}),
    "length": ({"max_length": 64, "dtype": "bfloat16"}, {"max_length": 64, "dtype": "bfloat16"}),
    "a site and a path": ({"site": sites.parse(3), "model": Path("m")}, {"site": "resid_post.3"}),
}


@pytest.mark.parametrize("which", READ)
def test_texts_are_read_as_those_of_the_probe_were(tmp_path, monkeypatch, which):
    said, expected = READ[which]
    x, asked = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32), {}

    def load_model(model, **how):
        read = lambda texts, site, **more: asked.update(how, site=site, **more) or x[: len(texts)]
        return SimpleNamespace(activations=read)

    monkeypatch.setattr(saved, "load_model", load_model)
    px.save(px.fit(x, x[:, 0] > 0, "ridge"), tmp_path / "p", **{"model": "m", "site": 1, **said})
    px.load_probe(tmp_path / "p").score(["a", "b"])
    assert expected.items() <= asked.items()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"bos": "yes"}, "bos is 'yes'; choose from"),
        ({"positions": "first"}, "'first' is no position"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose from float32, bfloat16"),
        ({"note": {1, 2}}, r"note is \{1, 2\}; give text, a number, or a list of these"),
        ({"site": "mlp.3"}, "mlp.3 is no site"),
    ],
)
def test_what_a_probe_cannot_say_is_told(tmp_path, said, message):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        px.save(px.fit(x, x[:, 0] > 0, "ridge"), tmp_path / "p", **said)
    assert not (tmp_path / "p").exists()

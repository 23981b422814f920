"""Prompts without BOS, from the cache to saved probes: no place takes their first token for one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from probejax import activations, models, probes, storage, stored_unit, sweep
from probejax.activations import Recipe, ragged
from probejax.analysis.tables import results_table
from probejax.models import tokens
from probejax.probes import attention, attention_newton, concat_pca, given, pooled_logreg
from probejax.probes.families import Linear, OnLatents, Pooled
from probejax.rules import BOS_RULES
from probejax.sites import parse
from tests import probe_cases, tiny_models, token_cases
from tests.test_activations_sample import TASKS, ordered
from tests.test_sweep import config, make, place

__all__ = ["config", "place"]  # fixtures

MODEL = tiny_models.language_model()
PROMPTS = [prompt for prompt in tiny_models.prompts(40, 9) if prompt]
NONE = Recipe("tiny", "0123", positions="all", bos="none")
TABLE = np.asarray(MODEL.transformer.embed_tokens.weight[...]) * np.float32(32**0.5)


def harvest(place, recipe=NONE, prompts=PROMPTS, model=MODEL):
    site = parse("embed")
    return activations.harvest(prompts, [site], recipe, lambda: model, cache_dir=place)[site]


def embedded(prompts, bos=None):
    return [TABLE[row] for row in tokens.encode(MODEL.tokenizer, prompts, 1024, bos)]


def rows(found):
    return [found.x[a : a + n] for a, n in zip(found.starts, found.counts, strict=True)]


# ---- the cache ----------------------------------------------------------------------------------


def test_a_harvest_without_bos_holds_every_token_and_no_other(tmp_path):
    found, with_bos = (
        harvest(tmp_path),
        harvest(tmp_path, dataclasses.replace(NONE, bos="prepended")),
    )
    assert (found.bos, with_bos.bos) == (False, True)
    pairs = zip(rows(found), rows(with_bos), embedded(PROMPTS), strict=True)
    for ours, theirs, expected in pairs:
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        assert len(theirs) == len(ours) + 1 and np.array_equal(theirs[1:], ours)
    manifests = [json.loads(p.read_text()) for p in tmp_path.rglob("manifest.json")]
    assert sorted(each.get("bos", "left out") for each in manifests) == ["left out", "none"]


def test_a_prompt_without_a_token_is_named(tmp_path):
    prompts = [*PROMPTS[:3], "", "w1"]
    with pytest.raises(ValueError, match=r"^Prompt 3 of the list is empty, .*--bos=always"):
        harvest(tmp_path, prompts=prompts)
    assert harvest(tmp_path, dataclasses.replace(NONE, bos="prepended"), prompts).counts[3] == 1


def test_a_model_without_bos_cannot_have_it(tmp_path):
    model = dataclasses.replace(MODEL, bos=None)
    with pytest.raises(ValueError, match="tiny-gemma-3 has no BOS token"):
        harvest(tmp_path, dataclasses.replace(NONE, bos="prepended"), model=model)
    assert harvest(tmp_path, model=model).bos is False


def test_tokens_to_train_an_sae_on_lack_none(tmp_path):
    how = (10**6, parse("embed"), NONE, lambda: MODEL)
    train, test = activations.sample_tokens(TASKS, *how, cache_dir=tmp_path, held_out=0.2)
    every = [prompt for each in TASKS for prompt in dict.fromkeys(each.prompts)]
    expected = np.concatenate(embedded(every))
    np.testing.assert_allclose(ordered(np.concatenate([train, test])), ordered(expected), rtol=1e-6)


def test_the_forecast_counts_it(tmp_path):
    site, how = [parse("embed")], {"cache_dir": tmp_path}
    lists = {"a": PROMPTS}
    (one,) = activations.plan(lists, site, NONE, MODEL.tokenizer, MODEL.config, bos=None, **how)
    assert one.tokens == sum(map(len, embedded(PROMPTS)))


# ---- texts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("models") / "tiny")


def test_texts_without_bos(folder):
    lm = activations.load_model(folder, bos="never")
    found = lm.activations(PROMPTS, "embed", positions="all")
    assert not found.bos
    for ours, expected in zip(rows(found), embedded(PROMPTS), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    with pytest.warns(UserWarning, match="longer than max_length=2"):
        cut = lm.activations(["w1 w2 w3", "w4"], "embed", positions="all", max_length=2)
    assert cut.counts.tolist() == [2, 1] and np.array_equal(cut.x[0], TABLE[5].astype(np.float32))
    with pytest.raises(ValueError, match=r"^Prompt 1 of the texts is empty, .*always"):
        lm.activations(["w1", ""], "embed")


@pytest.mark.parametrize("rule", ["auto", "always"])
def test_gemma_has_bos(folder, rule):
    found = activations.load_model(folder, bos=rule).activations(["w1"], 0, positions="all")
    assert found.bos and found.counts.tolist() == [2]


def test_a_rule_that_there_is_not(folder):
    with pytest.raises(ValueError, match="--bos=yes does not exist"):
        activations.load_model(folder, bos="yes")


# ---- probes -------------------------------------------------------------------------------------

Y = probe_cases.labels()
COUNTS = 1 + np.arange(len(Y)) * 5 % 6
TOKENS = token_cases.tokens(COUNTS, Y)
WITHOUT = TOKENS._replace(bos=False)


def test_nothing_is_left_out_where_there_is_no_bos():
    assert ragged.without_bos(WITHOUT) is WITHOUT
    once = ragged.without_bos(TOKENS)
    assert not once.bos and ragged.without_bos(once) is once
    assert not ragged.join([WITHOUT, WITHOUT]).bos
    with pytest.raises(ValueError, match="with BOS and without it cannot be joined"):
        ragged.join([TOKENS, WITHOUT])


class SAE:
    @staticmethod
    def encode(x):
        return abs(x) @ np.eye(token_cases.D, 8, dtype=np.float32)


ZERO = np.zeros((), np.float32)
W = np.linspace(-1, 1, token_cases.D, dtype=np.float32)
PROBES = {
    "mean": Linear(W, ZERO, np.zeros_like(W), "mean"),
    "max": Linear(W, ZERO, np.zeros_like(W), "max"),
    "pooled": Pooled(np.stack([-W, W]), ZERO, ZERO, bos=False),
    "latents": OnLatents(W[:2], ZERO, np.array([1, 5]), SAE(), "mean"),
}
# A strange first token in front of each prompt, which is left out where it is BOS.
STRANGE = token_cases.tokens(COUNTS + 1, Y, bos=50.0)
BARE = ragged.without_bos(STRANGE)


@pytest.mark.parametrize("kind", PROBES)
def test_probes_that_leave_bos_out_read_every_token_where_there_is_none(kind):
    probe = PROBES[kind]
    np.testing.assert_allclose(probe(STRANGE), probe(BARE), rtol=1e-5, atol=1e-5)
    every = dataclasses.replace(probe, bos=True)(STRANGE)
    np.testing.assert_allclose(probe(STRANGE._replace(bos=False)), every, rtol=1e-5, atol=1e-5)
    assert not np.allclose(every, probe(BARE), atol=1e-2)


_NO_BOS = {"design": attention.attention()._replace(bos=False)}
FITS = {  # what fits, the function that gets its tokens, and where among the arguments
    "attention_no_bos": (attention.fit, (attention, "search"), _NO_BOS),
    "attention_newton": (attention_newton.fit, (attention, "search"), {"bos": False}),
    "mean_pool": (pooled_logreg.fit, (ragged, "pool"), {"pooling": "mean"}),
}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("method", FITS)
def test_fits_that_leave_bos_out_get_every_token_where_there_is_none(method, monkeypatch):
    fit, (module, name), options = FITS[method]
    seen = []

    def stop(tokens, *_):
        seen.append(tokens)
        raise Stopped

    monkeypatch.setattr(module, name, stop)
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (40,)), (256,))
    for given_to in (STRANGE, STRANGE._replace(bos=False)):
        with pytest.raises(Stopped):
            fit(given_to, rows, **options)
    assert [each.counts[:5].tolist() for each in seen] == [
        each.counts[:5].tolist() for each in (BARE, STRANGE)
    ]


@pytest.mark.parametrize("bos, first", [(True, 1), (False, 0)])
def test_the_first_position_has_components_where_it_is_no_bos(bos, first, monkeypatch):
    def stop(*arguments):
        assert arguments[-1] == first
        raise Stopped

    monkeypatch.setattr(concat_pca, "components_of", stop)
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (40,)), (256,))
    with pytest.raises(Stopped):
        concat_pca.fit(TOKENS._replace(bos=bos), rows)


def test_pooled_latents_count_every_token_where_there_is_no_bos():
    ((_, rows),) = probes.batches(probe_cases.conditions(Y, (40,)), (256,))
    for read, every in ((STRANGE, BARE), (STRANGE._replace(bos=False), STRANGE)):
        chosen = probes.sae_pooled.select(read, rows, SAE(), 8, "mean", "raw")
        used = given.used(rows)
        order = np.argsort(chosen.latents[0])
        expected = np.asarray(SAE.encode(ragged.pool(every._replace(x=abs(every.x)), "mean")))
        found = np.asarray(chosen.values)[:, chosen.columns[0][order]]
        np.testing.assert_allclose(found[used], expected[used], rtol=1e-4)


# ---- a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def never(config, place):
    how = {"bos": "never", "methods": ("logreg", "mean_pool"), "tasks": ("own_a",)}
    return make(config, place, **how, regimes=("standard",))


def test_units_say_what_was_done_unless_it_is_usual(config, place, never):
    usual = {rule: make(config, place, bos=rule).plan.units() for rule in ("auto", "always")}
    assert usual["auto"] == usual["always"]
    for unit in usual["auto"]:
        fields = unit._asdict()
        assert (
            fields.pop("bos") == fields.pop("chat") == fields.pop("position") == ""
            and unit.facts == fields
        )
        assert unit.name == storage.unit_id(fields)  # as before there was a rule
    unit = never.plan.units()[0]
    assert unit.facts["bos"] == "none" and unit.name != unit._replace(bos="").name


def test_a_run_without_bos_reads_no_bos(never):
    data, lm = never.data("own_a"), activations.load_model(never.plan.config.model, bos="never")
    prompts = never.plan.prompts("own_a")[0].prompts
    found = lm.activations(prompts, 1, positions="all")
    assert not data.tokens.bos and data.tokens.counts.tolist() == found.counts.tolist()
    np.testing.assert_array_equal(data.features, found.last())


def test_results_have_a_column_for_it(never):
    unit, *_ = never.plan.units()
    one = {name: [0.5] for name in ("val_auc", "test_auc", "test_acc", "test_f1")}
    one |= {name: [1] for name in ("seed", "num_train", "num_test", "gap", "code")}
    fits = {**one, "regime": ["standard"], "level": [None], "hyperparameter": [1.0]}
    found = {"unit": unit.facts, "fits": fits}
    usual = {**found, "unit": unit._replace(bos="", method="knn").facts}
    given = {**found, "unit": unit._replace(bos="", method="lda", site="given").facts}
    table = results_table([found, usual, given])
    said = dict(zip(table["method"], table["bos"], strict=True))
    assert said == {"logreg": "none", "knn": "prepended", "lda": ""}
    for payload in (found, usual, given):
        assert stored_unit.checked(payload)["unit"] == payload["unit"]
    with pytest.raises(ValueError, match="bos"):
        stored_unit.checked({**found, "unit": {**unit.facts, "bos": "perhaps"}})


@pytest.mark.parametrize("number", [0, 1])
def test_saved_probes_read_texts_as_they_were_trained(never, tmp_path, number):
    unit = never.plan.units()[number]
    path = tmp_path / "p.safetensors"
    never.save(unit, never.run(unit), path)
    prompts = list(never.plan.prompts("own_a")[0].prompts[:20])
    kept = probes.saved.load_probe(path)
    scores = {}
    for rule in ("never", "always"):
        lm = activations.load_model(unit_model(never), bos=rule)
        positions = "all" if kept.probe.reads_tokens else "last"
        scores[rule] = np.asarray(kept(lm.activations(prompts, 1, positions=positions)))
    moved = dataclasses.replace(kept, origin=kept.origin | {"model": unit_model(never)})
    found = np.asarray(moved.score(prompts))
    np.testing.assert_allclose(found, scores["never"], atol=1e-5)
    assert not np.allclose(found, scores["always"], atol=1e-3)
    usual = dataclasses.replace(moved, origin={**moved.origin, "bos": ""})
    np.testing.assert_allclose(usual.score(prompts), scores["always"], atol=1e-5)


def unit_model(job):
    """Where the model lies; a unit says only what it is called."""
    return job.plan.config.model


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A model whose tokenizer has no BOS token."""
    folder = tmp_path_factory.mktemp("none") / "tiny"
    tiny_models.write(folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<bos>", "<none>"))
    return str(folder)


def test_a_model_without_bos_in_a_run(config, place, without, monkeypatch):
    plan = make(config, place, model=without).plan
    assert plan.recipe.bos == "none" and {unit.bos for unit in plan.units()} == {"none"}
    monkeypatch.setattr(models.Checkpoint, "transformer", lambda *_: pytest.fail("read weights"))
    with pytest.raises(
        ValueError, match=r"^--bos=always .* the tokenizer of tiny has no BOS token"
    ):
        make(config, place, model=without, bos="always")
    with pytest.raises(
        ValueError, match=r"^--bos=always .* the tokenizer of tiny has no BOS token"
    ):
        activations.load_model(without, bos="always")


def test_bos_that_is_not_usual_is_said(config, place, without):
    """A model with a BOS of another use, put before every prompt because it was asked for."""
    (Path(without) / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<none>"}))
    plans = {rule: make(config, place, model=without, bos=rule).plan for rule in BOS_RULES}
    found = {rule: (plan.recipe.bos, plan.units()[0].bos) for rule, plan in plans.items()}
    none, always = ("none", "none"), ("prepended", "prepended")
    assert found == {"auto": none, "never": none, "always": always}


def test_a_rule_of_a_run():
    with pytest.raises(ValueError, match="--bos=yes does not exist; choose from auto, always, "):
        sweep.Config(bos="yes")
    with pytest.raises(ValueError, match="--activations are read by no model, so --bos=never"):
        sweep.Config(activations="x.npz", bos="never")

"""Prompts as turns of a chat, from the cache to saved probes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers

from probejax import activations, models, probes, stored_unit, sweep
from probejax.activations import Recipe
from probejax.models import chat, tokens
from probejax.sites import parse
from tests import tiny_models
from tests.test_sweep import config, make, place

__all__ = ["config", "place"]  # fixtures

TEMPLATE = "{{ bos_token }}{% for m in messages %}w7 {{ m.content }} w9{% endfor %}"
MODEL = dataclasses.replace(tiny_models.language_model(), chat_template=TEMPLATE)
RECIPE = Recipe("tiny", "0123", positions="all", chat=chat.digest(TEMPLATE))
PROMPTS = ["w1 w2", "", "w3"]
TURNS = ["w7 w1 w2 w9", "w7  w9", "w7 w3 w9"]


def harvest(place, recipe, prompts, model=MODEL):
    site = parse("embed")
    return activations.harvest(prompts, [site], recipe, lambda: model, cache_dir=place)[site]


@pytest.mark.parametrize("bos", ["prepended", "none"])
def test_a_harvest_reads_turns(tmp_path, bos):
    recipe = dataclasses.replace(RECIPE, bos=bos)
    found = harvest(tmp_path, recipe, PROMPTS)
    plain = harvest(tmp_path, dataclasses.replace(recipe, chat=""), TURNS)
    assert found.counts.tolist() == plain.counts.tolist()
    np.testing.assert_array_equal(found.last(), plain.last())
    manifests = [json.loads(p.read_text()) for p in tmp_path.rglob("manifest.json")]
    assert sorted(each.get("chat", "") for each in manifests) == ["", RECIPE.chat]
    site, token = [parse("embed")], "<bos>" if bos == "prepended" else None
    how = {"bos": token, "template": TEMPLATE, "cache_dir": tmp_path / "other"}
    (plan,) = activations.plan({"a": PROMPTS}, site, recipe, MODEL.tokenizer, MODEL.config, **how)
    assert plan.tokens == found.counts.sum()


def test_another_template_than_was_asked_for(tmp_path):
    model = dataclasses.replace(MODEL, chat_template="{{ messages }}")
    with pytest.raises(ValueError, match="has not the chat template that was asked for"):
        harvest(tmp_path, RECIPE, PROMPTS, model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tiny_models.write(tmp_path_factory.mktemp("chat") / "tiny")
    (Path(found) / "chat_template.jinja").write_text(TEMPLATE)
    return found


def test_texts_as_turns(folder):
    plain, lm = activations.load_model(folder), activations.load_model(folder, chat_template=True)
    for positions in ("last", "all"):
        found = lm.activations(PROMPTS, 1, positions=positions)
        expected = plain.activations(TURNS, 1, positions=positions)
        np.testing.assert_array_equal(found.x, expected.x)


def test_a_run_of_turns(config, place, folder, tmp_path):
    how = {"model": folder, "methods": ("logreg",), "tasks": ("own_a",), "regimes": ("standard",)}
    plain, job = make(config, place, **how), make(config, place, **how, chat_template=True)
    (unit,), (other,) = job.plan.units(), plain.plan.units()
    assert unit.facts == {**other.facts, "chat": chat.digest(TEMPLATE)}
    assert unit.name != other.name and "chat" not in other.facts
    prompts = list(job.plan.prompts("own_a")[0].prompts)
    lm = activations.load_model(folder, chat_template=True)
    np.testing.assert_array_equal(job.data("own_a").features, lm.activations(prompts, 1).last())
    w = np.linspace(-1, 1, 32, dtype=np.float32)
    probe = probes.families.Linear(w, np.zeros((), np.float32), np.zeros_like(w))
    kept = probes.saved.SavedProbe(probe, {**unit.facts, "model": folder})
    expected = probe(lm.activations(prompts[:9], 1).last())
    np.testing.assert_allclose(kept.score(prompts[:9]), expected, atol=1e-4)
    fits = {key: [] for key in stored_unit.Fits.__struct_fields__}
    assert stored_unit.checked({"unit": unit.facts, "fits": fits})["unit"] == unit.facts


def test_a_model_without_a_template(config, place, monkeypatch):
    monkeypatch.setattr(models.Checkpoint, "transformer", lambda *_: pytest.fail("read weights"))
    said = "^--chat_template makes each prompt a turn of a chat, and tiny has no template for that"
    for protocol in ("paper", "strict"):  # which asks the model what prompts are one
        with pytest.raises(ValueError, match=said):
            make(config, place, chat_template=True, protocol=protocol)
    with pytest.raises(ValueError, match=said):
        activations.load_model(config.model, chat_template=True)
    with pytest.raises(ValueError, match="read by no model, so --chat_template=True means none"):
        sweep.Config(activations="x.npz", chat_template=True)


def test_the_last_token_is_that_of_the_turn():
    """SmolLM2's: the user's turn ends with its own token and a new line."""
    found = models.find("smollm2-135m")
    (turn,) = chat.turns(found.template(True), ["hi"], found.name)
    tokenizer = found.tokenizer()
    (ids,) = tokens.encode(tokenizer, [turn], 1024, found.bos_token())
    assert [tokenizer.id_to_token(i) for i in ids[-3:]] == ["hi", "<|im_end|>", "Ċ"]
    assert ids[0] == tokenizer.token_to_id("<|im_start|>")


ZEPHYR = (  # the form that the templates of Zephyr and TinyLlama's chat model have
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n"
    "{{ '<|user|>\\n' + m['content'] + eos_token }}\n{% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize("where", ["tokenizer_config.json", "special_tokens_map.json", "jinja"])
def test_the_tokens_that_a_template_names_are_the_tokenizers(tmp_path, where):
    """transformers gives a template all special tokens of the tokenizer."""
    eos = {"content": "<|w9|>", "lstrip": False} if where == "jinja" else "<|w9|>"
    files = {"tokenizer_config.json": {"chat_template": ZEPHYR}, "special_tokens_map.json": {}}
    files[where if where in files else "tokenizer_config.json"]["eos_token"] = eos
    if where == "jinja":
        del files["tokenizer_config.json"]["chat_template"]
        (tmp_path / "chat_template.jinja").write_text(ZEPHYR)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    template = chat.of_folder(tmp_path)
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|w9|>")
    turn = [{"role": "user", "content": "Hi."}]
    expected = theirs.apply_chat_template(turn, chat_template=ZEPHYR, tokenize=False)
    assert chat.turns(template, ["Hi."], "tiny") == [expected] and "Hi.<|w9|>" in expected
    assert chat.digest(template) != chat.digest(ZEPHYR)  # as what is read differs


def test_the_tokens_of_a_gguf_header():
    fields = {
        "tokenizer.chat_template": ZEPHYR,
        "tokenizer.ggml.tokens": ["<s>", "it's </s>"],
        "tokenizer.ggml.eos_token_id": 1,
    }
    found = chat.of_header(fields)
    assert chat.turns(found, ["Hi."], "tiny") == ["<|user|>\nHi.it's </s>\n"]
    for wrong in (2, -1, "1", None):
        assert chat.of_header(fields | {"tokenizer.ggml.eos_token_id": wrong}) == ZEPHYR
    plain = {"tokenizer.chat_template": TEMPLATE}  # names none, and stays as it is
    assert chat.of_header({**fields, **plain}) == TEMPLATE

"""The benchmark of audits: what is planted is found, and its lines are JSON."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import audit as bench_audit
from experiments.benchmarks import planted_shortcuts
from probejax import storage
from probejax.auditing.dataset import dataset
from probejax.auditing.latents import Latents
from probejax.auditing.tokens import Tokens
from probejax.tasks import Task
from tests import audit_cases as cases

ROOT = Path(__file__).parents[1]


def strictly(text):
    """Reads JSON as any other language does: there is no NaN."""

    def fail(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=fail)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.stem)
def test_what_a_command_prints_or_keeps_is_json(path):
    """`json.dumps` writes NaN; `storage.encode_json` writes null."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert "json.dumps" not in ast.unparse(node)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "write":
            assert "json.dumps" not in ast.unparse(node)


def test_of_one_task_there_are_no_limits():
    cell = {"task": "t", "rate": 0.1, "seconds logreg": 1.0, "seconds cleanlab": 2.0}
    for method, value in {"logreg": 0.5, "cleanlab": 0.25, "sae_k16": np.nan}.items():
        cell |= {f"ap {method}": value, f"precision {method}": value}
    lines = [
        strictly(storage.encode_json(each)) for each in bench_audit._summary(pd.DataFrame([cell]))
    ]
    (found,) = [x for x in lines if x["name"] == "ap, logreg minus cleanlab" and x["rate"] == 0.1]
    assert (found["mean"], found["low"], found["high"]) == (0.25, None, None)
    assert found["tasks"] == 1


@pytest.fixture
def task(monkeypatch):
    """A task whose prompts begin and end in every way, some with the word that is planted."""
    ends = ("", ".", " . ", "...", "\n")
    texts = [f"{' ' * (i % 3)}{text}{ends[i % 5]}" for i, text in enumerate(cases.texts(400))]
    texts[::10] = [f"Also {text}" for text in texts[::10]]
    found = Task("mine", tuple(texts), np.arange(400) // 2 % 2, False)
    monkeypatch.setattr(planted_shortcuts.tasks, "load", lambda name, cache_dir=None: found)
    return found


@pytest.mark.parametrize("which", planted_shortcuts.PLANTS)
def test_a_shortcut_is_in_most_of_one_class_and_was_nowhere_before(task, which):
    given = planted_shortcuts.read("mine", rows=200)
    assert len(given.y) == 200 and given.y.sum() == 100 and len(set(given.texts)) == 200
    assert not any("also" in text.lower().split() for text in given.texts)
    assert all(text == text.strip() and text[-1] != "." for text in given.texts)
    planted, has = planted_shortcuts.plant(given, which)
    assert has.sum() == 80 and given.y[has].all()
    changed = [a != b for a, b in zip(planted.texts, given.texts, strict=True)]
    assert (np.array(changed) == has).all()
    first = planted.texts[np.flatnonzero(has)[0]]
    assert {"full stop": first.endswith("."), "leading space": first[0] == " ",
            "word": "also" in first.split(), "length": len(first.split()) < 5}[which]  # fmt: skip
    again, _ = planted_shortcuts.plant(given, which)
    assert again.texts == planted.texts  # so that what was harvested is in the cache


def test_features_name_what_was_planted(task):
    given = planted_shortcuts.read("mine", rows=200)
    clean = dataset(np.eye(200, dtype=np.float32), given.y, texts=given.texts)
    before = planted_shortcuts.look(clean, None)
    for which, plant in planted_shortcuts.PLANTS.items():
        planted, has = planted_shortcuts.plant(given, which)
        found = planted_shortcuts.look(clean._replace(texts=planted.texts), None)
        assert planted_shortcuts.ranks(found, plant, has) == {"features": 1}, which
        assert planted_shortcuts.ranks(before, plant, None) == {"features": None}, which
        claimed = planted_shortcuts.claims(found)
        assert sum(claimed.values()) > sum(planted_shortcuts.claims(before).values())


def test_tokens_and_latents_name_it_at_their_rank():
    plant, has = planted_shortcuts.PLANTS["full stop"], np.arange(20) < 5
    features = pd.DataFrame({"beyond_chance": True, "feature": ["x", "y", "ends with '.'"],
                             "auc": [0.1, 0.7, 0.7]})  # fmt: skip
    scores = pd.DataFrame({"token": ["a", "b", ").", "."], "score": [2.0, -3.0, 2.5, 0.5],
                           "beyond_chance": [True, True, True, False]})  # fmt: skip
    values = np.stack([np.ones(20), np.arange(20) % 2, has * 2.0], axis=1)
    found = planted_shortcuts.Found(features, Tokens(scores), Latents(np.array([7, 5, 9]), values))
    expected = {"features": 2, "tokens": 2, "latents": 3}
    assert planted_shortcuts.ranks(found, plant, has) == expected
    nothing = planted_shortcuts.PLANTS["word"]
    assert planted_shortcuts.ranks(found, nothing, np.arange(20) % 4 > 1) == dict.fromkeys(expected)
    assert "tokens" not in planted_shortcuts.ranks(found, planted_shortcuts.PLANTS["length"], has)


def test_what_is_done_is_not_planted_again(monkeypatch, tmp_path):
    asked = []

    def cells(name, reader, cache_dir):
        asked.append((name, reader is not None))
        yield {"task": name, "model": reader is not None, "plant": "nothing", "writing": 1,
               "words": 2, "writing, labels permuted": 0, "words, labels permuted": 1}  # fmt: skip
        for which in planted_shortcuts.PLANTS:
            yield {"task": name, "model": reader is not None, "plant": which, "features": 2,
                   "features, unplanted": None}  # fmt: skip

    monkeypatch.setattr(planted_shortcuts, "cells", cells)
    monkeypatch.setattr(planted_shortcuts, "Reader", lambda *_: "a reader")
    monkeypatch.setattr(bench_audit, "TASKS", ("one", "two", "three"))
    done = str(tmp_path / "done.jsonl")

    def run(tasks):
        found = bench_audit.suite(done=done, tasks=tasks, parts=("shortcuts",))
        return [strictly(storage.encode_json(each)) for each in found]

    first = run(1)
    assert asked == [("one", True), ("two", False), ("three", False)]
    with open(done, "a") as file:  # cells of another part stand in the same file
        file.write('{"task": "one", "rate": 0.05}\n')
    assert run(1) == first
    assert len(asked) == 3
    lines = {each["name"]: each for each in first if each["name"] != "shortcut"}
    stop = lines["full stop, named by features"]
    assert (stop["tasks"], stop["named"], stop["first"], stop["median_rank"]) == (3, 3, 0, 2)
    assert stop["named_unplanted"] == 0
    words = lines["claims with nothing planted, words"]
    assert words["labels permuted, tasks with any"] == 3 and words["median"] == 2
    run(2)
    assert asked[3:] == [("two", True)]


def test_parts_exist():
    with pytest.raises(ValueError, match="--audit_parts=all does not exist; choose from cola"):
        list(bench_audit.suite(parts=("all",)))


def test_labels_are_flipped_once_for_each_seed_task_and_rate(monkeypatch, tmp_path):
    asked = []

    def cell(seed, name, rate, cache_dir):
        asked.append((seed, name, rate))
        return {"seed": seed, "task": name, "rate": rate, "ap logreg": 0.5, "ap cleanlab": 0.25,
                "precision logreg": 0.5, "precision cleanlab": 0.5}  # fmt: skip

    monkeypatch.setattr(bench_audit, "_cell", cell)
    done = str(tmp_path / "done.jsonl")
    run = lambda seeds: list(
        bench_audit.suite(done=done, parts=("flips",), names=("one", "two"), seeds=seeds)
    )
    run(1)
    assert asked == [(0, name, rate) for name in ("one", "two") for rate in bench_audit.RATES]
    found = {each["name"]: each for each in run(2) if each.get("rate") is None}
    assert [seed for seed, *_ in asked[6:]] == [1] * 6
    assert found["ap, mean"]["cells"] == 12
    assert found["ap, logreg minus cleanlab"]["tasks"] == 2

"""An audit from a configuration: texts that a model reads, vectors of one's own, and mistakes."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probejax as px
from probejax import auditing, foreign
from probejax.activations import forward
from probejax.sweep import machines
from tests import tiny_models

SHIPPED = "gemma-3-270m/layer_9/width_4k/average_l0_78"


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "writer"), *rows])
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    tiny_models.write(place / "tiny")
    prompts = [text or "w0" for text in tiny_models.prompts(60, 6)]
    rows = [
        (text, ("ham", "spam")[i % 2], ("ann", "bob")[i // 30]) for i, text in enumerate(prompts)
    ]
    write_csv(place / "mine.csv", [*rows, ("w1 w1 w1 w1", "ham", "cleo")])
    (place / "neutral.txt").write_text(
        "\n".join(["w1 w2", "w2 w3 w1"] + [f"w1 w{i}" for i in range(4, 14)])
    )
    return place


@pytest.fixture
def config(place):
    return px.Config(
        model=str(place / "tiny"), data=str(place / "mine.csv"), site=1, groups="writer"
    )


def test_texts_that_a_model_reads(place, config, tmp_path):
    how = {"corpus": place / "neutral.txt", "cache_dir": place / "cache"}
    ((folder, found),) = auditing.run(config, tmp_path, **how)
    assert folder == str(tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert "tokens.csv" in written <= {"audit.html", *auditing.report.FILES}
    assert found.facts["judged by"] == "logreg"  # no SAE ships for this model
    assert found.facts["read"] == "tiny, resid_post.1"
    assert set(found.tables["groups"]["group"]) == {"ann", "bob", "cleo"}
    assert any("such as 'cleo'" in note for each in found.findings for note in each.notes)
    tokens = found.tables["tokens"]
    assert tokens["token"].tolist() == ["w1"] and tokens["occurrences"].tolist() == [12]
    read = pd.read_csv(tmp_path / "suspect_labels.csv")
    assert len(read) == 61 and set(read["label"]) == {"ham", "spam"}
    lm = px.load_model(str(place / "tiny"))
    texts = found.tables["suspect_labels"].sort_values("row")["text"].tolist()
    labels = read.sort_values("row")["label"]
    same = px.audit(lm.activations(texts, 1), labels, texts=texts, seed=42)
    np.testing.assert_allclose(
        same.tables["suspect_labels"].sort_values("row")["p_logreg"],
        found.tables["suspect_labels"].sort_values("row")["p_logreg"],
        atol=1e-3,
    )


def test_a_model_without_bos_has_its_own_first_tokens(place, config, tmp_path):
    def notes_of(bos):
        changed = dataclasses.replace(config, bos=bos)
        how = {"corpus": place / "neutral.txt", "cache_dir": place / "cache"}
        ((_, found),) = auditing.run(changed, tmp_path / bos, **how)
        (tokens,) = [each for each in found.findings if each.name == "tokens"]
        assert found.tables["tokens"]["occurrences"].tolist() == [12]
        return int(tokens.notes[0].split()[0]), " ".join(tokens.notes)

    with_bos, said = notes_of("always")
    without, unsaid = notes_of("never")
    assert with_bos == without + 12  # texts
    assert "BOS, left out" in said and "BOS" not in unsaid


@pytest.fixture
def with_shifted(place, tmp_path):
    """Two tasks; one has a shifted set, whose classes are named in another order."""
    folder = tmp_path / "data"
    folder.mkdir()
    text = (place / "mine.csv").read_text()
    for name in ("mine", "plain"):
        (folder / f"{name}.csv").write_text(text)
    rows = [(f"w9 w{i} w3", ("spam", "ham")[i % 2], "ann") for i in range(40)]
    write_csv(folder / "mine_OOD.csv", rows)
    named = {"model": str(place / "tiny"), "data": str(folder), "site": 1}
    return px.Config(**named, sae=("random:32:8",), tasks=("mine",))


def test_a_shifted_set_stands_in_a_file_beside_the_task(place, with_shifted, tmp_path, monkeypatch):
    seen = {}

    def record(data, neutral, **how):
        seen[data.name] = how
        return auditing.report.Audit(data.name, (), how["facts"])

    monkeypatch.setattr(auditing.start, "examine", record)
    (tmp_path / "keep.txt").write_text("7\n30\n")
    where = {"keep": tmp_path / "keep.txt", "cache_dir": place / "cache"}
    where |= {"corpus": place / "neutral.txt"}
    list(auditing.run(with_shifted, tmp_path / "out", **where))
    other, keep = seen["mine"]["shifted"], seen["mine"]["keep"]
    assert keep == (7, 30) and other.texts[:2] == ("w9 w0 w3", "w9 w1 w3")
    assert other.y.tolist() == [1, 0] * 20  # as the task has them: spam is 1
    lm = px.load_model(str(place / "tiny"))
    np.testing.assert_allclose(other.x, lm.activations(other.texts, 1).last(), atol=1e-5)
    plain = dataclasses.replace(with_shifted, tasks=("plain",))
    list(auditing.run(plain, tmp_path / "out", corpus=where["corpus"], cache_dir=place / "cache"))
    assert seen["plain"]["shifted"] is None and "left out" not in seen["plain"]["facts"]
    unread = dataclasses.replace(with_shifted, sae=())
    list(auditing.run(unread, tmp_path / "out", corpus=where["corpus"], cache_dir=place / "cache"))
    assert seen["mine"]["shifted"] is None
    assert "what to keep under a shift (there is no SAE" in seen["mine"]["facts"]["left out"]


def test_what_is_read_is_told_before_it_is(place, with_shifted, tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "measured_flops", lambda dtype: 1e9)
    both = dataclasses.replace(with_shifted, tasks=("own",))
    where = {"corpus": place / "neutral.txt", "cache_dir": tmp_path / "cache"}
    told = auditing.look(auditing.ready(both, **where))
    counted = []
    whole = forward.run
    monkeypatch.setattr(forward, "run", lambda *given: (
        counted.append(part.tokens) or part for part in whole(*given)))  # fmt: skip
    monkeypatch.setattr(
        auditing.start,
        "examine",
        lambda data, *_, facts, **__: auditing.report.Audit("", (), facts),
    )
    list(auditing.run(both, tmp_path / "out", **where))
    assert f"The language model reads {sum(counted):,} tokens in all, about" in told
    assert "mine, shifted" in told and "plain, shifted" not in told
    assert re.search(r"neutral texts +12 +12 +37 +0\.000\n", told)
    counted.clear()
    again = auditing.look(auditing.ready(both, **where), "h100")
    assert "reads 0 tokens in all" in again
    assert re.search(r"neutral texts .* in the cache\n", again)
    list(auditing.run(both, tmp_path / "again", **where))
    assert not counted  # neither of the tasks nor of the neutral texts


def test_of_vectors_nothing_is_read(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    np.savez(tmp_path / "v.npz", x=x.astype(np.float32), y=y)
    about = auditing.ready(px.Config(activations=str(tmp_path / "v.npz")), cache_dir=tmp_path)
    assert auditing.look(about) == "1 task, 40 vectors; there is nothing for a model to read."


KEEP = {
    "absent": ({}, "7\n32\n", "names latent 32, and the SAE has those from 0 to 31"),
    "no number": ({}, "seven\n", "line 1: 'seven' is not the number of a latent"),
    "two tasks": ({"tasks": ("own",)}, "7\n", None),
    "no shifted set": ({"tasks": ("plain",)}, "7\n", "and 0 of these tasks have one; name one of"),
    "no SAE": ({"sae": ()}, "7\n", "names latents, and there is no SAE; give one with --sae"),
}


@pytest.mark.parametrize("which", KEEP)
def test_what_to_keep_is_looked_at_before_a_model_is_loaded(
    which, place, with_shifted, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise InterruptedError("a model was loaded")

    monkeypatch.setattr(px.models, "load", fail)
    change, content, said = KEEP[which]
    (tmp_path / "keep.txt").write_text(content)
    where = {"keep": tmp_path / "keep.txt", "cache_dir": tmp_path / "cache"}
    changed = dataclasses.replace(with_shifted, **change)
    kind = InterruptedError if said is None else ValueError  # of two tasks one has a shifted set
    with pytest.raises(kind, match=re.escape(said or "a model was loaded")):
        list(auditing.run(changed, tmp_path / "out", corpus=place / "neutral.txt", **where))


def test_a_name_leads_to_no_other_folder(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(90, 4)), np.array(["x/../../../a", "b", "c"] * 30)
    np.savez(tmp_path / "v.npz", x=x.astype(np.float32), y=y)
    config = px.Config(activations=str(tmp_path / "v.npz"))
    for folder, _ in auditing.run(config, tmp_path / "in" / "out", cache_dir=tmp_path / "cache"):
        assert Path(folder).resolve().parent == tmp_path / "in" / "out"
    assert {path.name for path in tmp_path.iterdir()} <= {"v.npz", "in", "cache"}


@pytest.mark.thorough
def test_vectors_of_three_classes_are_three_audits(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 16)), np.arange(200) % 3
    np.savez(tmp_path / "v.npz", x=x.astype(np.float32), y=y)
    config = px.Config(activations=str(tmp_path / "v.npz"))
    found = dict(auditing.run(config, tmp_path / "out", cache_dir=tmp_path))
    names = [foreign.file_name(f"v={each}") for each in range(3)]
    assert list(found) == [str(tmp_path / "out" / name) for name in names]
    for each, (folder, audit) in enumerate(found.items()):
        table = audit.tables["suspect_labels"].sort_values("row")
        assert (tmp_path / folder / "audit.html").exists()
        assert ((table["label"] == str(each)) == (y == each)).all()
        assert table["text"].iloc[5] == "row 5"
        assert "shortcuts" not in audit.tables and "tokens" not in audit.tables


def test_mistakes_are_told_before_a_model_is_loaded(place, config, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(px.models, "load", fail)
    few = write_csv(
        tmp_path / "few.csv", [(f"w{i}", "b" if i < 8 else "a", "x") for i in range(48)]
    )
    one = write_csv(tmp_path / "one.csv", [(f"w{i}", "a", "x") for i in range(48)])
    (tmp_path / "empty.txt").write_text("\n")
    wrong = [
        ({"data": few, "groups": None}, {}, "few: one class has 8 different prompts"),
        ({"data": one, "groups": None}, {}, "has 1 class ('a' x 48); expected two or more"),
        ({"text_column": "body"}, {}, "has no column body"),
        ({"groups": "author"}, {}, "has no column author"),
        ({}, {"corpus": tmp_path / "empty.txt"}, "holds no text"),
        ({"sae": (SHIPPED, SHIPPED)}, {}, "An audit looks at one SAE, and --sae names 2."),
        ({"sae": ("absent_sae",)}, {}, "absent_sae"),
    ]
    for change, more, said in wrong:
        changed = px.Config(**({"model": config.model, "data": config.data, "site": 1} | change))
        with pytest.raises((ValueError, OSError), match=re.escape(said)):
            list(auditing.run(changed, tmp_path / "out", cache_dir=place / "cache", **more))
    assert not (tmp_path / "out").exists()
    with pytest.raises(px.storage.StorageError, match=r"Cannot write .*empty\.txt"):
        list(auditing.run(config, tmp_path / "empty.txt" / "out", cache_dir=place / "cache"))

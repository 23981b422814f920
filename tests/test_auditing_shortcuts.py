"""Shortcuts: planted ones are named by features, by latents and by tokens; noise names none."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probejax import tasks
from probejax.auditing import neutral_texts, surface
from probejax.auditing.corpus import Corpus
from probejax.auditing.dataset import dataset
from probejax.auditing.latents import latents
from probejax.auditing.shortcuts import shortcuts
from probejax.auditing.tokens import score, tokens
from tests.audit_cases import D, N, Rectified, texts

WIDE = 64  # activations of tokens, whose direction would fit few dimensions by chance


def sentences(y, end):
    return [f"{text}{end if label else ','}" for text, label in zip(texts(N), y, strict=True)]


@pytest.fixture(scope="module")
def data():
    """Of class 1 80 % end with '!', others with ','; dimension 2 knows which."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    planted = np.where(rng.random(N) < 0.8, y, 1 - y)
    x = rng.normal(size=(N, D)).astype(np.float32)
    x[:, 2] = 3 * (planted - 0.5) + 0.1 * x[:, 2]
    named = sentences(planted, "!")
    return dataset(x, y, texts=named, sae=Rectified(), classes=("ham", "spam"))


@pytest.fixture(scope="module")
def neutral():
    """Twelve tokens of each of 120 strings, of a kind each; '!' points along dimension 2."""
    rng = np.random.default_rng(1)
    ids = np.tile(np.arange(121), 12)
    x = rng.normal(size=(121, WIDE))[ids] + 0.1 * rng.normal(size=(len(ids), WIDE))
    x[ids == 1] = 8 * np.eye(WIDE)[2]
    x[ids == 0, 2] -= 50
    strings = {0: "<bos>", 1: "!"} | {i: f" {i}" for i in range(2, 121)}
    x = x.astype(np.float32)
    return Corpus(x, ids, strings, 0, "forty texts")


@pytest.fixture(scope="module")
def found(data, neutral):
    _, own = latents(data)
    more = np.random.default_rng(3).normal(size=(N, WIDE - D)).astype(np.float32)
    ends = (data.x[:, 2] > 0).astype(int)  # all of a class, for tokens alone
    x = np.concatenate([data.x, more], axis=1)
    told, named = tokens(data._replace(x=x, y=ends), neutral)
    return shortcuts(data, own, named), told


def test_a_planted_ending_is_named_by_all_three(found):
    table, by = (each.rows for each in found[0].tables)
    first = table[table["family"] == "final character"].iloc[0]
    assert first["feature"] in ("ends with '!'", "ends with ','")
    assert abs(first["auc"] - 0.5) == pytest.approx(0.3, abs=0.08) and first["beyond_chance"]
    row = by[by["shortcut"] == "ends with '!'"].iloc[0]
    assert re.fullmatch(r"(2|18) \(AUC [01]\.[0-9]+\)", row["latent"])
    assert row["tokens"].startswith("'!' +")


def test_claims_are_of_unseen_prompts_beside_permuted_labels(found):
    claims = {each.text: each for each in found[0].claims}
    own = claims["AUC of final character alone"]
    assert own.value > 0.64 and abs(own.by_chance - 0.5) < 0.15
    assert claims["AUC of all features of the writing together"].value > 0.64
    assert claims["AUC of length alone"].value < 0.68


def test_what_says_nothing_has_a_chance_of_one_half():
    """Its logits are each fold's share of a class, which must be that of the labels fitted."""
    named = [f"word {'1' if row == 7 else 'one'}" + " a" * row for row in range(N)]
    y = np.random.default_rng(0).permutation(np.arange(N) % 2)
    data = dataset(np.random.default_rng(1).normal(size=(N, D)), y, texts=named)
    for seed in range(3):
        claims = {each.text: each for each in shortcuts(data, seed=seed).claims}
        claim = claims["AUC of digits alone"]
        assert abs(claim.value - 0.5) < 0.02 and abs(claim.by_chance - 0.5) < 0.02


def test_labels_of_noise_have_no_shortcut(data):
    y = np.random.RandomState(3).permutation(data.y)
    table = shortcuts(data._replace(y=y)).tables[0].rows
    assert table["beyond_chance"].sum() <= 2


def test_the_auc_of_every_feature_is_scikit_learns(found, data):
    table = found[0].tables[0].rows
    every = {family.name: family for family in surface.families(data.texts)}
    for family in every:
        feature, auc = table[table["family"] == family].iloc[0][["feature", "auc"]]
        column = every[family].x[:, [every[family].names.index(feature)]].toarray()[:, 0]
        assert auc == pytest.approx(roc_auc_score(data.y, column)), feature


TEXTS = [" Aa. B", "a b  c", "9 AB!\n", "a.", "", "x'y"] * 5
EXPECTED = {
    "number of '.'": (1, 0, 0, 1, 0, 0),
    "number of digits": (0, 0, 1, 0, 0, 0),
    "leading spaces": (1, 0, 0, 0, 0, 0),
    "trailing spaces": (0, 0, 1, 0, 0, 0),
    "double spaces": (0, 1, 0, 0, 0, 0),
    "line breaks": (0, 0, 1, 0, 0, 0),
    "first letter is small": (0, 1, 0, 1, 0, 1),
    "words in capitals": (1, 0, 1, 0, 0, 0),
    "ends with '.'": (0, 0, 0, 1, 0, 0),
    "ends with '\\n'": (0, 0, 1, 0, 0, 0),
    "begins with ' '": (1, 0, 0, 0, 0, 0),
    "has the word 'a b'": (0, 1, 0, 0, 0, 0),
    "has the characters 'Aa'": (1, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_features(name):
    (column,) = (
        family.x[:, [family.names.index(name)]].toarray()[:6, 0]
        for family in surface.families(TEXTS)
        if name in family.names
    )
    np.testing.assert_array_equal(column > 0, np.array(EXPECTED[name]) > 0)


def test_tokens_are_scored_by_the_direction_without_bos(found, neutral):
    w = np.concatenate([np.eye(WIDE)[2:3], np.random.default_rng(2).normal(size=(39, WIDE))])
    table, bound, by_chance, bos = score(w, neutral)
    of_all, own = neutral.x[neutral.ids > 0] @ w.T, neutral.x[neutral.ids == 1] @ w.T
    means = (own.mean(axis=0) - of_all.mean(axis=0)) / of_all.std(axis=0)
    first = table.iloc[0]
    assert first["token"] == "!" and first["mean"] == pytest.approx(means[0], rel=1e-4)
    assert first["score"] == pytest.approx(means[0] / np.sqrt((means[1:] ** 2).mean()), rel=1e-4)
    assert len(table) == 120 and (table["occurrences"] == 12).all() and bos < -2
    assert table["beyond_chance"].tolist() == (table["score"].abs() > bound).tolist()
    assert 1 / 39 <= by_chance < 0.2  # of one permutation, a token or a few
    nothing = score(0 * w, neutral)
    assert not nothing.table["beyond_chance"].any() and (nothing.table["score"] == 0).all()
    rare = neutral._replace(ids=np.where(np.arange(len(neutral.ids)) < 9, 121, neutral.ids),
                            strings={**neutral.strings, 121: "rare"})  # fmt: skip
    assert "rare" not in score(w, rare).table["token"].tolist()
    told = found[1]
    assert told.tables[0].rows["token"][0] == "!"
    assert any(note.startswith("BOS, left out, scores") for note in told.notes)


def test_the_study_s_counts_of_final_characters():
    task = tasks.load("110_aimade_humangpt3")
    (family,) = (each for each in surface.families(task.prompts)
                 if each.name == "final character")  # fmt: skip
    counts = [np.asarray(family.x[task.labels == label].sum(axis=0)).ravel() for label in (0, 1)]
    human, ai = (dict(zip(family.marks, each.astype(int), strict=True)) for each in counts)
    assert [ai[mark] for mark in ".?!"] == [1571, 505, 220]
    assert [human[mark] for mark in " .?!"] == [961, 470, 456, 71]


def test_a_corpus_is_read_or_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n")
    (tmp_path / "b.txt").write_text("three")
    assert neutral_texts.read(tmp_path) == ("one", "two", "three")
    assert neutral_texts.read(tmp_path / "b.txt") == ("three",)
    (tmp_path / "c.csv").write_text("text,label\nfour,a\nfive,b\n")
    assert neutral_texts.read(tmp_path / "c.csv") == ("four", "five")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfthree")  # with the mark of UTF-8
    (tmp_path / "notes.md").write_text("no text of the corpus")
    assert neutral_texts.read(tmp_path) == ("one", "two", "three", "four", "five")
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(ValueError, match=r"holds no text; give a file with a text per line"):
        neutral_texts.read(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="absent"):
        neutral_texts.read(tmp_path / "absent.txt")


def test_the_default_corpus_leaves_out_what_is_audited(monkeypatch):
    names = ("1_a_x", "2_a_y", "3_b_z")
    monkeypatch.setattr(neutral_texts.tasks, "names", lambda: names)
    prompts = {name: tuple(f"{name} {i // 2}" for i in range(60)) for name in names}
    load = lambda name, cache_dir=None: tasks.Task(name, prompts[name], np.zeros(60, int), False)
    monkeypatch.setattr(neutral_texts.tasks, "load", load)
    assert neutral_texts.of_other_tasks(["1_a_x"]) == tuple(f"3_b_z {i}" for i in range(10))


@pytest.mark.thorough
def test_labels_of_no_meaning_have_few_features():
    """The bound is for all families together; of each alone, one labelling in four had some."""
    named, rng = tasks.load("92_glue_sst2").prompts[:300], np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    found = [
        shortcuts(dataset(x, rng.permutation(np.arange(300) % 2), texts=named)).claims[-1]
        for _ in range(30)
    ]
    assert {claim.text for claim in found} == {"features beyond chance"}
    assert sum(claim.value > 0 for claim in found) <= 5


def test_texts_without_any_feature_have_no_shortcuts():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    letters = [chr(0x4E00 + i) for i in range(60)]
    found = shortcuts(dataset(x, np.arange(60) % 2, texts=letters))
    assert found.claims == () and "no feature of the writing" in found.notes[0]

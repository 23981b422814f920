"""The audit as a whole: what may come in, what is written, and that text stays text."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import probejax as px
from probejax import auditing, tasks
from probejax.auditing import page, report
from probejax.auditing.dataset import dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.tasks import Own
from tests.audit_cases import D, N, Rectified, planted, texts

HOSTILE = (
    "=1+1",
    "'=quoted",
    'a\r\nb, "c"\u2028d',
    "<script>alert(1)</script>",
    "+SUM(A1)",
    "@x",
    "-2",
    '"><img src=x onerror=a>',
)
X, Y = np.random.default_rng(0).normal(size=(N, D)), np.arange(N) % 2


@pytest.fixture(scope="module")
def audited():
    case = planted(texts=[*HOSTILE, *texts(N - len(HOSTILE))])
    given = {"texts": case.data.texts, "sae": case.data.sae}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "K", 16)  # as in the other tests: a program less to compile
        return auditing.audit(case.data.x, case.data.labels, **given)


def test_what_is_written(audited, tmp_path):
    audited.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    tables = {f"{name}.csv" for name in audited.tables} - {"cleaned.csv"}
    assert names == {"audit.html", "cleaned.jsonl", *tables}
    text = (tmp_path / "audit.html").read_text()
    assert "<script>alert" not in text and "<img" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    shown = html.unescape(text)
    for found in audited.findings:
        assert found.title in shown
        assert all(claim.text in shown and claim.chance in shown for claim in found.claims)
        assert all(f"{claim.text}: " in repr(audited) for claim in found.claims)
    for name in tables:
        read = pd.read_csv(tmp_path / name, keep_default_na=False)
        assert len(read) == len(audited.tables[name.removesuffix(".csv")])
        for column in read.select_dtypes("str"):
            assert not read[column].str.match("[=+\\-@]").any()
    assert "(labels permuted: " in repr(audited) and "above them already: 0\n" in repr(audited)
    assert " with labels permuted." in shown  # the page's answer for clusters
    assert "suspect_labels" in audited.tables


def test_tables_in_which_nothing_stands_have_a_header(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 4)), rng.permutation(np.arange(N) % 2)
    words = [f"{word:08x}" for word in rng.permutation(N)]
    found = report.audit(x, y, texts=words, sae=Rectified())
    empty = {name for name, table in found.tables.items() if not len(table)}
    assert {"latent_rules", "latent_suspects", "shortcuts_found_by", "duplicates"} <= empty
    found.save(tmp_path)
    for name in empty - {"cleaned"}:
        read = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(read) == list(found.tables[name]) != [], name


def test_the_cleaned_file_holds_the_data_as_they_were(audited, tmp_path):
    audited.save(tmp_path)
    own = Own(tmp_path / "cleaned.jsonl")
    (name,) = tasks.match(("own",), own)
    task, table = tasks.load(name, data=own), audited.tables["suspect_labels"].sort_values("row")
    kept = pd.read_json(tmp_path / "cleaned.jsonl", lines=True)["row"].tolist()
    assert list(task.prompts) == table["text"].iloc[kept].tolist()
    assert HOSTILE[0] in task.prompts and HOSTILE[-1] in task.prompts
    called = np.array(task.class_names)[task.labels]
    assert called.tolist() == table["label"].iloc[kept].tolist()


def test_no_table_of_an_earlier_audit_stays(audited, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("mine.csv", "figures/mine.svg", *report.FILES):
        (tmp_path / name).write_text("old")
    audited.save(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*") if p.read_text() == "old"}
    assert left == {"mine.csv", "figures/mine.svg"}
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} - left
    assert written - {"audit.html"} <= set(report.FILES)


def test_without_texts_the_cleaned_file_names_rows(tmp_path):
    case = planted(texts=None, sae=None)
    found = auditing.audit(case.data.x, case.data.labels)
    found.save(tmp_path)
    kept = pd.read_json(tmp_path / "cleaned.jsonl", lines=True)
    assert kept.columns.tolist() == ["row", "label"] and len(kept) < N
    assert kept["label"].tolist() == case.data.labels[kept["row"]].tolist()


def test_a_page_shows_the_first_rows_and_says_how_many_there_are():
    long = ["word " * 20_000] * 200 + ["word"] * 199_800
    rows = pd.DataFrame({"text": long, "p": 0.5, "row": np.arange(200_000)})
    found = Finding("f", "F", "How.", (Claim("c", 1, 0, 0),), (Table("t", "T", rows),))
    text = page.page("x", [found], {})
    assert len(text) < 1e6
    assert "The first 100 of 200,000 rows; t.csv has all." in text
    assert text.count("<tr>") == 100 + 1 + 2


def test_latents_have_links_to_known_pages_only():
    address = "https://www.neuronpedia.org/gemma-2-9b/20-gemmascope-res-16k/7"
    rows = pd.DataFrame({"latent": [7, 8], "link": [address, "https://evil.example/8"]})
    text = page.page("x", [Finding("f", "F", "How.", (), (Table("t", "T", rows),))], {})
    assert f'<a href="{address}"' in text and "evil" not in text and ">8</td>" in text


WRONG = {
    "texts of another number": ({"texts": texts(3)}, "there are 3 texts and 200 labels"),
    "a text that is none": ({"texts": [1, *texts(N - 1)]}, "texts[0] is 1; expected a string"),
    "groups of another number": ({"groups": ["a"]}, "there are 1 groups and 200 labels"),
    "one string": ({"texts": "ab" * 100}, "the texts are one string, 'abab"),
    "half of a character": (
        {"texts": [*texts(N - 1), "\ud83d bad"]},
        "texts[199] holds half of a character (a lone surrogate)",
    ),
    "half of a character in a group": (
        {"groups": ["\ud83d", *["a"] * (N - 1)]},
        "groups[0] holds half of a character",
    ),
    "half of a character in a class": (
        {"y": np.where(Y, "a", "b\udc00")},
        "classes[1] holds half of a character",
    ),
    "nothing that encodes": ({"sae": object()}, "sae is <object object at"),
    "a sparse matrix": ({"x": sparse.csr_array(X)}, "are a sparse matrix; give a dense one"),
    "one class": ({"y": np.ones(N)}, "the labels have 1 different values (1.0)"),
    "labels of another number": (
        {"y": Y[:9]},
        "x has 200 rows and y is (9,); expected one label each",
    ),
    "few of a class": ({"y": np.arange(N) < 9}, "one class has 9 different prompts"),
    "few different prompts": ({"texts": ["a", "b"] * 100}, "one class has 1 different prompts"),
    "NaN": ({"x": np.full((N, D), np.nan)}, "row 0 of x holds NaN or infinity"),
    "another width": (
        {"sae": px.load_sae("gemma-3-270m/layer_9/width_4k/average_l0_78")},
        "x is 16 wide; the SAE reads vectors of width 640",
    ),
}


def test_a_data_frame_is_as_good_as_an_array():
    x, y = pd.DataFrame(X).rename(index=lambda row: 7 * row), pd.Series(Y)
    given = dataset(x, y, texts=pd.Series(texts(N)), groups=pd.Series(Y))
    np.testing.assert_array_equal(given.x, X.astype(np.float32))
    assert given.texts == tuple(texts(N)) and given.groups == tuple(map(str, Y))


@pytest.mark.parametrize("which", WRONG)
def test_what_will_not_do_is_a_sentence(which):
    more, said = WRONG[which]
    given = {"x": X, "y": Y, "sae": Rectified(), **more}
    with pytest.raises(ValueError, match=re.escape(said)):
        px.audit(given.pop("x"), given.pop("y"), **given)

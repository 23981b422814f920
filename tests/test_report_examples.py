"""A page of examples: the right prompts in the right order, or a line on why there are none."""

import csv
import functools
import html
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from etils import epath
from sklearn.metrics import accuracy_score, roc_auc_score

from probejax import storage, tasks
from probejax.analysis.example_pages import write_examples
from probejax.analysis.examples import last_token, shorten
from probejax.analysis.findings import find
from probejax.analysis.page.examples import examples_page
from probejax.analysis.report import report
from probejax.analysis.run import read_run
from probejax.analysis.scored import Scored, TaskScores, read_scores
from probejax.analysis.tables import results_table
from probejax.stored_scores import Latents, ScoredRows, StoredScores
from tests.report_cases import CONFIG, NARROW, TASKS, unit, without_figures
from tests.test_report_hostile import LINKED
from tests.test_report_hostile import _Parts as Parts

N, CLASSES = 90, ("<i>no", "yes")
TESTED = np.arange(1, N, 2)
METHODS = (("logreg", "", None), ("knn", "", None), ("sae_k16", NARROW, 16))


def prompt(row):
    start = "A long beginning. " * 30 if row == 1 else ""
    same = 7 if row == 9 else row  # two rows of one text
    return f'{start}Row {same} <script>alert("{same}")</script> & the end{same}'


LABELS = (np.arange(N) // 2) % 2


def logits(place, seed=42):
    """Of a method on the test rows; the first is wrong on row 1 most of all."""
    rng = np.random.default_rng([place, seed])
    found = (2 * LABELS[TESTED] - 1 + rng.normal(0, 1.2, len(TESTED))).astype(np.float32)
    found[0] = np.where(LABELS[1], -9, 9)
    return found


def write(root, *, seeds=(42,), methods=METHODS, config=None, facts=None, classes=CLASSES):
    """Writes a task of one's own and a run on it, whose units have some facts of another kind."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "mine.csv"
    with path.open("w", newline="") as file:
        names = np.array(CLASSES)[LABELS]
        csv.writer(file).writerows(
            [("text", "label"), *zip(map(prompt, range(N)), names, strict=True)]
        )
    store = storage.Store(root / "run")
    config = CONFIG | {"tasks": ["own"], "data": str(path)} | (config or {})
    storage.write_config(root / "run", config)
    for place, (method, sae_id, k) in enumerate(methods):
        payload = unit(TASKS[0], method, sae_id, k, seeds=seeds)
        mine = {"task": "mine", "task_files": tasks.fingerprint("mine", data=str(path))}
        payload["unit"] |= mine | (facts or {})
        firing = (np.array([[1, 3, 8], [2, -1, -1]]), np.array([[9, 8, 7], [5, 0, 0]], np.float32))
        latents = Latents(np.array([1234, 7]), np.array([0.5, -0.25], np.float32), *firing)
        draws = tuple(
            ScoredRows(seed, TESTED, LABELS[TESTED], logits(place, seed), latents if k else None)
            for seed in sorted(seeds)
        )
        store.put(storage.unit_id(payload["unit"]), payload, None, StoredScores(classes, draws))
    return root / "run"


@functools.cache
def groups(methods):
    """What the methods of a run are called; this takes longer than a page."""
    return find(results_table([unit(TASKS[0], *arrow) for arrow in methods])).groups


def shown(run, methods=METHODS):
    """Writes the page of examples; returns the lines on what is left out, and the page if any."""
    lines = []
    with without_figures():
        links = write_examples(
            epath.Path(run),
            [(epath.Path(run), read_run(run))],
            groups(methods),
            lines,
            run / "no_cache",
        )
    page = run / "examples" / "mine.html"
    assert page.exists() == (list(links.values()) == ["examples/mine.html"])
    return lines, page.read_text() if page.exists() else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("examples") / "a")


@pytest.fixture(scope="module")
def page(run):
    lines, found = shown(run)
    assert lines == [] and found is not None
    return found


def test_each_site_has_pages_of_its_own(tmp_path):
    """Of one run, and of no more sites than the report shows task by task."""
    names = [f"resid_post.{layer}" for layer in (4, 9, 12, 14)]
    for name in names:
        run = write(tmp_path, facts={"site": name})
    with without_figures():
        text = report(run, cache_dir=run / "no_cache")
    assert "Left out" not in text
    told = (run / "report.html").read_text()
    pages = sorted(run.glob("examples/**/mine.html"))
    assert len(pages) == 3
    for page in pages:
        assert f'href="{page.relative_to(run)}"' in told
    of = [{name for name in names if name in page.read_text()} for page in pages]
    assert all(len(each) == 1 for each in of) and len(set.union(*of)) == 3, of


@pytest.mark.parametrize("methods", [METHODS, METHODS[:1]], ids=["compared", "one method"])
def test_the_report_leads_to_the_page_and_back(methods, tmp_path):
    run = write(tmp_path / "a", methods=methods)
    (sorted((run / "scores").iterdir())[0]).write_bytes(b"damaged")
    with without_figures():
        text = report(run, cache_dir=run / "no_cache")
    told, found = (run / "report.html").read_text(), run / "examples" / "mine.html"
    assert ('href="examples/mine.html"' in told) == found.exists() == (len(methods) > 1)
    (line,) = [line for line in text.splitlines() if line.startswith("Left out: ")]
    assert "damaged" in line and html.escape(line) in told
    write(tmp_path / "b", methods=methods)
    with without_figures():
        report(tmp_path / "b" / "run", cache_dir=run / "no_cache")
    told = (tmp_path / "b" / "run" / "report.html").read_text()
    assert told.count('href="examples/mine.html"') == 1 and "Left out" not in told
    page = (tmp_path / "b" / "run" / "examples" / "mine.html").read_text()
    assert 'href="../report.html"' in page


def rows_of(page, heading):
    """The text of the cells of the table below a heading."""
    part = page[page.index(heading) :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in body.split("</tr>")[:-1]]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in line] for line in cells]


def test_each_method_has_the_prompts_that_it_gets_most_wrong(page):
    y = LABELS[TESTED]
    for place, (method, *_) in enumerate(METHODS):
        z = logits(place)
        wrong = sorted((i for i in range(len(y)) if (z[i] > 0) != y[i]), key=lambda i: -abs(z[i]))
        share = 1 - accuracy_score(y, z > 0)
        heading = f"<h3>{method}: {len(wrong)} wrong ({100 * share:.1f} %), AUC "
        assert f"{heading}{roc_auc_score(y, z):.4f}</h3>" in page
        seen, expected = set(), []
        for i in wrong:  # equal prompts stand once
            if prompt(TESTED[i]) not in seen:
                seen.add(prompt(TESTED[i]))
                expected.append([str(TESTED[i]), CLASSES[y[i]], shorten(prompt(TESTED[i]))])
        found = rows_of(page, heading)
        assert [[row[0], row[1], row[-1]] for row in found] == expected[:5]
        assert found[0][0] == "1" and len(found) == 5


def test_what_several_get_wrong_comes_first(page):
    y = LABELS[TESTED]
    times = sum(((logits(place) > 0) != y).astype(int) for place in range(len(METHODS)))
    found = rows_of(page, "Wrong by several methods</h2>")
    assert [int(row[2]) for row in found] == sorted(times[times > 1], reverse=True)[: len(found)]
    for row in found:
        assert times[TESTED.tolist().index(int(row[0]))] == int(row[2])
    all_three = (times == 3).sum()
    assert f"{all_three} {'is' if all_three == 1 else 'are'} wrong by all 3 methods" in page


def test_how_many_are_wrong_counts_before_how_far():
    """Row 0 is wrong by three methods, but beyond nobody; row 1 by two, beyond all."""
    said = ([0.1, 9, -9, 5, 5], [0.1, 9, -9, 5, 5], [0.1, -9, -9, 5, 5])
    methods = [Scored("m", 0.5, np.array(z, np.float32), {}) for z in said]
    y = np.array([0, 0, 0, 1, 1])
    found = TaskScores("t", 1, ("a", "b"), np.arange(5) + 30, y, methods, [])
    page = examples_page(found, None, "", "group", "report.html")
    rows = rows_of(page, "Wrong by several methods</h2>")
    assert rows == [["30", "a", "3", "0 %", "row 30"], ["31", "a", "2", "67 %", "row 31"]]
    assert "m gets 2 of 5 test prompts wrong; 1 is wrong by all 3 methods" in page


def test_beyond_is_what_the_auc_lacks(run):
    payloads = read_run(run).payloads
    labels = {(method, sae_id): method for method, sae_id, _ in METHODS}
    (found,) = read_scores(run, payloads, labels, [])
    for each, beyond in zip(found.methods, found.beyond(), strict=True):
        both = [beyond[found.labels == label].mean() for label in (0, 1)]
        auc = roc_auc_score(found.labels, each.logits)
        np.testing.assert_allclose(both, 1 - auc, atol=1e-6)
        assert each.auc == pytest.approx(auc)
    assert [each.auc for each in found.methods] == sorted(e.auc for e in found.methods)[::-1]


def test_latents_have_weights_and_prompts_with_the_token_marked(page):
    first, second = rows_of(page, "Latents of a probe</h2>")
    assert first[:2] == ["1234", "+0.5"] and second[:2] == ["7", "\N{MINUS SIGN}0.25"]
    assert first[2] == "+0.88" and second[2] == "+0.19"  # times the difference of the class means
    for row, value in ((1, 9.0), (3, 8.0), (8, 7.0)):
        before, token = last_token(prompt(row))
        label = f'<i class="label">{html.escape(CLASSES[LABELS[row]])}</i>'
        marked = f"<b>{value}</b> {label}{html.escape(before)}<mark>{token}</mark>"
        assert marked in page and token == f"end{row}"
    assert first[3].count("the end") == 3 and second[3].count("the end") == 1
    assert 'href="https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/1234"' in page


def test_nothing_of_a_text_or_a_class_is_html_and_a_cut_is_shown(page):
    assert page.count("<script") == 1 and "<i>no" not in page and "&lt;i&gt;no" in page
    assert "alert(&quot;1&quot;)" in page and " […] " in shorten(prompt(1))
    assert html.escape(shorten(prompt(1))) in page and html.escape(prompt(1)) not in page


@pytest.mark.parametrize("name", ["/../../../x", '"><script>alert(1)</script>', "a" * 300, ".."])
def test_names_from_strangers_stay_names(name, tmp_path):
    """Those of a task, of classes, of models and SAEs: no file elsewhere, no more HTML."""
    named = {"task": name, "model": name}
    two = tuple(("sae_k16", sae_id, 16) for sae_id in (name, f"{name}2"))
    run = write(tmp_path / "a" / "b", facts=named, classes=(name, name), methods=two)
    with mock.patch.object(storage, "write_atomic", wraps=storage.write_atomic) as written:
        with without_figures():
            text = report(run, cache_dir=run / "no_cache")
    assert all(Path(os.path.abspath(call.args[0])).is_relative_to(run) for call in
               written.call_args_list)  # fmt: skip
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"mine.csv", "run"}
    (path,) = (run / "examples").iterdir()
    page, told = Parts(path.read_text()), (run / "report.html").read_text()
    assert f'href="examples/{path.name}"' in told and "(the task is not at hand)" in text
    assert page.scripts == 1 and ("script", frozenset()) in page.parts
    assert f"<h3>sae_k16 ({html.escape(name)})" in path.read_text()
    assert page.links <= {"../report.html", "data:,", LINKED} | {
        f"#{each}" for each in ("scores", "shared", "wrong", "latents")
    }


def damage_label(run):
    path = run.parent / "mine.csv"
    path.write_text(path.read_text().replace("&lt;", "").replace("yes", "maybe"))


def edit_text(run):
    path = run.parent / "mine.csv"
    path.write_text(path.read_text().replace("Row 40 ", "Row 41 "))


def remove_file(run):
    (run.parent / "mine.csv").unlink()


def other_labels(run):
    """As a damaged or forged folder has them: the file is the same, the labels are not."""
    store = storage.Store(run)
    for payload in list(store.read_all()):
        name = storage.unit_id(payload["unit"])
        scores = store.read_scores(name)
        draws = tuple(draw._replace(labels=1 - draw.labels) for draw in scores.draws)
        store.put(name, payload, None, scores._replace(draws=draws))


def rows_beyond(run):
    store = storage.Store(run)
    for payload in list(store.read_all()):
        name = storage.unit_id(payload["unit"])
        scores = store.read_scores(name)
        draws = tuple(draw._replace(rows=draw.rows + N) for draw in scores.draws)
        store.put(name, payload, None, scores._replace(draws=draws))


CHANGED = "its file has changed since the run"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (edit_text, CHANGED),
        (damage_label, CHANGED),
        (other_labels, CHANGED),
        (rows_beyond, CHANGED),
        (remove_file, "the task is not at hand"),
    ],
)
def test_where_the_texts_are_not_those_of_the_run_rows_are_shown(change, why, tmp_path):
    run = write(tmp_path / "a")
    change(run)
    lines, page = shown(run)
    expected = f"Left out: the texts of examples, of which rows alone are shown ({why}): mine."
    assert [line for line in lines if "examples" in line] == [expected]
    assert "alert" not in page and "&amp; the end" not in page
    first = rows_of(page, "<h3>logreg: ")[0]
    assert first[-1] == f"row {first[0]}" and "<b>9.0</b> row 1<" in page


def test_vectors_of_one_s_own_have_rows_and_no_complaint(tmp_path):
    config = {"data": None, "activations": "x.npy", "labels": "y.npy"}
    lines, page = shown(write(tmp_path / "a", config=config))
    assert lines == [] and "row 1<" in page


def remove_scores(run):
    shutil.rmtree(run / "scores")


def damage_one(run):
    path = sorted((run / "scores").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])


def lose_one(run):
    sorted((run / "scores").iterdir())[0].unlink()


@pytest.mark.parametrize(
    ("change", "says", "left"),
    [
        (remove_scores, "examples of 3 of 3 units, which are from before units kept", 0),
        (lose_one, "examples of 1 of 3 units, which are from before units kept", 2),
        (damage_one, "scores (", 2),
    ],
)
def test_scores_that_are_not_there_cost_a_line(change, says, left, tmp_path):
    run = write(tmp_path / "a")
    change(run)
    (line,), page = shown(run)
    assert line.startswith(f"Left out: {says}")
    assert (page or "").count("wrong (") == left


def test_the_first_of_several_seeds_is_shown_and_named(tmp_path):
    _, page = shown(write(tmp_path / "a", seeds=(7, 3)))
    assert "Standard conditions, seed 3:" in page
    y, z = LABELS[TESTED], logits(0, 3)
    assert f"<h3>logreg: {((z > 0) != y).sum()} wrong" in page


def test_one_method_shares_nothing(tmp_path):
    lines, page = shown(write(tmp_path / "a", methods=METHODS[:1]), METHODS[:1])
    assert lines == [] and "Wrong by several" not in page and "<h3>logreg" in page


def test_methods_beyond_the_limit_are_named(tmp_path):
    many = tuple((f"method_{i}", "", None) for i in range(14))
    _, page = shown(write(tmp_path / "a", methods=many), many)
    assert (
        page.count("wrong (") == 12 and "Left out are 2 methods with a lower AUC: method_" in page
    )


@pytest.mark.parametrize(
    ("facts", "mark", "says"),
    [
        ({}, "<mark>end3</mark>", "that ends with the token that is read"),
        ({"position": "after:Row"}, "<mark>Row</mark> 3 &lt;script", "that ends with the token"),
        ({"position": "-2"}, None, "They are read at -2, which is not marked."),
        ({"position": "mean"}, None, "They are read at mean, which is not marked."),
        ({"chat": "abc"}, None, "the end of the chat template, which is not marked."),
        ({"method": "sae_max_k16"}, None, "pooled over all tokens, so that none is marked."),
    ],
)
def test_only_the_token_that_is_read_is_marked(facts, mark, says, tmp_path):
    run = write(tmp_path / "a", methods=METHODS[2:])
    store = storage.Store(run)
    (payload,) = store.read_all()
    scores = store.read_scores(storage.unit_id(payload["unit"]))
    shutil.rmtree(run / "units")
    payload["unit"] |= facts
    store.put(storage.unit_id(payload["unit"]), payload, None, scores)
    _, page = shown(run, (("sae_k16", NARROW, 16), ("sae_max_k16", NARROW, 16)))
    assert says in page and ("<mark>" in page) == (mark is not None) and (mark or "") in page

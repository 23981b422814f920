"""What a report is said to read is what it reads; nothing is written for that."""

import pytest

from probejax.analysis import outlook, published
from probejax.analysis.report import report
from tests.published_cases import PUBLISHED, golden
from tests.report_cases import TASKS, write_run


def everything(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_report_is_told_before_it_is_written(tmp_path):
    run = write_run(tmp_path / "run")
    other = write_run(tmp_path / "other", tasks=TASKS[:1])
    before = everything(tmp_path)
    text = outlook.look(run, [other])
    assert everything(tmp_path) == before
    report(run)
    rows = len((run / "results.csv").read_text().splitlines()) - 1
    pages = [path for path in (run / "examples").iterdir() if path.stem in TASKS]
    first, second, last = text.splitlines()
    assert f"{len(TASKS)} tasks, {rows:,} fits, {len(pages)} pages of examples" in first
    assert second.startswith(str(other)) and "; 1 task, " in second and " 1 page of" in second
    assert last.startswith("The report takes about ") and f" MB in {run};" in last


def test_what_a_report_refuses_is_refused_before_by_the_same_sentence(tmp_path):
    said = []
    for call in (outlook.look, report):
        with pytest.raises(FileNotFoundError, match="holds no finished units") as refusal:
            call(tmp_path)
        said.append(str(refusal.value))
    assert said[0] == said[1]


@golden
def test_the_studys_files_are_counted():
    text = outlook.look_published("x", PUBLISHED)
    for name in published.models(PUBLISHED):
        assert name in text
    with pytest.raises(FileNotFoundError, match="no results of gemma-9; it has those of: gemma-2"):
        outlook.look_published("x", PUBLISHED, "gemma-9")


def test_a_folder_without_files_of_the_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results of any model; it has those of: none"):
        outlook.look_published("x", tmp_path)

import csv
import io
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import zstandard
from absl import flags
from sklearn.preprocessing import LabelEncoder

from probejax import artifacts, tasks
from probejax.tasks import catalog, columns, registry


@pytest.fixture(scope="module")
def data():
    return artifacts.study_tasks() / "sae_probes" / "data"


@pytest.fixture
def fake_cache(tmp_path, monkeypatch, data):
    """A cache whose task files a test may damage."""
    folder = tmp_path / "sae_probes" / "data" / "cleaned_data"
    folder.mkdir(parents=True)
    shutil.copy(data / "cleaned_data" / "119_us_state_TX.csv.zst", folder)
    monkeypatch.setattr(artifacts, "study_tasks", lambda cache: tmp_path)
    return folder / "119_us_state_TX.csv.zst"


def by_number(name):
    return int(name.split("_")[0])


def test_names_are_the_studys_list_in_its_order(data):
    master = pd.read_csv(data / "probing_datasets_MASTER.csv.zst")
    binary = master[master["Data type"] == "Binary Classification"]
    expected = [path.split("/")[-1].removesuffix(".csv") for path in binary["Dataset save name"]]
    assert tasks.names() == tuple(expected)
    assert len(tasks.names()) == 113


def test_shifted_truncated_and_demo_are_the_documented_ones():
    assert [by_number(name) for name in tasks.shifted_names()] == [5, 6, 7, 66, 67, 73, 87, 90]
    cut = {48, 49, 100, *range(142, 145), *range(158, 164)}
    assert {by_number(name) for name in registry.TRUNCATED} == cut
    assert set(registry.SHIFTED) | set(registry.TRUNCATED) | set(tasks.DEMO) <= set(tasks.names())
    assert len(set(tasks.DEMO) & set(tasks.shifted_names())) >= 3


@pytest.mark.thorough
def test_all_tasks_are_balanced_and_have_the_documented_sizes():
    sizes, positives = [], []
    for name in tasks.names():
        task = tasks.load(name)
        assert task.name == name and len(task.prompts) == len(task.labels)
        sizes.append(len(task.labels))
        positives.append(int(task.labels.sum()))
    assert sum(sizes) == 334_092 and min(sizes) == 728 and max(sizes) == 5000
    assert [2 * count for count in positives] == sizes


@pytest.mark.parametrize(
    "name, zero, one",
    [
        ("65_high-school", "bigram", "not_bigram"),
        ("105_click_bait", "clickbait", "factual"),
        ("41_truthqa_tf", "correct", "incorrect"),
        ("47_reasoning_tf", "A", "B"),
        ("56_wikidatasex_or_gender", "female", "male"),
        ("57_wikidatais_alive", False, True),
        ("87_glue_cola", 0, 1),
    ],
)
def test_prompts_and_labels_are_those_of_pandas_and_scikit_learn(data, name, zero, one):
    frame = pd.read_csv(data / "cleaned_data" / f"{name}.csv.zst")
    task = tasks.load(name)
    assert task.prompts == tuple(frame["prompt"])
    np.testing.assert_array_equal(task.labels, LabelEncoder().fit_transform(frame["target"].values))
    assert {
        task.labels[frame["target"] == zero].max(),
        task.labels[frame["target"] == one].min(),
    } == {0, 1}
    assert task.labels.dtype == np.int64 and not task.labels.flags.writeable


def test_last_characters_of_the_ai_task_match_the_published_counts():
    task = tasks.load("110_aimade_humangpt3")
    ends = [
        [p[-1] for p, y in zip(task.prompts, task.labels, strict=True) if y == c] for c in (0, 1)
    ]
    assert [ends[1].count(c) for c in '.?!"'] == [1571, 505, 220, 80]
    assert [ends[0].count(c) for c in " .?!"] == [961, 470, 456, 71]


def test_truncated_source_marks_the_tasks_cut_at_8192_characters():
    cut = tasks.load("49_cm_isshort")
    assert cut.truncated_source and max(map(len, cut.prompts)) == 8192
    assert not tasks.load("95_toxic_is").truncated_source


def test_shifted_sets_are_encoded_on_their_own():
    sizes = {by_number(n): len(tasks.load_shifted(n).labels) for n in tasks.shifted_names()}
    assert sizes == {5: 299, 6: 300, 7: 300, 66: 300, 67: 300, 73: 300, 87: 300, 90: 300}
    counts = [int(tasks.load_shifted(n).labels.sum()) for n in tasks.shifted_names()]
    assert counts == [156, 150, 144, 150, 150, 150, 150, 150]
    # Its classes are called '1' and 'not_entailment', not 0 and 1.
    assert tasks.load_shifted("90_glue_qnli").labels[:300].tolist().count(0) == 150
    assert (
        tasks.load_shifted("66_living-room").prompts != tasks.load("66_living-room").prompts[:300]
    )


def test_match_takes_names_globs_and_groups_in_canonical_order():
    assert tasks.match(["all"]) == tasks.names()
    assert set(tasks.match(["demo"])) == set(tasks.DEMO)
    assert tasks.match(["9*_glue_*", "87_glue_cola", "90_*"]) == (
        "87_glue_cola",
        "90_glue_qnli",
        "91_glue_qqp",
        "92_glue_sst2",
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tasks.load("87_glue_kola"), r"no task '87_glue_kola'; did you mean 87_glue_cola"),
        (lambda: tasks.match(["cola"]), r"no task 'cola'; did you mean 87_glue_cola\?"),
        (
            lambda: tasks.match(["zzz*"]),
            r"no task 'zzz\*'; probejax\.tasks\.names\(\) lists all 113",
        ),
        (lambda: tasks.match([]), r"no task was named; give names, globs, or one of all, demo"),
        (
            lambda: tasks.load_shifted("21_headline_istrump"),
            r"no task with a shifted test set '21_head.*shifted_names\(\) lists all 8",
        ),
        (lambda: tasks.load("../87_glue_cola"), r"no task '../87_glue_cola'"),
    ],
)
def test_an_unknown_task_names_close_ones_and_how_to_list(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_users_folder_replaces_and_adds_tasks(tmp_path):
    long = "word " * 40_000  # longer than the csv module's default limit
    for stem in ("158_code_C", "mine", "mine_OOD"):
        with (tmp_path / f"{stem}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("target", "prompt"), ("yes", long), ("no", 'a "b",\r\nc')])
    task = tasks.load("158_code_C", data=tmp_path)
    assert task.prompts == (long, 'a "b",\r\nc') and task.labels.tolist() == [1, 0]
    assert not task.truncated_source
    assert tasks.names(tmp_path) == (*tasks.names(), "mine")
    assert tasks.shifted_names(tmp_path) == (*tasks.shifted_names(), "mine")
    assert tasks.match(["mi*"], tmp_path) == ("mine",)
    assert tasks.load("mine", data=tmp_path).name == "mine"
    assert tasks.load_shifted("mine", data=tmp_path).labels.tolist() == [1, 0]
    assert len(tasks.load("95_toxic_is", data=tmp_path).labels) == 728
    with pytest.raises(FileNotFoundError, match=r"absent is neither a file nor a folder; expected"):
        tasks.load("mine", data=tmp_path / "absent")


def test_a_damaged_zst_file_is_refused(fake_cache):
    assert len(tasks.load("119_us_state_TX").labels) == 1000
    whole = fake_cache.read_bytes()
    fake_cache.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"119_us_state_TX\.csv\.zst is a truncated zstd file"):
        tasks.load("119_us_state_TX")
    fake_cache.write_bytes(b"not zstd")
    with pytest.raises(ValueError, match=r"119_us_state_TX\.csv\.zst is not a valid zstd file"):
        tasks.load("119_us_state_TX")


@pytest.mark.thorough
def test_every_packaged_file_parses_as_pandas_parses_it(data):
    """No prompt is missing or reads as NaN, so both readers give the same text everywhere."""
    for path in [*sorted((data / "OOD data").glob("*_OOD.csv.zst")), *_smaller_files(data)]:
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        frame = pd.read_csv(io.BytesIO(raw))
        assert columns.read(path, columns.STUDY).texts == tuple(frame["prompt"]), path.name


def _smaller_files(data):
    paths = [data / "cleaned_data" / f"{name}.csv.zst" for name in catalog.names()]
    return [path for path in paths if path.stat().st_size < 2**20]


def folder_of(path, *names):
    for name in names:
        (path / name).write_text("prompt,target\na,0\nb,1\n")
    return path


ODD = (
    "v[2]",
    "v2",
    "a,b",
    "my task",
    "95",
    "*",
    "[!x]?",
    "d\u00e9j\u00e0 vu",
    "a_OOD_b",
    "x.csv",
    "-x",
)


def test_a_name_means_itself_before_it_means_others(tmp_path):
    where = folder_of(tmp_path, *(f"{name}.csv" for name in ODD))
    assert set(tasks.names(where)) - set(tasks.names()) == set(ODD)
    for name in ODD:
        assert tasks.match([name], where) == (name,)
        assert tasks.load(name, data=where).source == str(tmp_path / f"{name}.csv")
    assert tasks.match(["v*"], where) == ("v2", "v[2]")
    assert tasks.match(["v[23]"], where) == ("v2",)
    assert tasks.match(["all"], where) == tasks.names(where)


def test_a_list_on_the_command_line_takes_a_comma_in_quotes(tmp_path):
    where = folder_of(tmp_path, "a,b.csv", "v[2].csv")
    given = flags.ListParser().parse('"a,b",v[2]')
    assert tasks.match(given, where) == ("a,b", "v[2]")
    with pytest.raises(ValueError, match=r'did you mean "a,b" or .* .with the quotes, for its'):
        tasks.match(flags.ListParser().parse("a,b"), where)


@pytest.mark.parametrize(
    "names, said",
    [
        (["all.csv"], r"all\.csv' cannot be a task file: `all` means several tasks; rename it"),
        (["demo.csv"], r"demo\.csv' cannot be a task file: `demo` means several tasks"),
        (["mine.CSV"], r"mine\.CSV' .*: its name ends in \.CSV; rename it to mine\.csv"),
        (["mine.csv", "mine.csv.zst"], r"mine\.csv would be the same task; rename or remove one"),
        (["mine_OOD.csv"], r"shifted test set of a task 'mine', but there is no mine\.csv beside"),
        (["_OOD.csv"], r"shifted test set of a task '', but there is no \.csv beside"),
        (["mine.csv", "mine_OOD_OOD.csv"], r"shifted test set of a task 'mine_OOD', but there is"),
        (
            ["my\ntask.csv"],
            r"my\\ntask\.csv' cannot be a task file: its name has spaces at an end, or",
        ),
        (["mine .csv"], r"its name has spaces at an end, or characters that cannot be shown"),
        (["caf\udce9.csv"], r"characters that cannot be shown; rename it"),
    ],
)
def test_a_file_whose_name_will_not_do_is_refused(tmp_path, names, said):
    where = folder_of(tmp_path, *names)
    for call in (tasks.names, tasks.shifted_names, lambda folder: tasks.match(["all"], folder)):
        with pytest.raises(ValueError, match=said) as error:
            call(where)
        assert "\n" not in str(error.value)


def test_other_files_are_no_tasks(tmp_path):
    where = folder_of(
        tmp_path, ".mine.csv", "._x.csv", ".csv", "mine.txt", "README", "87_glue_cola_OOD.csv"
    )
    assert tasks.names(where) == tasks.names()
    assert len(tasks.load_shifted("87_glue_cola", data=where).labels) == 2


def test_what_is_there_but_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "87_glue_cola.csv").symlink_to(tmp_path / "absent")
    for name in ("pipe", "folder"):
        assert tasks.match([name], tmp_path) == (name,)
        for call in (tasks.load, tasks.fingerprint):
            with pytest.raises(ValueError, match=rf"{name}\.csv is no regular file"):
                call(name, data=tmp_path)
    with pytest.raises(FileNotFoundError):  # and not the study's own
        tasks.load("87_glue_cola", data=tmp_path)


def test_one_file_is_one_task_or_several(tmp_path):
    where = folder_of(tmp_path, "mine.csv", "other.csv")
    assert tasks.match(["own"], where / "mine.csv") == ("mine",)
    (where / "mine.csv").write_text("text,label\na,x\nb,y\nc,z\n")
    assert tasks.match(["own"], where) == ("mine=x", "mine=y", "mine=z", "other")
    assert tasks.match(flags.ListParser().parse("mine=x"), where) == ("mine=x",)
    assert tasks.load("mine=z", data=where).class_names == ("not z", "z")
    prints = {tasks.fingerprint(name, data=where) for name in ("mine=x", "mine=y")}
    prints.add(tasks.fingerprint("mine=x", data=tasks.Own(where, positive="x")))
    assert len(prints) == 3
    for name, said in (
        ("mine.txt", "of what kind it is, its name must say"),
        ("no.csv", "neither"),
    ):
        (where / "mine.txt").touch()
        with pytest.raises((ValueError, OSError), match=said):
            tasks.names(where / name)


def test_one_file_has_its_shifted_set_beside_it(tmp_path):
    where = folder_of(tmp_path, "mine.csv", "mine_OOD.csv", "other.csv")
    assert tasks.match(["own"], where / "mine.csv") == ("mine",)
    assert "mine" in tasks.shifted_names(where / "mine.csv")
    assert "other" not in tasks.shifted_names(where / "other.csv")


@pytest.mark.parametrize("labels", [("no", "Yes"), ("apple", "Banana"), ("Ham", "spam")])
def test_classes_are_sorted_by_letters_of_whatever_case(tmp_path, labels):
    text = "".join(f"t{i},{labels[i % 2]}\n" for i in range(4))
    (tmp_path / "mine.csv").write_text(f"text,label\n{text}")
    assert tasks.load("mine", data=tmp_path).class_names == labels


def test_a_task_of_the_study_has_two_classes_whoever_wrote_its_file(tmp_path):
    (tmp_path / "87_glue_cola.csv").write_text("prompt,target\na,0\nb,1\nc,2\n")
    assert tasks.match(["own"], tmp_path) == ("87_glue_cola",)
    with pytest.raises(ValueError, match=r"87_glue_cola\.csv, column target, has 3 classes, and"):
        tasks.load("87_glue_cola", data=tmp_path)


def test_a_packed_file_is_a_task_too(tmp_path):
    packed = zstandard.ZstdCompressor().compress(b"prompt,target\na,0\nb,1\n")
    (tmp_path / "mine.csv.zst").write_bytes(packed)
    assert tasks.load("mine", data=tmp_path).prompts == ("a", "b")
    assert len(tasks.fingerprint("mine", data=tmp_path)) == 16


def test_a_task_shows_itself_on_one_line(tmp_path):
    (tmp_path / "my task.csv").write_text(
        "prompt,target\n'a\n',0\n".replace("'", '"') + "b,1\nc,0\n"
    )
    assert repr(tasks.load("my task", data=tmp_path)) == (
        "Task('my task', 3 prompts: 2 of label 0 and 1 of label 1, "
        f"from {tmp_path / 'my task.csv'})"
    )
    assert ", cut at 8192 characters, from " in repr(tasks.load("49_cm_isshort"))

import csv
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import zstandard
from sklearn.preprocessing import LabelEncoder

from probejax import artifacts, tasks
from probejax.tasks import catalog, csv_files, registry


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
    task = tasks.load("158_code_C", tasks_dir=tmp_path)
    assert task.prompts == (long, 'a "b",\r\nc') and task.labels.tolist() == [1, 0]
    assert not task.truncated_source
    assert tasks.names(tmp_path) == (*tasks.names(), "mine")
    assert tasks.shifted_names(tmp_path) == (*tasks.shifted_names(), "mine")
    assert tasks.match(["mi*"], tmp_path) == ("mine",)
    assert tasks.load("mine", tasks_dir=tmp_path).name == "mine"
    assert tasks.load_shifted("mine", tasks_dir=tmp_path).labels.tolist() == [1, 0]
    assert len(tasks.load("95_toxic_is", tasks_dir=tmp_path).labels) == 728
    with pytest.raises(NotADirectoryError, match=r"absent is not a folder; expected a folder of"):
        tasks.load("mine", tasks_dir=tmp_path / "absent")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"has no column prompt and no column target: its first row is \[\]"),
        (b"prompt,label\na,0\n", r"has no column target: its first row is \['prompt', 'label'\]"),
        (b"prompt,target\n", r"has no rows below its header"),
        (
            b"prompt,target\na,x\nb,x\n",
            r"has 1 class in its target column \('x'\); expected exactly 2",
        ),
        (
            b"prompt,target\na,0\nb,1\nc,2\n",
            r"has 3 classes .*\('0', '1', '2'\); expected exactly 2",
        ),
        (b"prompt,target\na,0\n,1\n", r"has no prompt in data row 2"),
        (b"prompt,target\na,0\nb\n", r"has no target in data row 2"),
        (b'prompt,target\na,0\n"b,1\n', r"is not well-formed CSV \(unexpected end of data\)"),
        (b"prompt,target\n\xff,0\nb,1\n", r"is not UTF-8 text"),
    ],
)
def test_a_malformed_file_is_refused_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.csv " + message):
        tasks.load("mine", tasks_dir=tmp_path)
    assert csv.field_size_limit() == 131_072


def test_numeric_targets_sort_by_value_like_scikit_learn(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,target\na,10\nb,9\nc,10\n")
    assert tasks.load("mine", tasks_dir=tmp_path).labels.tolist() == [1, 0, 1]


def test_a_damaged_zst_file_is_refused(fake_cache):
    assert len(tasks.load("119_us_state_TX").labels) == 1000
    whole = fake_cache.read_bytes()
    fake_cache.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"119_us_state_TX\.csv\.zst is a truncated zstd file"):
        tasks.load("119_us_state_TX")
    fake_cache.write_bytes(b"not zstd")
    with pytest.raises(ValueError, match=r"119_us_state_TX\.csv\.zst is not a valid zstd file"):
        tasks.load("119_us_state_TX")


def test_every_packaged_file_parses_as_pandas_parses_it(data):
    """No prompt is missing or reads as NaN, so both readers give the same text everywhere."""
    for path in [*sorted((data / "OOD data").glob("*_OOD.csv.zst")), *_smaller_files(data)]:
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        frame = pd.read_csv(io.BytesIO(raw))
        assert csv_files.read(path)[0] == tuple(frame["prompt"]), path.name


def _smaller_files(data):
    paths = [data / "cleaned_data" / f"{name}.csv.zst" for name in catalog.names()]
    return [path for path in paths if path.stat().st_size < 2**20]

"""What a task file may look like: every row is read whole, or the file is refused by its line."""

import csv
import io
import os
import threading
import tracemalloc

import hypothesis
import numpy as np
import pytest
import zstandard
from hypothesis import strategies as st

from probejax.foreign import DamagedFile
from probejax.tasks import csv_files

COMMAS = "target,prompt\n" + "1,Hello, Balvano\n0,Hello, Lostock Gralam\n" * 130
QUOTED = 'prompt,target\n"one\ntwo\r\nthree",0\nb,1\n'  # rows on lines 2 and 5

# The content of a file (text is written as UTF-8), and what the message says of it.
REFUSED = {
    "nothing": ("", r"has no column prompt: its first row is \[\]"),
    "no header": ("a,0\nb,1\n", r"has no column prompt: its first row is \['a', '0'\]"),
    "no target": ("prompt,label\na,0\n", r"has no column target: its first row is \['prompt', 'l"),
    "blank header": ("\nprompt,target\na,0\n", r"no column prompt: its first row is \[\]"),
    "spaced header": ("prompt, target\na,0\n", r"no column target \(' target' is spelled otherw"),
    "upper case": ("Prompt,target\na,0\n", r"no column prompt \('Prompt' is spelled otherwise\)"),
    "twice": ("prompt,target,target\na,0,1\nb,1,0\n", r"the column target 2 times in its header"),
    "semicolons": ("prompt;target\na;0\nb;1\n", r"\(it looks separated by semicolons; commas are"),
    "tabs": ("target\tprompt\n0\ta\n1\tb\n", r"\(it looks separated by tabs; commas are expected"),
    "two BOMs": ("\ufeff\ufeffprompt,target\na,0\n", r"no column prompt: its first row is \['\\uf"),
    "header alone": ("prompt,target\n", r"has no rows below its header"),
    "a comma in the last column": (COMMAS, r"has 3 fields on line 2 where its header names 2 col"),
    "a comma, later": (QUOTED + "c, d,1\n", r"has 3 fields on line 6 where its header names 2"),
    "one field": (QUOTED + "c\n", r"has 1 field on line 6 where its header names 2 columns"),
    "an end of line in a prompt": ("prompt,target\na\nb,0\nc,1\n", r"has 1 field on line 2 where"),
    "a line of spaces": (QUOTED + "  \n", r"has 1 field on line 6 where"),
    "a blank line": (QUOTED + "\n\nc,0\n", r"is blank on line 6, before its end"),
    "doubled line ends": ("prompt,target\r\r\na,0\r\r\nb,1\r\r\n", r"is blank on line 2, before"),
    "no prompt": (QUOTED + ",1\n", r"has no prompt on line 6; fill it or remove the row"),
    "a prompt of spaces": (QUOTED + '"\t \n",1\n', r"has no prompt on line 6"),
    "one class": ("prompt,target\na,x\nb,x\n", r"has 1 class .*\('x' x 2\); expected exactly 2\."),
    "three": ("prompt,target\na,0\nb,1\nc,2\nd,2\n", r"3 classes .*\('0' x 1, '1' x 1, '2' x 2\)"),
    "many": (
        "prompt,target\n" + "".join(f"a,{i}\n" for i in range(9)),
        r"has 9 classes in its target column \('0' x 1, .*'4' x 1, \.\.\.\); expected exactly 2",
    ),
    "case": ("prompt,target\na,True\nb,true\n", r"\('True' x 1, 'true' x 1\).* only in case"),
    "spaces": ("prompt,target\na,yes\nb, yes\n", r"\(' yes' x 1, 'yes' x 1\).* only in case"),
    "composed": ("prompt,target\na,\u00e9\nb,e\u0301\n", r"differ only in case or spaces"),
    "three by case": ("prompt,target\na,no\nb,yes\nc,Yes\n", r"3 classes .* only in case"),
    "one number": ("prompt,target\na,1\nb,1.0\nc,01\n", r"has 1 class .*\('1' x 3\)"),
    "large numbers": ("prompt,target\na,9007199254740993\nb,9007199254740992\nc,1\n", r"3 classes"),
    "an open quote": ('prompt,target\na,0\n"b,1\n', r"not well-formed CSV on line 3 \(unexpec"),
    "text behind quotes": (QUOTED + '"c" d,1\n', r"not well-formed CSV on line 6 \(',' expected"),
    "latin-1": (b"prompt,target\na,0\ncaf\xe9,1\n", r"is not UTF-8 text on line 3 \(invalid"),
    "a surrogate": (b"prompt,target\n\xed\xa0\x80,0\nb,1\n", r"is not UTF-8 text on line 2"),
    "UTF-16": ("prompt,target\na,0\nb,1\n".encode("utf-16"), r"is UTF-16 text; save it as UTF-8"),
    "UTF-16 unmarked": ("prompt,target\na,0\n".encode("utf-16-le"), r"has a NUL character on lin"),
    "NUL": ("prompt,target\na,0\nb\0,1\n", r"has a NUL character on line 3"),
    **{
        f"missing: {missing!r}": (QUOTED + f"c,{missing}\n", r"has no target on line 6 but '")
        for missing in ("", " ", "nan", "NaN", " nan", "null", "NULL", "None", "N/A", "NA", "<NA>")
    },
}  # fmt: skip

# The content of a file, its prompts and labels.
READ = {
    "plain": ("prompt,target\na,0\nb,1\n", ["a", "b"], [0, 1]),
    "no line end at the end": ("prompt,target\na,0\nb,1", ["a", "b"], [0, 1]),
    "blank lines at the end": ("prompt,target\na,0\nb,1\n\n\r\n\n", ["a", "b"], [0, 1]),
    "CR": ("prompt,target\ra,0\rb,1\r", ["a", "b"], [0, 1]),
    "CRLF": ('prompt,target\r\n"a\r\n",0\r\nb,1\r\n', ["a\r\n", "b"], [0, 1]),
    "BOM": ("\ufeffprompt,target\na,0\nb,1\n", ["a", "b"], [0, 1]),
    "other columns": (",prompt,x,x,target\n0,a,,,no\n1,b,,,yes\n", ["a", "b"], [0, 1]),
    "quotes inside": ('prompt,target\na "b",0\n"c ""d""",1\n', ['a "b"', 'c "d"'], [0, 1]),
    "equal rows": ("prompt,target\na,0\na,0\na,1\n", ["a", "a", "a"], [0, 0, 1]),
    "texts that name nothing": ("prompt,target\nnan,0\nNone,1\n", ["nan", "None"], [0, 1]),
    "spaces stay": ("prompt,target\n a ,0\nb,1\n", [" a ", "b"], [0, 1]),
    "numbers by value": ("prompt,target\na,10\nb,9\nc,10.0\nd, 9\n", [*"abcd"], [1, 0, 1, 0]),
    "huge numbers": ("prompt,target\na,1e500\nb,1e400\n", ["a", "b"], [1, 0]),
    "all else by letter": ("prompt,target\na,10\nb,9x\nc,10\n", [*"abc"], [0, 1, 0]),
    "booleans": ("prompt,target\na,True\nb,False\n", ["a", "b"], [1, 0]),
    "emoji": ("prompt,target\n\U0001f600\u2028,0\nb,1\n", ["\U0001f600\u2028", "b"], [0, 1]),
}  # fmt: skip


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_task_is_refused_by_its_line(tmp_path, case):
    content, said = REFUSED[case]
    path = write(tmp_path / "mine.csv", content)
    with pytest.raises(DamagedFile, match=rf"mine\.csv .*{said}") as error:
        csv_files.read(path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("case", READ)
def test_what_is_a_task_is_read_whole(tmp_path, case):
    content, prompts, labels = READ[case]
    found = csv_files.read(write(tmp_path / "mine.csv", content))
    assert list(found[0]) == prompts and found[1].tolist() == labels
    assert found[1].dtype == np.int64


def written(rows, terminator="\r\n"):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=terminator).writerows([("prompt", "target"), *rows])
    return text.getvalue().encode()


# Surrogates and NUL cannot be written; spaces alone are no prompt.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
PROMPT = st.one_of(TEXT, st.sampled_from(['"', '""', ",", "\n", "\r", "a\r\nb", "'", ";"]))
ROWS = st.lists(
    st.tuples(PROMPT.filter(str.strip), st.sampled_from(["no", "yes"])), min_size=2, max_size=6
).filter(lambda rows: len({target for _, target in rows}) == 2)
BYTES = st.one_of(
    st.sampled_from([b"", *(bytes([byte]) for byte in b'",\n\r; \0\xff')]),
    st.binary(min_size=1, max_size=1),
)


@hypothesis.given(rows=ROWS, terminator=st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_a_writer_wrote_reads_back_exactly(tmp_path_factory, rows, terminator):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    if rows[0][0].startswith("\ufeff"):
        rows = [("a" + rows[0][0], rows[0][1]), *rows[1:]]
    prompts, labels, names = csv_files.read(write(path, written(rows, terminator)))
    assert prompts == tuple(prompt for prompt, _ in rows)
    assert labels.tolist() == [int(target == "yes") for _, target in rows]
    assert names == ("no", "yes")


@hypothesis.settings(max_examples=200)
@hypothesis.given(rows=ROWS, data=st.data())
def test_a_changed_file_is_read_as_csv_reads_it_or_refused(tmp_path_factory, rows, data):
    """One byte changed, dropped or added: nothing may be cut, skipped or filled in."""
    path = tmp_path_factory.getbasetemp() / "changed.csv"
    content = written(rows, "\n")
    at = data.draw(st.integers(0, len(content)))
    new = data.draw(BYTES)
    changed = content[:at] + new + content[at + data.draw(st.integers(0, 1)) :]
    try:
        prompts, labels, _ = csv_files.read(write(path, changed))
    except ValueError as error:
        assert str(path) in str(error)
        return
    text = io.StringIO(changed.decode("utf-8-sig"), newline="")
    header, *expected = csv.reader(text, strict=True)
    while expected and not expected[-1]:
        expected.pop()
    columns = [header.index(name) for name in csv_files.COLUMNS]
    assert all(len(row) == len(header) for row in expected)
    assert prompts == tuple(row[columns[0]] for row in expected)
    by_target = dict(zip((row[columns[1]].strip() for row in expected), labels, strict=True))
    assert len(set(by_target.values())) == 2


def test_a_file_without_end_or_of_no_kind_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv"):
        with pytest.raises(DamagedFile, match=rf"{name} is no regular file"):
            csv_files.read(tmp_path / name)
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        DamagedFile, match=r"has 1,099,511,627,776 bytes, where at most 268,435,456"
    ):
        csv_files.read(tmp_path / "sparse.csv")


def test_a_prompt_is_read_up_to_its_limit(tmp_path):
    most = csv_files.MOST_CHARACTERS
    for size in (most, most + 1):
        path = write(tmp_path / "long.csv", f"prompt,target\na,0\n{'b' * size},1\n")
        if size == most:
            assert len(csv_files.read(path)[0][1]) == most
            continue
        with pytest.raises(DamagedFile, match=r"of more than 4,194,304 characters on line 3"):
            csv_files.read(path)


def test_readers_in_several_threads_do_not_meet(tmp_path):
    """The csv module has one limit for all; 131,072 is its own."""
    path = write(tmp_path / "long.csv", f"prompt,target\n{'a' * 200_000},0\nb,1\n" + "c,1\n" * 500)
    failed = []

    def many():
        try:
            for _ in range(4):
                csv_files.read(path)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and csv.field_size_limit() == 131_072


PACKED = zstandard.ZstdCompressor().compress(b"prompt,target\na,0\nb,1\n")


@pytest.mark.parametrize(
    "content, said",
    [
        (PACKED[:-3], "is a truncated zstd file"),
        (b"", "is a truncated zstd file"),
        (b"not zstd", "is not a valid zstd file"),
        (PACKED + PACKED, "has bytes behind its zstd frame"),
        (PACKED + b"\0" * 2000, "has bytes behind its zstd frame"),
    ],
)
def test_a_packed_file_is_one_whole_frame(tmp_path, content, said):
    path = write(tmp_path / "mine.csv.zst", content)
    with pytest.raises(DamagedFile, match=rf"mine\.csv\.zst {said}"):
        csv_files.read(path)
    assert csv_files.read(write(path, PACKED))[0] == ("a", "b")


def test_a_packed_file_that_unpacks_without_end_is_left_early(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "MOST_BYTES", 1 << 24)
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    path = write(tmp_path / "bomb.csv.zst", bomb)
    tracemalloc.start()
    with pytest.raises(DamagedFile, match="unpacks to more than 16,777,216 bytes"):
        csv_files.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(bomb) < 1 << 16 and peak < 1 << 27


def test_a_frame_that_lies_about_its_size_takes_no_memory(tmp_path):
    claimed = (1 << 40).to_bytes(8, "little")
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + claimed  # single segment, 8-byte size
    path = write(tmp_path / "liar.csv.zst", frame + PACKED[6:])
    with pytest.raises(DamagedFile, match=r"is not a valid zstd file|is a truncated zstd file"):
        csv_files.read(path)

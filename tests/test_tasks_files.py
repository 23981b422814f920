"""What a task file may look like: every row is read whole, or the file is refused by its line."""

import csv
import datetime
import io
import json
import os
import threading
import tracemalloc

import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import strategies as st

from probejax.foreign import DamagedFile
from probejax.tasks import columns, content, own, parquet
from probejax.tasks.columns import ENDINGS, MOST_CHARACTERS
from probejax.tasks.own import Member, Own

COMMAS = "target,prompt\n" + "1,Hello, Balvano\n0,Hello, Lostock Gralam\n" * 130
QUOTED = 'prompt,target\n"one\ntwo\r\nthree",0\nb,1\n'  # rows on lines 2 and 5

# The content of a file (text is written as UTF-8), and what the message says of it.
REFUSED = {
    "nothing": ("", r"has no column called prompt, text, .*: its columns are none; n"),
    "no header": ("a,0\nb,1\n", r"has no column called prompt, .*: its columns are 'a', '0'; name"),
    "no target": ("prompt,a,b\na,0,1\n", r"no column called target, .*; name .* --label_col"),
    "blank header": ("\nprompt,target\na,0\n", r"no column called .*: its columns are none"),
    "two texts": ("text,prompt,y\na,b,0\n", r"the columns 'text', 'prompt', .* --text_col"),
    "two labels": ("text,y,Label\na,1,0\n", r"the columns 'y', 'Label', and any .* --label_column"),
    "twice": ("prompt,target,target\na,0,1\nb,1,0\n", r"the column target 2 times in its header"),
    "twice the same": ("text,text\na,b\n", r"no column called target, .*'text', 'text'; name"),
    "semicolons": ("prompt;target\na;0\nb;1\n", r"looks separated by semicolons where commas are"),
    "tabs": ("target\tprompt\n0\ta\n1\tb\n", r"looks separated by tabs where commas are expected"),
    "header alone": ("prompt,target\n", r"has no rows; expected one for each text"),
    "a comma in the last column": (COMMAS, r"has 3 fields on line 2 where its header names 2 col"),
    "a comma, later": (QUOTED + "c, d,1\n", r"has 3 fields on line 6 where its header names 2"),
    "one field": (QUOTED + "c\n", r"has 1 field on line 6 where its header names 2 columns"),
    "an end of line in a prompt": ("prompt,target\na\nb,0\nc,1\n", r"has 1 field on line 2 where"),
    "a line of spaces": (QUOTED + "  \n", r"has 1 field on line 6 where"),
    "a blank line": (QUOTED + "\n\nc,0\n", r"is blank on line 6, before its end"),
    "doubled line ends": ("prompt,target\r\r\na,0\r\r\nb,1\r\r\n", r"is blank on line 2, before"),
    "no prompt": (QUOTED + ",1\n", r"has no text in its column prompt on line 6; f"),
    "a prompt of spaces": (QUOTED + '"\t \n",1\n', r"has no text in its column prompt on line 6"),
    "one class": ("prompt,target\na,x\nb,x\n", r"has 1 class .*\('x' x 2\); expected two"),
    "many": (
        "prompt,target\n" + "".join(f"a,v{i}\n" for i in range(21)),
        r"has 21 classes \('v0' x 1, .*, \.\.\.\), more than 20; join",
    ),
    "measurements": (
        "prompt,target\n" + "".join(f"a,{i / 7}\n" for i in range(1000)),
        r"has 1,000 classes .*, more than 20: these look like measurements, and a probe tells two",
    ),
    "rows in a text": (
        'text,target\n"one,0\ntwo",1\nb,0\n',
        r"has on line 2 a field that holds whole rows of the file: a quotation opens in it and",
    ),
    "rows in a text, labels first": (
        'target,text\n0,"one\n1,two"\n1,b\n',
        r"has on line 2 a field that holds whole rows of the file",
    ),
    "rows in a text behind an id": (
        'id,text,label\n1,"one,0\n2,two,1\n3,three",1\n4,b,0\n',
        r"has on line 2 a field that holds whole rows of the file",
    ),
    "rows in a field that is not read": (
        'title,text,label\n"one,a,0\ntwo",b,1\nthree,c,0\n',
        r"has on line 2 a field that holds whole rows of the file",
    ),
    "no header but a label": (
        "great,y\nbad,n\nfine,y\n",
        r"has no header, it seems: 'y' stands at the head of its labels and is one of them",
    ),
    "case": ("prompt,target\na,True\nb,true\n", r"\('True' x 1, 'true' x 1\).* only in case"),
    "spaces": ("prompt,target\na,yes\nb, yes\n", r"\(' yes' x 1, 'yes' x 1\).* only in case"),
    "composed": ("prompt,target\na,\u00e9\nb,e\u0301\n", r"differ only in case or spaces"),
    "three by case": ("prompt,target\na,no\nb,yes\nc,Yes\n", r"3 classes .* only in case"),
    "one number": ("prompt,target\na,1\nb,1.0\nc,01\n", r"has 1 class .*\('1' x 3\)"),
    "large numbers": ("prompt,target\na,1\nb,1.0\nc,1e0\n", r"1 class "),
    "an open quote": ('prompt,target\na,0\n"b,1\n', r"not well-formed on line 3 \(unexpec"),
    "text behind quotes": (QUOTED + '"c" d,1\n', r"not well-formed on line 6 \(',' expected"),
    "latin-1": (b"prompt,target\na,0\ncaf\xe9,1\n", r"is not UTF-8 text on line 3 \(invalid"),
    "a surrogate": (b"prompt,target\n\xed\xa0\x80,0\nb,1\n", r"is not UTF-8 text on line 2"),
    "UTF-16": ("prompt,target\na,0\nb,1\n".encode("utf-16"), r"is UTF-16 text; save it as UTF-8"),
    "UTF-16 unmarked": ("prompt,target\na,0\n".encode("utf-16-le"), r"has a NUL character on lin"),
    "NUL": ("prompt,target\na,0\nb\0,1\n", r"has a NUL character on line 3"),
    **{
        f"missing: {missing!r}": (QUOTED + f"c,{missing}\n", r"has no value.* on line 6; f")
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
    "other names": ("id,Text, Label \n1,a,x\n2,b,y\n", ["a", "b"], [0, 1]),
    "a name for the other of two": ("text,is_spam\na,x\nb,y\n", ["a", "b"], [0, 1]),
    "prompt and target go first": ("text,target,prompt\n,0,a\n,1,b\n", ["a", "b"], [0, 1]),
    "booleans": ("prompt,target\na,True\nb,False\n", ["a", "b"], [1, 0]),
    "emoji": ("prompt,target\n\U0001f600\u2028,0\nb,1\n", ["\U0001f600\u2028", "b"], [0, 1]),
}  # fmt: skip


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path, **how):
    return own.read(Member(path), Own(path, **how))[:3]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_task_is_refused_by_its_line(tmp_path, case):
    text, said = REFUSED[case]
    path = write(tmp_path / "mine.csv", text)
    with pytest.raises(DamagedFile, match=rf"mine\.csv.* .*{said}") as error:
        read(path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("case", READ)
def test_what_is_a_task_is_read_whole(tmp_path, case):
    text, prompts, labels = READ[case]
    found = read(write(tmp_path / "mine.csv", text))
    assert list(found[0]) == prompts and found[1].tolist() == labels
    assert found[1].dtype == np.int64


def written(rows, terminator="\r\n"):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=terminator).writerows([("prompt", "target"), *rows])
    return text.getvalue().encode()


def as_parquet(rows):
    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()


def as_json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_separated(rows, separator):
    return pd.DataFrame(rows).to_csv(index=False, sep=separator).encode()


KINDS = {
    ".csv": lambda rows: as_separated(rows, ","),
    ".tsv": lambda rows: as_separated(rows, "\t"),
    ".jsonl": as_json_lines,
    ".parquet": as_parquet,
}
SOME = (
    [{"text": t, "label": y} for t, y in (("one, two", "x"), ('tab\t "three"\nfour', "y"))],
    [{"id": 3, "sentence": t, "y": y} for t, y in (("a", True), ("b", False), ("c\u2028", True))],
    [{"review": t, "label": y} for t, y in (("a", 10.0), ("b", 9.5), ("c", 10.0))],
    [{"content": t, "class": y} for t, y in (("a", -1), ("b", 1), ("c", -1))],
)


@pytest.mark.parametrize("rows", SOME)
def test_every_kind_of_file_reads_alike(tmp_path, rows):
    assert {end.removesuffix(".zst") for end in ENDINGS} == set(KINDS)
    found = []
    for ending in ENDINGS:
        data = KINDS[ending.removesuffix(".zst")](rows)
        if ending.endswith(".zst"):
            data = zstandard.ZstdCompressor().compress(data)
        found.append(read(write(tmp_path / f"mine{ending}", data)))
    texts, labels, names = found[0]
    keys = list(rows[0])
    assert texts == tuple(row[keys[-2]] for row in rows)
    expected = sorted({row[keys[-1]] for row in rows})
    assert [expected[label] for label in labels] == [row[keys[-1]] for row in rows]
    for other in found[1:]:
        assert other[0] == texts and other[1].tolist() == labels.tolist()
        assert [*map(as_number, other[2])] == [*map(as_number, names)]


def as_number(name):
    return float(name) if name.lstrip("-").replace(".", "").isdigit() else name


LINES = '{"text": "a", "label": 0}\n'
REFUSED_LINES = {
    "an open object": (LINES + '{"text": "b"\n', "has no JSON object on line 2"),
    "two objects": (LINES + LINES.strip() + LINES, "has no JSON object on line 2"),
    "blank": (LINES + "\n" + LINES, "has no JSON object on line 2"),
    "a list": (LINES + '["b", 1]\n', "has a list on line 2; expected one object"),
    "a repeated key": (
        LINES + '{"text": "b", "text": "c", "label": 1}\n',
        "the key 'text'.* line 2|line 2 .*the key 'text'",
    ),
    "another key": (LINES + '{"text": "b", "label": 1, "x": 1}\n', "has the key 'x' on line 2"),
    "a missing key": (LINES + '{"text": "b"}\n', "lacks the key 'label' on line 2"),
    "null text": (LINES + '{"text": null, "label": 1}\n', "no text in its column text on line 2"),
    "null label": (LINES + '{"text": "b", "label": null}\n', "no value in .* label on line 2"),
    "NaN": (LINES + '{"text": "b", "label": NaN}\n', "has NaN in its column label on line 2, "),
    "a number for text": (
        LINES + '{"text": 7, "label": 1}\n',
        r"has 7 \(int\) in .* text on line 2",
    ),
    "nested text": (
        LINES + '{"text": {"a": 1}, "label": 1}\n',
        r"\(dict\) in its column text on line 2",
    ),
    "nested label": (
        LINES + '{"text": "b", "label": [1]}\n',
        r"\(list\) in its column label on line 2",
    ),
    "mixed labels": (
        LINES + '{"text": "b", "label": "1"}\n',
        "the text '1' in .* label on line 2; above",
    ),
    "half a character": (
        LINES + '{"text": "\\ud800", "label": 1}\n',
        "half a character .* on line 2",
    ),
    "deep": (LINES + "[" * 100_000 + "\n", "has no JSON object on line 2"),
    "long": (LINES + '{"text": "b", "label": ' + "9" * 5000 + "}", "has no JSON object on line 2"),
    "latin-1": (LINES.encode() + b'{"text": "\xe9", "label": 1}\n', "is not UTF-8 text on line 2"),
}


@pytest.mark.parametrize("case", REFUSED_LINES)
def test_json_lines_are_refused_by_their_line(tmp_path, case):
    text, said = REFUSED_LINES[case]
    with pytest.raises(DamagedFile, match=rf"mine\.jsonl .*({said})") as error:
        read(write(tmp_path / "mine.jsonl", text))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_counts_only_where_it_is_read(tmp_path, constant):
    line = '{"text": "t%d", "label": %d, "score": ' + constant + ', "more": [' + constant + "]}\n"
    path = write(tmp_path / "mine.jsonl", "".join(line % (i, i % 2) for i in range(4)))
    assert read(path)[0] == ("t0", "t1", "t2", "t3")
    said = rf"has {constant} in its column score on line 1, which is no JSON; a missing value"
    with pytest.raises(DamagedFile, match=said):
        read(path, label_column="score")


REFUSED_TABLES = {
    "null text": ({"text": ["a", None], "y": [0, 1]}, "no text in its column text in row 2"),
    "numbers for text": (
        {"text": [1, 2], "y": [0, 1]},
        r"has 1 \(int\) in its column text in row 1",
    ),
    "bytes for text": ({"text": [b"a"], "y": [0]}, r"\(bytes\) in its column text in row 1"),
    "NaN": ({"text": ["a", "b"], "y": [0.0, float("nan")]}, "no value.* in its column y in row 2"),
    "dates": (
        {"text": ["a"], "y": [datetime.date(2020, 1, 1)]},
        r"\(date\) in its column y in row 1",
    ),
    "lists": ({"text": ["a"], "y": [[1]]}, r"\(list\) in its column y in row 1"),
    "no rows": ({"text": [], "y": []}, "has no rows"),
}


@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_parquet_is_refused_by_its_row(tmp_path, case):
    columns, said = REFUSED_TABLES[case]
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(DamagedFile, match=rf"mine\.parquet .*{said}"):
        read(tmp_path / "mine.parquet")


def test_damaged_parquet_is_refused(tmp_path):
    whole = as_parquet(SOME[0])
    for data in (b"", b"PAR1", whole[:-20], whole[:20] + whole[-20:], b"x" * 100):
        with pytest.raises(DamagedFile, match=r"mine\.parquet is damaged"):
            read(write(tmp_path / "mine.parquet", data))


@pytest.mark.parametrize("categories", [False, True])
def test_parquet_that_repeats_one_text_without_end_is_left_early(tmp_path, monkeypatch, categories):
    monkeypatch.setattr(parquet, "MOST_BYTES", 1 << 20)
    texts = pa.array(["a" * 10_000] * 5000)
    table = pa.table(
        {"text": texts.dictionary_encode() if categories else texts, "y": [0, 1] * 2500}
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    assert (tmp_path / "mine.parquet").stat().st_size < 1 << 16
    with pytest.raises(DamagedFile, match="unpacks to more than 1,048,576 bytes; split it"):
        read(tmp_path / "mine.parquet")


@pytest.mark.parametrize("rows", [65, 5000])
def test_categories_of_parquet_count_as_what_they_stand_for(tmp_path, monkeypatch, rows):
    """Their dictionary comes with every batch, and is as large as all texts together."""
    texts, labels = [f"{number:0200}" for number in range(rows)], ["no", "yes"] * rows
    monkeypatch.setattr(parquet, "MOST_BYTES", rows * 300)
    plain = pa.table({"text": texts, "label": labels[:rows]})
    frame = plain.to_pandas().astype("category")
    frame.to_parquet(tmp_path / "mine.parquet")
    found = read(tmp_path / "mine.parquet")
    assert found[0] == tuple(texts) and list(found[1]) == [number % 2 for number in range(rows)]


def test_columns_are_named_where_names_say_nothing(tmp_path):
    path = write(tmp_path / "mine.csv", "a,b,c,d\n1,x,no,p\n0,y,yes,q\n")
    assert read(path, text_column="b", label_column="c")[0] == ("x", "y")
    made = own.read(Member(path), Own(path, "b", "c", groups="d"))
    assert made.groups == ("p", "q") and made.class_names == ("no", "yes")
    for how, said in (
        ({"text_column": "B", "label_column": "c"}, r"has no column B \('b' is spelled otherwise"),
        ({"text_column": "b", "label_column": "e"}, r"has no column e: its columns are 'a', 'b'"),
        (
            {"text_column": "b", "label_column": "b"},
            r"one column, .*'b', 'b', cannot be two things",
        ),
        ({"text_column": "b"}, r"no column called target, .* with --label_column"),
    ):
        with pytest.raises(DamagedFile, match=said):
            read(path, **how)


def test_more_than_two_classes_are_tasks_against_the_rest(tmp_path):
    path = write(tmp_path / "mine.csv", "text,label\na,neg\nb,pos\nc,neutral\nd,pos\n")
    members = own.members(Own(path))
    assert list(members) == ["mine=neg", "mine=neutral", "mine=pos"]
    found = own.read(members["mine=pos"], Own(path))
    assert found.labels.tolist() == [0, 1, 0, 1] and found.class_names == ("not pos", "pos")
    assert list(own.members(Own(path, positive="POS"))) == ["mine=pos"]
    numbers = write(tmp_path / "stars.csv", "text,stars\na,1\nb,10\nc,9\n")
    assert list(own.members(Own(numbers))) == ["stars=1", "stars=9", "stars=10"]
    assert list(own.members(Own(numbers, positive="9.0"))) == ["stars=9"]
    two = write(tmp_path / "two.csv", "text,label\na,neg\nb,pos\n")
    assert read(two, positive="neg")[2] == ("pos", "neg")
    with pytest.raises(
        DamagedFile, match=r"two\.csv, column label, has no class 'good'; its classes are 'neg', 'p"
    ):
        read(two, positive="good")


def test_a_shifted_test_set_has_the_classes_of_its_task(tmp_path):
    write(tmp_path / "mine.csv", "text,label\na,neg\nb,pos\nc,other\n")
    shifted = write(tmp_path / "mine_OOD.csv", "text,label\nx,pos\ny,other\n")
    data = Own(tmp_path)
    members = own.members(data)
    assert own.read_shifted(members["mine=other"], data).labels.tolist() == [0, 1]
    assert own.read_shifted(members["mine=neg"], data).labels.tolist() == [0, 0]
    write(shifted, "text,label\nx,pos\ny,good\n")
    with pytest.raises(
        DamagedFile, match=r"mine_OOD\.csv, column label, has no class 'good'; its classes are"
    ):
        own.read_shifted(members["mine=neg"], data)


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
    prompts, labels, names = read(write(path, written(rows, terminator)))
    assert prompts == tuple(prompt for prompt, _ in rows)
    assert labels.tolist() == [int(target == "yes") for _, target in rows]
    assert names == ("no", "yes")


@hypothesis.settings(max_examples=200)
@hypothesis.given(rows=ROWS, data=st.data())
def test_a_changed_file_is_read_as_csv_reads_it_or_refused(tmp_path_factory, rows, data):
    """One byte changed, dropped or added: nothing may be cut, skipped or filled in."""
    path = tmp_path_factory.getbasetemp() / "changed.csv"
    whole = written(rows, "\n")
    at = data.draw(st.integers(0, len(whole)))
    new = data.draw(BYTES)
    changed = whole[:at] + new + whole[at + data.draw(st.integers(0, 1)) :]
    try:
        prompts, labels, _ = read(write(path, changed))
    except ValueError as error:
        assert str(path) in str(error)
        return
    text = io.StringIO(changed.decode("utf-8-sig"), newline="")
    header, *expected = csv.reader(text, strict=True)
    while expected and not expected[-1]:
        expected.pop()
    one = header.index("target") if "target" in header else 1 - header.index("prompt")
    columns = [1 - one, one]
    assert all(len(row) == len(header) for row in expected)
    assert prompts == tuple(row[columns[0]] for row in expected)
    by_target = dict(zip((row[columns[1]].strip() for row in expected), labels, strict=True))
    assert len(set(by_target.values())) == 2


def test_a_file_without_end_or_of_no_kind_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv"):
        with pytest.raises(DamagedFile, match=rf"{name} is no regular file"):
            read(tmp_path / name)
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        DamagedFile, match=r"has 1,099,511,627,776 bytes, where at most 268,435,456"
    ):
        read(tmp_path / "sparse.csv")


def test_a_prompt_is_read_up_to_its_limit(tmp_path):
    most = MOST_CHARACTERS
    for size in (most, most + 1):
        path = write(tmp_path / "long.csv", f"prompt,target\na,0\n{'b' * size},1\n")
        if size == most:
            assert len(read(path)[0][1]) == most
            continue
        with pytest.raises(DamagedFile, match=r"a text of more than 4,194,304 char.* on line 3"):
            read(path)


def test_readers_in_several_threads_do_not_meet(tmp_path):
    """The csv module has one limit for all; 131,072 is its own."""
    path = write(tmp_path / "long.csv", f"prompt,target\n{'a' * 200_000},0\nb,1\n" + "c,1\n" * 500)
    failed = []

    def many():
        try:
            for _ in range(4):
                read(path)
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
    "text, said",
    [
        (PACKED[:-3], "is a truncated zstd file"),
        (b"", "is a truncated zstd file"),
        (b"not zstd", "is not a valid zstd file"),
        (PACKED + PACKED, "has bytes behind its zstd frame"),
        (PACKED + b"\0" * 2000, "has bytes behind its zstd frame"),
    ],
)
def test_a_packed_file_is_one_whole_frame(tmp_path, text, said):
    path = write(tmp_path / "mine.csv.zst", text)
    with pytest.raises(DamagedFile, match=rf"mine\.csv\.zst {said}"):
        read(path)
    assert read(write(path, PACKED))[0] == ("a", "b")


def test_a_packed_file_that_unpacks_without_end_is_left_early(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MOST_BYTES", 1 << 24)
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    path = write(tmp_path / "bomb.csv.zst", bomb)
    tracemalloc.start()
    with pytest.raises(DamagedFile, match="unpacks to more than 16,777,216 bytes"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(bomb) < 1 << 16 and peak < 1 << 27


def test_a_frame_that_lies_about_its_size_takes_no_memory(tmp_path):
    claimed = (1 << 40).to_bytes(8, "little")
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + claimed  # single segment, 8-byte size
    path = write(tmp_path / "liar.csv.zst", frame + PACKED[6:])
    with pytest.raises(DamagedFile, match=r"is not a valid zstd file|is a truncated zstd file"):
        read(path)


NAMES = st.sampled_from(["text", "label", "a", "b"])


@hypothesis.given(st.lists(NAMES, max_size=4), *[st.none() | NAMES] * 3)
@hypothesis.example(["text", "a"], None, None, "a")
@hypothesis.example(["text", "text"], None, None, None)
def test_any_header_is_read_or_refused_in_a_sentence(tmp_path_factory, header, text, label, groups):
    path = tmp_path_factory.mktemp("any") / "x.csv"
    path.write_text(",".join(header) + "\n" + ",".join("x" * len(header)) + "\n")
    try:
        columns.read(path, columns.Columns(text, label, groups))
    except DamagedFile as error:
        assert str(path) in str(error)


def test_a_group_has_a_name_in_one_line(tmp_path):
    for name, shown in (("Ann\nSmith", r"'Ann\\nSmith'"), ("a" * 201, "'aaa")):
        (tmp_path / "g.csv").write_text(f'text,label,writer\na,0,Bob\nb,1,"{name}"\n')
        said = rf"has {shown}.* in its column writer on line 3; a group is named in one line of at"
        with pytest.raises(DamagedFile, match=said):
            columns.read(tmp_path / "g.csv", columns.Columns(groups="writer"))


def test_two_tasks_of_one_name_are_told(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"t{i},{'xyz'[i % 3]}\n" for i in range(9))
    )
    (tmp_path / "a=x.csv").write_text("text,label\nb,0\nc,1\n")
    with pytest.raises(ValueError, match=r"a=x\.csv both make a task 'a=x' .*; rename one of the"):
        own.members(Own(tmp_path))


def test_a_class_that_cannot_name_a_task_is_told_as_what_it_is(tmp_path):
    (tmp_path / "long.csv").write_text(f"text,label\na,{'v' * 101}\nb,x\nc,y\n")
    ((name, member),) = own.members(Own(tmp_path / "long.csv")).items()
    assert name == "long"
    with pytest.raises(
        DamagedFile, match=r"has the class 'v+, which cannot name a task: rename it"
    ):
        own.read(member, Own(tmp_path / "long.csv"))

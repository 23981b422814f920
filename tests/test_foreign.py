"""Bytes from outside: whatever they are, one sentence, in time and in little memory."""

import os
import socket
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from probejax import foreign
from probejax.foreign import DamagedFile


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


def test_json_becomes_a_value_of_its_type(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"x": 3, "z": "more"}')
    assert foreign.read_json(path, Point, "make it anew") == Point(3)
    assert foreign.read_json(path, dict[str, Any], "make it anew") == {"x": 3, "z": "more"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "truncated"),
        ("[1]", "Expected `object`, got `array`"),
        ('{"y": 1}', "missing required field `x`"),
        ('{"x": "3"}', "Expected `int`, got `str` - at `$.x`"),
        ('{"x": NaN}', "malformed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"z": ' + "[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path, text, said):
    path = tmp_path / "p.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    kind = Any if text == "[" * 100_000 else Point
    with pytest.raises(DamagedFile) as error:
        foreign.read_json(path, kind, "make it anew")
    assert str(error.value).startswith(f"{path} is damaged (")
    assert said in str(error.value) and str(error.value).endswith("; make it anew.")
    assert "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "p.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    with pytest.raises(DamagedFile, match="has 1,099,511,627,776 bytes"):
        foreign.read_json(path, Point, "make it anew")


@pytest.mark.parametrize("read", [foreign.open_regular, foreign.require_regular])
def test_only_regular_files_are_opened(tmp_path, read, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        for name in ("pipe", "socket", "/dev/zero", "."):
            with pytest.raises((DamagedFile, IsADirectoryError)):
                read(name)
    with pytest.raises(FileNotFoundError):
        read("absent")


@pytest.mark.parametrize(
    "error",
    [
        *(TypeError("x"), KeyError("x"), AttributeError("x"), IndexError("x"), OverflowError("x")),
        *(RecursionError("x"), MemoryError(), RuntimeError("x"), OSError(22, "x"), EOFError()),
    ],
)
def test_whatever_a_parser_raises_becomes_a_sentence(error):
    with pytest.raises(DamagedFile, match=r"^f is damaged \(.+\); restore it\.$"):
        with foreign.parsing("f", "restore it"):
            raise error


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "full")])
def test_what_the_system_says_stays_what_it_is(error):
    with pytest.raises(type(error)) as found, foreign.parsing("f", "restore it"):
        raise error
    assert found.value is error


@hypothesis.given(st.text(max_size=400))
def test_a_file_name_leads_nowhere(text):
    name = foreign.file_name(text)
    assert name and name == os.path.basename(name) and name not in (".", "..")
    assert len(name) <= 130 and name.isascii()


@hypothesis.given(st.text(max_size=40), st.text(max_size=40))
def test_different_texts_have_different_file_names(one, other):
    if one.replace("/", "_") != other.replace("/", "_"):
        assert foreign.file_name(one) != foreign.file_name(other)


def test_plain_names_stay():
    assert foreign.file_name("87_glue_cola") == "87_glue_cola"
    assert foreign.file_name("layer_9/width_4k") == "layer_9_width_4k"

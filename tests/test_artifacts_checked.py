"""Hashes of cached files: remembered across processes, and only as long as a file is the same."""

import hashlib
import json
import os

import pytest

from probejax.artifacts import checked


@pytest.fixture
def hashed(monkeypatch):
    """The files whose bytes are read; every test begins as a new process does."""
    read = []

    def open_regular(path):
        read.append(path.name)
        return open(path, "rb")

    monkeypatch.setattr(checked, "open_regular", open_regular)
    checked._digest.cache_clear()
    return read


def next_process():
    checked._digest.cache_clear()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


SHA256 = hashlib.sha256(b"content").hexdigest()
GIT = "6b584e8ece562ebffc15d38808cd6b98fc3d97ea"  # `printf content | git hash-object --stdin`
PLAIN = hashlib.sha1(b"content").hexdigest()


@pytest.mark.parametrize("wanted", [SHA256, GIT, PLAIN])
def test_a_file_is_hashed_once_for_all_processes(wanted, file, tmp_path, hashed):
    record = tmp_path / "checked" / "record.json"
    for _ in range(3):
        assert checked.damaged({file: wanted}, record) is None
        next_process()
    assert hashed == ["file"]
    assert [path.name for path in record.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("wanted", ["0" * 64, "0" * 40])
def test_a_wrong_hash_is_said_every_time(wanted, file, tmp_path, hashed):
    for _ in range(2):
        said = checked.damaged({file: wanted}, tmp_path / "record.json")
        assert said.startswith(f"file: expected sha{'256' if len(wanted) == 64 else '1'} 000")
        assert said.endswith(SHA256 if len(wanted) == 64 else GIT)
    assert not (tmp_path / "record.json").exists()


def replaced(path):
    """Other bytes of the same size and time in another file."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def overwritten(path):
    """Other bytes in the same file."""
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def lengthened(path):
    before = path.stat()
    path.write_bytes(b"contents")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, overwritten, lengthened])
def test_whatever_changes_a_file_has_it_hashed_again(change, file, tmp_path, hashed):
    assert checked.damaged({file: SHA256}, tmp_path / "record.json") is None
    change(file)
    assert "file: expected sha256" in checked.damaged({file: SHA256}, tmp_path / "record.json")
    next_process()
    assert "file: expected sha256" in checked.damaged({file: SHA256}, tmp_path / "record.json")


def test_another_hash_wanted_is_not_found_in_the_record(file, tmp_path, hashed):
    assert checked.damaged({file: SHA256}, tmp_path / "record.json") is None
    assert "expected sha1 000" in checked.damaged({file: "0" * 40}, tmp_path / "record.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"file": [1, 2]}', "[" * 100_000, '{"file": ["a", 1, 1, "b"]}']
)
def test_a_damaged_record_costs_a_hash(text, file, tmp_path, hashed):
    record = tmp_path / "record.json"
    record.write_text(text)
    assert checked.damaged({file: SHA256}, record) is None
    assert hashed == ["file"] and str(file) in json.loads(record.read_text())


def test_a_record_that_cannot_be_written_costs_a_hash_in_each_process(file, tmp_path, hashed):
    (tmp_path / "no_folder").touch()
    for _ in range(2):
        for _ in range(2):
            assert checked.damaged({file: SHA256}, tmp_path / "no_folder" / "record.json") is None
        next_process()
    assert hashed == ["file", "file"]


def test_files_that_cannot_be_read_are_damaged(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent"):
        said = checked.damaged({tmp_path / name: SHA256}, tmp_path / "record.json")
        assert said.startswith(f"{name} cannot be read: ")


def test_anew_believes_no_record(file, tmp_path, hashed):
    for _ in range(2):
        assert checked.damaged({file: SHA256}, tmp_path / "record.json", anew=True) is None
    assert hashed == ["file", "file"]

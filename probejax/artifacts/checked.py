"""Cached files against their hashes: worked out once, and remembered until a file changes."""

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from probejax.foreign import DamagedFile, open_regular, read_json

_Seen = tuple[int, int, int, str]  # inode, size, time of the last change in ns, hash


def damaged(files: Mapping[Path, str], record: Path, *, anew: bool = False) -> str | None:
    """Says which file has not the bytes that it should have, and how that shows; None if all do.

    Args:
        files: every file's hash in hexadecimal: SHA-256, or the SHA-1 that Git gives a file.
        record: a JSON file that remembers across processes which files had their hashes. It is
            believed for files of the same inode, size and time only.
        anew: hash the files whatever the record says.
    """
    seen = {} if anew else _read(record)
    known = dict(seen)
    for path, wanted in files.items():
        try:
            found = os.stat(path)
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen.get(str(path)) == (*state, wanted):
                continue
            digest = (_digest.__wrapped__ if anew else _digest)(path, *state, len(wanted))
        except (OSError, DamagedFile) as error:
            return f"{path.name} cannot be read: {error}"
        if wanted not in digest:
            kind = "sha256" if len(wanted) == 64 else "sha1"
            return f"{path.name}: expected {kind} {wanted}, found {digest[0]}"
        known[str(path)] = (*state, wanted)
    if known != seen:
        _write(record, known)
    return None


@functools.cache
def _digest(path: Path, inode: int, size: int, mtime_ns: int, length: int) -> tuple[str, ...]:
    """Returns a file's hash, or both that a SHA-1 can be: with Git's first line, and without."""
    if length == 64:
        return _read_into(path, hashlib.sha256())
    return _read_into(path, hashlib.sha1(b"blob %d\0" % size), hashlib.sha1())


def sha256_of(path: Path) -> str:
    """Returns the hash of a file's bytes, in hexadecimal."""
    return _read_into(path, hashlib.sha256())[0]


def _read_into(path: Path, *digests: "hashlib._Hash") -> tuple[str, ...]:
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            for digest in digests:
                digest.update(block)
    return tuple(digest.hexdigest() for digest in digests)


def _read(record: Path) -> dict[str, _Seen]:
    try:
        return read_json(record, dict[str, _Seen], "delete it")
    except (OSError, DamagedFile):
        return {}


def _write(record: Path, known: dict[str, _Seen]) -> None:
    # Without a record the next process works the hashes out again: a read-only cache will do.
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f"{record.name}.part-", dir=record.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(known))
            os.replace(part, record)
        except BaseException:
            os.unlink(part)
            raise

"""The bytes of a task file, bounded and unpacked, and what each reader makes of them."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from probejax import foreign
from probejax.foreign import DamagedFile

MOST_BYTES = 1 << 28  # of a file, also of what it unpacks to; the study's largest has 2 ** 24
_PIECE = 1024  # compressed bytes at a time, which unpack to 32 MiB at most


class Raw(NamedTuple):
    """A table as its reader sees it, before anything is checked that all tables have in common.

    Attributes:
        unit: what its rows are counted by, `line` or `row`, from 1 on.
        header: the names of its columns.
        rows: given places in the header (of texts, labels and groups, as far as these are wanted),
            yields the number of each row and its cells there.
    """

    unit: str
    header: Sequence[str]
    rows: Callable[[Sequence[int]], Iterator[tuple[int, Sequence[Any]]]]


def content(path: Path) -> bytes:
    """Returns what a file holds; one whose name ends in `.zst` is unpacked.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is no regular file, too large, or not one whole zstd frame.
    """
    found = foreign.read_bytes(path, MOST_BYTES)
    return _unpacked(found, path) if path.suffix == ".zst" else found


def text(data: bytes, path: Path) -> str:
    """Returns bytes as text, without a byte-order mark.

    Raises:
        DamagedFile: they are not UTF-8, or hold a NUL; the message names the line.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DamagedFile(f"{path} is UTF-16 text; save it as UTF-8.")
    if (at := data.find(b"\0")) >= 0:
        raise DamagedFile(
            f"{path} has a NUL character on line {_line(data, at)}, as UTF-16 text and damaged "
            "files have; save it as UTF-8."
        )
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)
        raise DamagedFile(
            f"{path} is not UTF-8 text on line {_line(data, at)} ({error.reason}); save it as "
            "UTF-8."
        ) from None


def _line(data: bytes, at: int) -> int:
    return len((data[:at] + b".").splitlines())


def _unpacked(packed: bytes, path: Path) -> bytes:
    """Unpacks one zstd frame, whatever size it claims, until there is too much."""
    stream, parts, size = zstandard.ZstdDecompressor().decompressobj(), [], 0
    for start in range(0, len(packed), _PIECE):
        if stream.eof:
            raise DamagedFile(f"{path} has bytes behind its zstd frame; fetch it again.")
        try:
            parts.append(stream.decompress(packed[start : start + _PIECE]))
        except zstandard.ZstdError as error:
            raise DamagedFile(
                f"{path} is not a valid zstd file ({error}); fetch it again."
            ) from None
        size += len(parts[-1])
        if size > MOST_BYTES:
            raise DamagedFile(f"{path} unpacks to more than {MOST_BYTES:,} bytes; split it.")
    if not stream.eof:
        raise DamagedFile(f"{path} is a truncated zstd file: it ends early; fetch it again.")
    if stream.unused_data:
        raise DamagedFile(f"{path} has bytes behind its zstd frame; fetch it again.")
    return b"".join(parts)

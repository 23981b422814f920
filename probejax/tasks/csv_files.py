"""Reads the `prompt` and `target` columns of one task file, plain or zstd-compressed CSV.

Every line below the header is a row, and every row is read whole or the file is refused: what is
cut, skipped or filled in here would be a result about other prompts.
"""

import codecs
import csv
import io
import threading
from pathlib import Path

import numpy as np
import zstandard

from probejax import foreign
from probejax.foreign import DamagedFile
from probejax.tasks import classes

COLUMNS = ("prompt", "target")
MOST_BYTES = 1 << 28  # of a file, also of what it unpacks to; the study's largest has 2 ** 24
# Characters of a prompt. Its tokens are cut to their last ones, but only after all are known: what
# the last ones are may depend on the first character (a run of spaces is cut up from its start).
# So a prompt is tokenised whole or refused. That takes 70 to 300 bytes a character.
MOST_CHARACTERS = 1 << 22

_PIECE = 1024  # compressed bytes at a time, which unpack to 32 MiB at most
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_LIMIT = threading.Lock()  # the csv module has one limit for the whole process


def read(path: Path) -> tuple[tuple[str, ...], np.ndarray, tuple[str, str]]:
    """Reads one task file.

    Args:
        path: `*.csv` or `*.csv.zst`, UTF-8, with a header row that names both columns. Equal rows
            all count. Blank lines may stand at the end only.

    Returns:
        The prompts in file order and int64 labels [n]: 0 for the target that sorts first (numbers
        by value, all else alphabetically), 1 for the other; and both targets as they are spelled.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is no regular file, too large, not such a CSV file, or lacks a column, a
            prompt or a target; or it has not exactly two classes. The message says on which line.
    """
    prompts, targets = _columns(_content(path), path)
    try:
        return prompts, *classes.encode(targets)
    except ValueError as error:
        raise DamagedFile(f"{path} {error}.") from None


def _content(path: Path) -> bytes:
    content = foreign.read_bytes(path, MOST_BYTES)
    if path.suffix == ".zst":
        content = _unpacked(content, path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DamagedFile(f"{path} is UTF-16 text; save it as UTF-8.")
    if (at := content.find(b"\0")) >= 0:
        raise DamagedFile(
            f"{path} has a NUL character on line {_line(content, at)}, as UTF-16 text and damaged "
            "files have; save it as UTF-8."
        )
    return content


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


def _columns(content: bytes, path: Path) -> tuple[tuple[str, ...], list[str]]:
    (_, header), *rows = _rows(content, path) or [(1, [])]
    places = [_place(header, column, path) for column in COLUMNS]
    prompts, targets = [], []
    blank = 0
    for line, row in rows:
        if not row:
            blank = blank or line
            continue
        if blank:
            raise DamagedFile(f"{path} is blank on line {blank}, before its end; remove the line.")
        if len(row) != len(header):
            raise DamagedFile(
                f"{path} has {len(row)} field{'s' * (len(row) > 1)} on line {line} where its "
                f"header names {len(header)} columns; a prompt that holds a comma or a line end "
                "needs quotes around it."
            )
        prompt, target = (row[place] for place in places)
        if not prompt.strip():
            raise DamagedFile(f"{path} has no prompt on line {line}; fill it or remove the row.")
        if classes.is_missing(target):
            raise DamagedFile(
                f"{path} has no target on line {line} but {target!r}, which means a missing value; "
                "fill it, remove the row, or give the class another name."
            )
        prompts.append(prompt)
        targets.append(target)
    if not prompts:
        raise DamagedFile(f"{path} has no rows below its header; expected one row per prompt.")
    return tuple(prompts), targets


def _rows(content: bytes, path: Path) -> list[tuple[int, list[str]]]:
    """Returns the fields of every row, and the line on which it begins."""
    # newline="": line ends inside a quoted prompt are part of the prompt.
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    with _LIMIT:
        before = csv.field_size_limit(MOST_CHARACTERS)
        try:
            for row in reader:
                rows.append((line, row))
                line = reader.line_num + 1
        except UnicodeDecodeError:
            raise DamagedFile(
                f"{path} is not UTF-8 text{_where(content)}; save it as UTF-8."
            ) from None
        except csv.Error as error:
            if "limit" in str(error):
                raise DamagedFile(
                    f"{path} has a field of more than {MOST_CHARACTERS:,} characters on line "
                    f"{line}; shorten it (of a prompt only the last tokens are read)."
                ) from None
            raise DamagedFile(
                f"{path} is not well-formed CSV on line {line} ({error}); inside quotes every "
                "quote is doubled, and the last one ends the field."
            ) from None
        finally:
            csv.field_size_limit(before)
    return rows


def _place(header: list[str], column: str, path: Path) -> int:
    """Returns where a column is."""
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise DamagedFile(
            f"{path} names the column {column} {header.count(column)} times in its header; "
            "expected once: remove or rename the others."
        )
    near = [name for name in header if name.strip().casefold() == column]
    hint = f" ({near[0]!r} is spelled otherwise)" if near else ""
    for separator, name in _OTHER_SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            hint = f" (it looks separated by {name}; commas are expected)"
    raise DamagedFile(
        f"{path} has no column {column}{hint}: its first row is {_shown(header)}; expected a "
        f"header with {' and '.join(COLUMNS)}."
    )


def _shown(header: list[str]) -> str:
    text = str(header)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _where(content: bytes) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f" on line {_line(content, error.start)} ({error.reason})"
    return ""


def _line(content: bytes, at: int) -> int:
    return len((content[:at] + b".").splitlines())

"""Reads the `prompt` and `target` columns of one task file, plain or zstd-compressed CSV."""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import zstandard

COLUMNS = ("prompt", "target")


def read(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads one task file.

    Args:
        path: `*.csv` or `*.csv.zst`, UTF-8, with a header row that names both columns.

    Returns:
        The prompts in file order and int64 labels [n]: 0 for the target that sorts first (numbers
        by value, all else alphabetically), 1 for the other.

    Raises:
        ValueError: the file is damaged, lacks a column or a value, or has not exactly two classes.
    """
    prompts, targets = _columns(_text(path), path)
    return prompts, _encode(targets, path)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".zst":
        stream = zstandard.ZstdDecompressor().decompressobj()
        try:
            content = stream.decompress(content)
        except zstandard.ZstdError as error:
            raise ValueError(f"{path} is not a valid zstd file ({error}); fetch it again") from None
        if not stream.eof:
            raise ValueError(f"{path} is a truncated zstd file: it ends early; fetch it again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None


def _columns(text: str, path: Path) -> tuple[tuple[str, ...], list[str]]:
    limit = csv.field_size_limit(sys.maxsize)  # whole articles are longer than csv's default
    try:
        # newline="": line ends inside a quoted prompt are part of the prompt.
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = reader.fieldnames or []
        if absent := [column for column in COLUMNS if column not in header]:
            raise ValueError(
                f"{path} has no column {' and no column '.join(absent)}: its first row is "
                f"{list(header)}; expected a header with {' and '.join(COLUMNS)}"
            )
        rows = [(row["prompt"], row["target"]) for row in reader]
    except csv.Error as error:
        raise ValueError(
            f"{path} is not well-formed CSV ({error}); fetch or save it again"
        ) from None
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise ValueError(f"{path} has no rows below its header; expected one row per prompt")
    for number, row in enumerate(rows, start=1):
        for column, value in zip(COLUMNS, row, strict=True):
            if not value:
                raise ValueError(f"{path} has no {column} in data row {number}; fill or remove it")
    prompts, targets = zip(*rows, strict=True)
    return prompts, list(targets)


def _encode(targets: list[str], path: Path) -> np.ndarray:
    try:
        values = np.array(targets, dtype=np.float64)
    except ValueError:
        values = np.array(targets)
    classes, first, labels = np.unique(values, return_index=True, return_inverse=True)
    if len(classes) != 2:
        shown = ", ".join(repr(targets[row]) for row in first[:5])
        raise ValueError(
            f"{path} has {len(classes)} class{'es' if len(classes) > 1 else ''} in its target "
            f"column ({shown}{', ...' if len(classes) > 5 else ''}); expected exactly 2"
        )
    return labels.astype(np.int64)

"""Reads CSV and TSV: a header, then a row a line, fields with separators in quotes."""

import csv
import io
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from probejax.foreign import DamagedFile
from probejax.tasks.content import MOST_BYTES, Raw, text

_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_LIMIT = threading.Lock()  # the csv module has one limit for the whole process


def read(data: bytes, path: Path, separator: str = ",") -> Raw:
    """Reads a table that is separated by one character.

    Every line below the header is a row; blank lines may stand at the end only.

    Raises:
        DamagedFile: the text is not UTF-8 or not well-formed, or a row has more or fewer fields
            than the header; the message says on which line.
    """
    (_, header), *rows = _fields(text(data, path), path, separator) or [(1, [])]
    while rows and not rows[-1][1]:
        rows.pop()
    if len(header) == 1:
        for other, name in _OTHERS.items():
            if other in header[0]:
                raise DamagedFile(
                    f"{path} looks separated by {name} where {_OTHERS[separator]} are expected: "
                    f"its first row is {header!r:.200}."
                )

    def cells(places: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        whole = [row for _, row in rows if len(row) == len(header)]
        labels = {row[places[1]] for row in whole} if len(places) > 1 else set()
        for line, row in rows:
            if not row:
                raise DamagedFile(f"{path} is blank on line {line}, before its end; remove it.")
            if len(row) != len(header):
                raise DamagedFile(
                    f"{path} has {len(row)} field{'s' * (len(row) > 1)} on line {line} where its "
                    f"header names {len(header)} columns; a text that holds a separator or a line "
                    "end needs quotes around it."
                )
            if labels and _holds_rows(row, separator, places[1], labels):
                raise DamagedFile(
                    f"{path} has on line {line} a field that holds whole rows of the file: a "
                    "quotation opens in it and closes some lines later; double the quotes inside "
                    "texts, or remove them. If it is meant so, give the table as JSONL or Parquet."
                )
            yield line, [row[place] for place in places]

    return Raw("line", header, cells)


def _holds_rows(row: Sequence[str], separator: str, label_at: int, labels: Collection[str]) -> bool:
    """Tells whether a field holds the rest of its row and the beginning of another.

    A quotation opens where a field begins. If it closes in a later row only, what is read as one
    field begins with all that stands behind it in its own row, and ends with what stands before it
    in the other; one of these is a label, which is one of the file's.
    """
    for place, field in enumerate(row):
        first, *more = field.split("\n")
        if not more:
            continue
        behind, before = first.removesuffix("\r").split(separator), more[-1].split(separator)
        if (len(behind), len(before)) == (len(row) - place, place + 1):
            label = behind[label_at - place] if label_at >= place else before[label_at]
            if label in labels:
                return True
    return False


def _fields(content: str, path: Path, separator: str) -> list[tuple[int, list[str]]]:
    """Returns the fields of every row, and the line on which it begins."""
    # newline="": line ends inside a quoted text are part of it.
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=separator)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    with _LIMIT:
        before = csv.field_size_limit(MOST_BYTES)
        try:
            for row in reader:
                rows.append((line, row))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DamagedFile(
                f"{path} is not well-formed on line {line} ({error}); inside quotes every quote "
                "is doubled, and the last one ends the field."
            ) from None
        finally:
            csv.field_size_limit(before)
    return rows

"""Which columns of a task file are read, and what every cell there must be.

A row is read whole or its file is refused: what is cut, skipped or filled in here would be a result
about other texts. These checks stand once, for every kind of file.
"""

import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from probejax.foreign import DamagedFile
from probejax.tasks import classes, csv_files, json_lines, parquet
from probejax.tasks.classes import Cell
from probejax.tasks.content import content

# Characters of a text. Its tokens are cut to their last ones, but only after all are known: what
# the last ones are may depend on the first character (a run of spaces is cut up from its start).
# So a text is tokenised whole or refused. That takes 70 to 300 bytes a character.
MOST_CHARACTERS = 1 << 22

_LONGEST = 200  # characters of a group's name

TEXTS = (
    *("prompt", "text", "sentence", "content", "review", "statement", "question", "document"),
    *("message", "comment", "tweet", "input"),
)
"""Names by which a column of texts is found, in small or capital letters."""

LABELS = ("target", "label", "labels", "y", "class", "category", "sentiment")
"""Names by which a column of labels is found."""

_READERS = {
    ".csv": csv_files.read,
    ".tsv": lambda data, path: csv_files.read(data, path, "\t"),
    ".jsonl": json_lines.read,
    ".parquet": parquet.read,
}
ENDINGS = tuple(end + packed for end in _READERS for packed in ("", ".zst"))
"""What the name of a task file may end in."""


class Columns(NamedTuple):
    """The columns to read; those of texts and labels are found by their names where None."""

    text: str | None = None
    label: str | None = None
    groups: str | None = None


STUDY = Columns("prompt", "target")


class Rows(NamedTuple):
    """The rows of a file: texts, labels as they stand, and group names if a column was named.

    `label_column` is what the column of labels is called.
    """

    texts: tuple[str, ...]
    labels: tuple[Cell, ...]
    groups: tuple[str, ...]
    label_column: str


def read(path: Path, columns: Columns) -> Rows:
    """Reads one task file.

    Args:
        path: its name ends in one of `ENDINGS`. CSV and TSV have a header; all text is UTF-8. Equal
            rows all count.
        columns: which to read.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is no such file, too large, lacks a column or names it twice, or a cell is
            not what its column must hold. The message names file, line (or row) and column.
    """
    ending = path.name.removesuffix(".zst").rpartition(".")[2]
    raw = _READERS[f".{ending}"](content(path), path)
    names = [name for name in _find(raw.header, columns, path) if name is not None]
    places = [_place(raw.header, name, path) for name in names]
    texts: list[str] = []
    labels: list[Cell] = []
    groups: list[str] = []
    for number, (text, label, *group) in raw.rows(places):
        at = At(path, raw.unit, number)
        texts.append(_text(text, at, names[0]))
        labels.append(label_of(label, at, names[1], labels[0] if labels else None))
        groups += [_group(each, at, names[2]) for each in group]
    if not texts:
        raise DamagedFile(f"{path} has no rows; expected one for each text.")
    if columns.label is None and names[1] in labels:
        raise DamagedFile(
            f"{path} has no header, it seems: {names[1]!r} stands at the head of its labels "
            "and is one of them; add a first line such as text,label, or name the columns with "
            "--text_column and --label_column."
        )
    return Rows(tuple(texts), tuple(labels), tuple(groups), str(names[1]))


class At(NamedTuple):
    """A row of a file, for a message; rows are counted by `line` or `row`."""

    path: Path
    unit: str
    number: int

    def refuse(self, what: str, name: str, advice: str) -> DamagedFile:
        """Returns the error that says what is wrong in a column."""
        where = f"{'on' if self.unit == 'line' else 'in'} {self.unit} {self.number}"
        return DamagedFile(f"{self.path} has {what} in its column {name} {where}; {advice}.")


def _text(cell: Any, at: At, name: str) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise at.refuse("no text", name, "fill it or remove the row")
    if not isinstance(cell, str):
        raise at.refuse(f"{cell!r:.50} ({type(cell).__name__})", name, "expected text")
    if len(cell) > MOST_CHARACTERS:
        raise at.refuse(
            f"a text of more than {MOST_CHARACTERS:,} characters",
            name,
            "shorten it (only its last tokens are read)",
        )
    try:
        if not cell.isascii():
            cell.encode()
    except UnicodeEncodeError:
        raise at.refuse("half a character (a lone surrogate)", name, "write it again") from None
    return cell


def label_of(cell: Any, at: At, name: str, first: Cell = None) -> Cell:
    """Returns a label as it stands.

    Args:
        cell: what stands there.
        at: where.
        name: of its column.
        first: a label of the same column, which must be of the same kind.

    Raises:
        DamagedFile: it is missing, of another kind, or no text, number or boolean.
    """
    missing = cell is None or (isinstance(cell, str) and classes.is_missing(cell))
    if missing or (isinstance(cell, numbers.Real) and math.isnan(cell)):
        advice = "fill it, remove the row, or give the class another name"
        raise at.refuse(f"no value but {cell!r}" if cell else "no value", name, advice)
    if not isinstance(cell, (str, bool, int, float)):
        advice = "expected text, a number or true and false"
        raise at.refuse(f"{cell!r:.50} ({type(cell).__name__})", name, advice)
    if first is not None and classes.kind(first) != classes.kind(cell):
        advice = f"above it has {classes.kind(first)}s"
        raise at.refuse(f"the {classes.kind(cell)} {cell!r:.50}", name, advice)
    return cell


def _group(cell: Any, at: At, name: str) -> str:
    text = str(label_of(cell, at, name)).strip()
    if not text.isprintable() or len(text) > _LONGEST:
        advice = f"a group is named in one line of at most {_LONGEST} characters"
        raise at.refuse(f"{text!r:.100}", name, advice)
    return text


def _find(header: Sequence[str], columns: Columns, path: Path) -> list[str | None]:
    """Returns the names of the columns of texts, labels and groups."""
    if columns[:2] == (None, None) and {*STUDY[:2]} <= set(header):
        return [*STUDY[:2], columns.groups]
    given = [name for name in columns if name is not None]
    free = [name for name in header if name not in given]
    text = columns.text or _usual(free, TEXTS, path, "text")
    label = columns.label or _usual(free, LABELS, path, "label")
    if len(header) == 2 and (text is None) != (label is None):  # the other one
        other = next((name for name in free if name not in (text, label)), None)
        text, label = text or other, label or other
    for name, what, known in ((text, "text", TEXTS), (label, "label", LABELS)):
        if name is None:
            raise DamagedFile(
                f"{path} has no column called {', '.join(known[:4])} or the like: its columns are "
                f"{_shown(header)}; name the one of {what}s with --{what}_column."
            )
    if len({text, label, columns.groups}) < 3:
        raise DamagedFile(
            f"{path}: one column, {_shown(given)}, cannot be two things; give others."
        )
    return [text, label, columns.groups]


def _usual(free: Sequence[str], known: Sequence[str], path: Path, what: str) -> str | None:
    found = [name for name in dict.fromkeys(free) if name.strip().casefold() in known]
    if len(found) > 1:
        raise DamagedFile(
            f"{path} has the columns {_shown(found)}, and any of them may be the {what}; say which "
            f"with --{what}_column."
        )
    return found[0] if found else None


def _place(header: Sequence[str], column: str, path: Path) -> int:
    """Returns where a column is."""
    count = list(header).count(column)
    if count == 1:
        return list(header).index(column)
    if count:
        raise DamagedFile(
            f"{path} names the column {column} {count} times in its header; expected once: remove "
            "or rename the others."
        )
    near = [name for name in header if name.strip().casefold() == column.strip().casefold()]
    hint = f" ({near[0]!r} is spelled otherwise)" if near else ""
    raise DamagedFile(f"{path} has no column {column}{hint}: its columns are {_shown(header)}.")


def _shown(names: Sequence[str]) -> str:
    text = ", ".join(map(repr, names)) or "none"
    return text if len(text) <= 200 else f"{text[:200]}..."

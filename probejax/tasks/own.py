"""A user's own data: a file or a folder of files, and the tasks that are in them."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from probejax import foreign
from probejax.foreign import DamagedFile
from probejax.tasks import classes, columns, folder, registry
from probejax.tasks.classes import Classes
from probejax.tasks.columns import Columns, Rows
from probejax.tasks.content import MOST_BYTES
from probejax.tasks.folder import SHIFTED, Location

_RULES = "own 2"  # raise it when the same file makes other rows, labels or draws


@dataclasses.dataclass(frozen=True)
class Own:
    """Where own data are, and how to read them.

    Attributes:
        path: a file, or a folder of files; see `folder.files` for their names.
        text_column: holds the texts; None finds it, see `columns.TEXTS`.
        label_column: holds the labels; None finds it, see `columns.LABELS`.
        positive: the class whose label is 1, all others being 0.
        groups: column that says to which group a row belongs, for the regime `group_shift`.
    """

    path: Location
    text_column: str | None = None
    label_column: str | None = None
    positive: str | None = None
    groups: str | None = None

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.text_column, self.label_column, self.groups)


Data = Own | Location | None


class Member(NamedTuple):
    """A task of own data.

    Attributes:
        path: its file; None if only its shifted test set is one's own.
        positive: its positive class, against the rest; None if there are two classes.
        shifted: the file of its shifted test set, if there is one.
    """

    path: Path | None
    positive: str | None = None
    shifted: Path | None = None


class Read(NamedTuple):
    """What a task's file holds: texts, labels 0 and 1, what these are called, and groups if any."""

    texts: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, str]
    groups: tuple[str, ...]


def own(data: Data) -> Own | None:
    """Returns own data, whether given whole or as a path."""
    return data if data is None or isinstance(data, Own) else Own(data)


def members(data: Own | None) -> dict[str, Member]:
    """Returns the tasks of own data by name.

    A file of two classes is one task, called as the file is. Of a file with more, each class
    against the rest is a task `<file>=<class>`. A file that cannot be read is one task: `read` says
    what is wrong. The files of the study's tasks have two classes.

    Raises:
        FileNotFoundError, ValueError: as `folder.files`; or two tasks have one name.
    """
    files = {} if data is None else folder.files(data.path)
    found: dict[str, Member] = {}
    for stem in dict.fromkeys(stem.removesuffix(SHIFTED) for stem in files):
        path, shifted = files.get(stem), files.get(stem + SHIFTED)
        named: tuple[str, ...] = ()
        if data is not None and path is not None and stem not in registry.NAMES:
            named = _against_the_rest(path, data)
        made = {f"{stem}={each}": Member(path, each, shifted) for each in named}
        made = made or {stem: Member(path, None, shifted)}
        if twice := sorted(found.keys() & made):
            raise ValueError(
                f"{found[twice[0]].path} and {path} both make a task {twice[0]!r} (a file's "
                "name, or that of a file and a class); rename one of the files."
            )
        found |= made
    return found


def read(member: Member, data: Own) -> Read:
    """Reads the file of a task.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is not well-formed, or its labels do not make this task.
    """
    assert member.path is not None, "only its shifted test set is one's own"
    rows, found = _classes(member.path, data)
    with _naming(member.path, rows.label_column):
        made = classes.tasks(found, data.positive)
        positive = made[0] if member.positive is None else found.names.index(member.positive)
        if member.positive is None and len(made) > 1:
            _require_names(found.names[place] for place in made if place is not None)
            raise ValueError(
                f"has {len(made)} classes, and a task of the study, whose name it has, two: rename "
                "it, or name one of them with --positive"
            )
        return Read(rows.texts, *classes.binary(found, positive), rows.groups)


def read_shifted(member: Member, data: Own) -> Read:
    """Reads the shifted test set of a task, whose classes must be among the task's.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is not well-formed, or has a class that the task has not.
    """
    assert member.path is not None and member.shifted is not None, "the task has both"
    task, ungrouped = read(member, data), dataclasses.replace(data, groups=None)
    rows, found = _classes(member.shifted, ungrouped)
    _, known = _classes(member.path, data)
    with _naming(member.shifted, rows.label_column):
        names = [known.names[classes.place(known.names, name)] for name in found.names]
    ones = np.array([name == task.class_names[1] for name in names])
    return Read(rows.texts, ones[found.which].astype(np.int64), task.class_names, ())


def fingerprint(member: Member, data: Own) -> str:
    """Returns a hash of the task's files and of how they are read."""
    digest = hashlib.sha256(f"{_RULES} {data.columns} {data.positive} {member.positive}".encode())
    for path in (member.path, member.shifted):
        if path is not None:
            content = foreign.read_bytes(path, MOST_BYTES)
            digest.update(f"\n{path.name} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def _against_the_rest(path: Path, data: Own) -> tuple[str, ...]:
    """Returns the classes of a file that are tasks against the rest; none if it has but two."""
    try:
        return _names(path, data, foreign.state(path))
    except (ValueError, OSError):
        return ()


@functools.lru_cache(1024)
def _names(path: Path, data: Own, state: tuple[int, ...]) -> tuple[str, ...]:
    _, found = _classes(path, data)
    made = classes.tasks(found, data.positive)
    if len(found.names) == 2:
        return ()
    named = tuple(found.names[place] for place in made if place is not None)
    _require_names(named)
    return named


def _require_names(names: Iterable[str]) -> None:
    """Raises ValueError unless classes can name tasks."""
    if wrong := [each for each in names if not each.isprintable() or len(each) > 100]:
        raise ValueError(
            f"has the class {wrong[0]!r:.100}, which cannot name a task: rename it in at most 100 "
            "characters of one line, or name another class with --positive"
        )


def _classes(path: Path, data: Own) -> tuple[Rows, Classes]:
    return _read(path, data.columns, foreign.state(path))


@functools.lru_cache(2)  # the tasks of one file come one after the other
def _read(path: Path, wanted: Columns, state: tuple[int, ...]) -> tuple[Rows, Classes]:
    rows = columns.read(path, wanted)
    with _naming(path, rows.label_column):
        return rows, classes.classes(rows.labels)


@contextlib.contextmanager
def _naming(path: Path, column: str) -> Iterator[None]:
    """Puts the names of a file and its column before what is wrong with the classes there."""
    try:
        yield
    except DamagedFile:
        raise
    except ValueError as error:
        raise DamagedFile(f"{path}, column {column}, {error}.") from None

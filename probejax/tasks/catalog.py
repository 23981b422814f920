"""The study's 113 binary tasks and 8 shifted test sets, and a user's own tasks beside them."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probejax import artifacts
from probejax.tasks import own, registry
from probejax.tasks.columns import STUDY
from probejax.tasks.folder import SHIFTED, Location
from probejax.tasks.own import Data, Member, Own

_STUDY = Own("", *STUDY[:2])


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Prompts with binary labels.

    `labels` is a read-only int64 array [n] of zeros and ones. `truncated_source`: this source cuts
    the task's longer prompts to their first 8192 characters, so last-token activations differ from
    those of the full text. `source` is the file that the task was read from, if it was, and
    `class_names` what it calls labels 0 and 1. `groups` says to which group each prompt belongs, if
    the file has a column for it.
    """

    name: str
    prompts: tuple[str, ...]
    labels: np.ndarray
    truncated_source: bool
    source: str = ""
    class_names: tuple[str, str] = ("0", "1")
    groups: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ones = int(np.count_nonzero(self.labels == 1))
        where = f", from {self.source}" if self.source else ""
        cut = ", cut at 8192 characters" if self.truncated_source else ""
        return (
            f"Task({self.name!r}, {len(self.prompts):,} prompts: {len(self.labels) - ones:,} of "
            f"label 0 and {ones:,} of label 1{cut}{where})"
        )


def names(data: Data = None) -> tuple[str, ...]:
    """Returns the 113 names in the study's order, then the other tasks of own data, sorted."""
    return registry.NAMES + tuple(sorted(own.members(own.own(data)).keys() - {*registry.NAMES}))


def shifted_names(data: Data = None) -> tuple[str, ...]:
    """Returns the tasks that have a shifted test set: the study's 8, then those of own data."""
    mine = {name for name, each in own.members(own.own(data)).items() if each.shifted}
    return registry.SHIFTED + tuple(sorted(mine - {*registry.SHIFTED}))


def load(name: str, *, data: Data = None, cache_dir: Location | None = None) -> Task:
    """Loads one task.

    Args:
        name: one of `names(data)`.
        data: own data: a file, a folder of files, or an `Own`, which says how to read them. A file
            called as a task of the study takes its place; the others are tasks of their own.
        cache_dir: the cache folder, see `probejax.artifacts.cache_dir`.

    Returns:
        The task; label 1 is the class that sorts last, or the one that was chosen for it.

    Raises:
        ValueError: there is no such task, its file is not well-formed, or the name of a file will
            not do.
        FileNotFoundError: `data` does not exist.
        probejax.artifacts.ArtifactError: the study's tasks cannot be fetched.
    """
    _require(name, names(data), "task", "names")
    mine = own.own(data)
    member = own.members(mine).get(name)
    if mine is not None and member and member.path:
        return _task(name, member.path, own.read(member, mine))
    folder = artifacts.study_tasks(cache_dir) / "sae_probes" / "data"
    path = folder / "cleaned_data" / f"{name}.csv.zst"
    return _task(name, path, own.read(Member(path), _STUDY), name in registry.TRUNCATED)


def load_shifted(name: str, *, data: Data = None, cache_dir: Location | None = None) -> Task:
    """Loads the shifted test set of one task.

    Args:
        name: one of `shifted_names(data)`.
        data: as in `load`; the file is called `<file of the task>_OOD`.
        cache_dir: as in `load`.

    Returns:
        The shifted prompts and labels under the task's own name. The labels of the study's tasks
        are encoded on their own; those of others are the task's, by the names of its classes.

    Raises:
        ValueError: the task has no shifted test set, or its file is not well-formed.
        FileNotFoundError: `data` does not exist.
        probejax.artifacts.ArtifactError: the study's tasks cannot be fetched.
    """
    _require(name, shifted_names(data), "task with a shifted test set", "shifted_names")
    mine = own.own(data)
    path = (own.members(mine).get(name) or Member(None)).shifted
    if mine is not None and path:
        if name in registry.NAMES:
            ungrouped = dataclasses.replace(mine, groups=None)
            return _task(name, path, own.read(Member(path), ungrouped))
        return _task(name, path, own.read_shifted(own.members(mine)[name], mine))
    folder = artifacts.study_tasks(cache_dir) / "sae_probes" / "data"
    path = folder / "OOD data" / f"{name}{SHIFTED}.csv.zst"
    return _task(name, path, own.read(Member(path), _STUDY))


def fingerprint(name: str, *, data: Data = None) -> str:
    """Returns a hash of the task's own files; empty if they are the study's."""
    mine = own.own(data)
    member = own.members(mine).get(name)
    return own.fingerprint(member, mine) if mine is not None and member else ""


def where(name: str, *, data: Data = None) -> str:
    """Returns the task's own files in words; all of the data if it has none among them."""
    mine = own.own(data)
    member = own.members(mine).get(name) or Member(None)
    paths = [str(path) for path in (member.path, member.shifted) if path is not None]
    return " or ".join(paths) or ("the study's file" if mine is None else f"--data={mine.path}")


def match(patterns: Sequence[str], data: Data = None) -> tuple[str, ...]:
    """Returns the tasks that any of the patterns names, each once, in the order of `names`.

    Args:
        patterns: task names, globs such as `*_glue_*`, `demo`, `all`, or `own`: those of own data.
            What is the name of a task means that one, also if it holds `*`, `?` or brackets.
        data: as in `load`.

    Raises:
        ValueError: `patterns` is empty, or one of them names no task.
        FileNotFoundError: `data` does not exist.
    """
    known = names(data)
    groups: dict[str, tuple[str, ...]] = {"all": known, "demo": registry.DEMO}
    if (mine := own.own(data)) is not None:
        members = own.members(mine)
        groups["own"] = tuple(name for name in known if name in members)
        if "own" in patterns and not members:
            raise ValueError(f"--data={mine.path} holds no task: no file of its kinds.")
    if not patterns:
        raise ValueError(f"no task was named; give names, globs, or one of {', '.join(groups)}")
    chosen: set[str] = set()
    for pattern in patterns:
        exact = (pattern,) if pattern in known else groups.get(pattern)
        found = exact or [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            _require(pattern, known, "task", "names")
        chosen.update(found)
    return tuple(name for name in known if name in chosen)


def _task(name: str, path: Path, read: own.Read, truncated: bool = False) -> Task:
    read.labels.flags.writeable = False
    return Task(name, read.texts, read.labels, truncated, str(path), read.class_names, read.groups)


def _require(name: str, known: tuple[str, ...], what: str, listing: str) -> None:
    if name in known:
        return
    containing = [other for other in known if name and name.casefold() in other.casefold()]
    close = (sorted(containing, key=len) + difflib.get_close_matches(name, known, n=3))[:3]
    # As they are written in a list: a comma would cut a name in two.
    shown = [f'"{other}"' if "," in other else other for other in dict.fromkeys(close)]
    quoted = " (with the quotes, for its comma)" if any("," in each for each in shown) else ""
    hint = f"did you mean {' or '.join(shown)}{quoted}? " if close else ""
    raise ValueError(
        f"there is no {what} {name!r}; {hint}probejax.tasks.{listing}() lists all {len(known)}"
    )

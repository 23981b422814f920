"""The study's 113 binary tasks and 8 shifted test sets, and a user's own tasks beside them."""

import difflib
import fnmatch
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probejax import artifacts
from probejax.tasks import csv_files, registry

Location = str | os.PathLike[str]

_SHIFTED_SUFFIX = "_OOD"  # the study's own file names, so that its data folder serves as tasks_dir


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts with binary labels.

    `labels` is a read-only int64 array [n] of zeros and ones. `truncated_source`: this source cuts
    the task's longer prompts to their first 8192 characters, so last-token activations differ from
    those of the full text.
    """

    name: str
    prompts: tuple[str, ...]
    labels: np.ndarray
    truncated_source: bool


def names(tasks_dir: Location | None = None) -> tuple[str, ...]:
    """Returns the 113 names in the study's order, then the other tasks of `tasks_dir`, sorted."""
    return registry.NAMES + _own(tasks_dir, registry.NAMES, shifted=False)


def shifted_names(tasks_dir: Location | None = None) -> tuple[str, ...]:
    """Returns the tasks that have a shifted test set: the study's 8, then those of `tasks_dir`."""
    return registry.SHIFTED + _own(tasks_dir, registry.SHIFTED, shifted=True)


def load(
    name: str, *, tasks_dir: Location | None = None, cache_dir: Location | None = None
) -> Task:
    """Loads one task.

    Args:
        name: one of `names(tasks_dir)`.
        tasks_dir: a folder of `<name>.csv` files (columns `prompt` and `target`). A file there
            takes the place of the study's, and may add a task that the study does not have.
        cache_dir: the cache folder, see `probejax.artifacts.cache_dir`.

    Returns:
        The task; label 1 is the target that sorts last.

    Raises:
        ValueError: there is no such task, or its file is not a well-formed task of two classes.
        NotADirectoryError: `tasks_dir` is not a folder.
        probejax.artifacts.ArtifactError: the study's tasks cannot be fetched.
    """
    _require(name, names(tasks_dir), "task", "names")
    if own := _own_file(name, tasks_dir):
        return _read(name, own, truncated=False)
    data = artifacts.study_tasks(cache_dir) / "sae_probes" / "data"
    path = data / "cleaned_data" / f"{name}.csv.zst"
    return _read(name, path, truncated=name in registry.TRUNCATED)


def load_shifted(
    name: str, *, tasks_dir: Location | None = None, cache_dir: Location | None = None
) -> Task:
    """Loads the shifted test set of one task; its labels are encoded on their own.

    Args:
        name: one of `shifted_names(tasks_dir)`.
        tasks_dir: as in `load`; the file is called `<name>_OOD.csv`.
        cache_dir: as in `load`.

    Returns:
        The shifted prompts and labels under the task's own name.

    Raises:
        ValueError: the task has no shifted test set, or its file is not well-formed.
        NotADirectoryError: `tasks_dir` is not a folder.
        probejax.artifacts.ArtifactError: the study's tasks cannot be fetched.
    """
    _require(name, shifted_names(tasks_dir), "task with a shifted test set", "shifted_names")
    if own := _own_file(name + _SHIFTED_SUFFIX, tasks_dir):
        return _read(name, own, truncated=False)
    data = artifacts.study_tasks(cache_dir) / "sae_probes" / "data"
    return _read(name, data / "OOD data" / f"{name}{_SHIFTED_SUFFIX}.csv.zst", truncated=False)


def fingerprint(name: str, *, tasks_dir: Location | None = None) -> str:
    """Returns a hash of the task's files in `tasks_dir`; empty if both sets are the study's."""
    stems = (name, name + _SHIFTED_SUFFIX)
    own = [path for stem in stems if (path := _own_file(stem, tasks_dir))]
    found = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in own]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] if found else ""


def match(patterns: Sequence[str], tasks_dir: Location | None = None) -> tuple[str, ...]:
    """Returns the tasks that any of the patterns names, each once, in the order of `names`.

    Args:
        patterns: task names, globs such as `*_glue_*`, `demo`, `all`, or `own`: those that have a
            file in `tasks_dir`.
        tasks_dir: as in `load`.

    Raises:
        ValueError: `patterns` is empty, or one of them names no task.
        NotADirectoryError: `tasks_dir` is not a folder.
    """
    known = names(tasks_dir)
    groups = {"all": known, "demo": registry.DEMO}
    if tasks_dir is not None:
        groups["own"] = tuple(name for name in known if _own_file(name, tasks_dir))
    if not patterns:
        raise ValueError(f"no task was named; give names, globs, or one of {', '.join(groups)}")
    chosen: set[str] = set()
    for pattern in patterns:
        found = groups.get(pattern) or fnmatch.filter(known, pattern)
        if not found:
            _require(pattern, known, "task", "names")
        chosen.update(found)
    return tuple(name for name in known if name in chosen)


def _own(tasks_dir: Location | None, listed: tuple[str, ...], shifted: bool) -> tuple[str, ...]:
    if tasks_dir is None:
        return ()
    folder = Path(tasks_dir)
    if not folder.is_dir():
        raise NotADirectoryError(
            f"tasks_dir {folder} is not a folder; expected a folder of <name>.csv files with the "
            f"columns {' and '.join(csv_files.COLUMNS)}"
        )
    stems = (path.stem for path in folder.glob("*.csv"))
    own = {s.removesuffix(_SHIFTED_SUFFIX) for s in stems if s.endswith(_SHIFTED_SUFFIX) == shifted}
    return tuple(sorted(own.difference(listed)))


def _own_file(stem: str, tasks_dir: Location | None) -> Path | None:
    path = Path(tasks_dir, f"{stem}.csv") if tasks_dir is not None else None
    return path if path and path.is_file() else None


def _read(name: str, path: Path, truncated: bool) -> Task:
    prompts, labels = csv_files.read(path)
    labels.flags.writeable = False
    return Task(name, prompts, labels, truncated)


def _require(name: str, known: tuple[str, ...], what: str, listing: str) -> None:
    if name in known:
        return
    containing = [other for other in known if name and name.casefold() in other.casefold()]
    close = (containing + difflib.get_close_matches(name, known, n=3))[:3]
    hint = f"did you mean {' or '.join(dict.fromkeys(close))}? " if close else ""
    raise ValueError(
        f"there is no {what} {name!r}; {hint}probejax.tasks.{listing}() lists all {len(known)}"
    )

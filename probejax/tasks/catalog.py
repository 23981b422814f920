"""The study's 113 binary tasks and 8 shifted test sets, and a user's own tasks beside them."""

import difflib
import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probejax import artifacts, foreign
from probejax.tasks import csv_files, folder, registry
from probejax.tasks.folder import Location


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Prompts with binary labels.

    `labels` is a read-only int64 array [n] of zeros and ones. `truncated_source`: this source cuts
    the task's longer prompts to their first 8192 characters, so last-token activations differ from
    those of the full text. `source` is the file that the task was read from, if it was, and
    `class_names` what it calls labels 0 and 1.
    """

    name: str
    prompts: tuple[str, ...]
    labels: np.ndarray
    truncated_source: bool
    source: str = ""
    class_names: tuple[str, str] = ("0", "1")

    def __repr__(self) -> str:
        ones = int(np.count_nonzero(self.labels == 1))
        where = f", from {self.source}" if self.source else ""
        cut = ", cut at 8192 characters" if self.truncated_source else ""
        return (
            f"Task({self.name!r}, {len(self.prompts):,} prompts: {len(self.labels) - ones:,} of "
            f"label 0 and {ones:,} of label 1{cut}{where})"
        )


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
        tasks_dir: a folder of `<name>.csv` files (columns `prompt` and `target`), or such files
            packed as `<name>.csv.zst`. A file there takes the place of the study's, and may add a
            task that the study does not have.
        cache_dir: the cache folder, see `probejax.artifacts.cache_dir`.

    Returns:
        The task; label 1 is the target that sorts last.

    Raises:
        ValueError: there is no such task, its file is not a well-formed task of two classes, or the
            name of a file in `tasks_dir` will not do.
        NotADirectoryError: `tasks_dir` is not a folder.
        probejax.artifacts.ArtifactError: the study's tasks cannot be fetched.
    """
    _require(name, names(tasks_dir), "task", "names")
    if own := folder.files(tasks_dir).get(name):
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
    if own := folder.files(tasks_dir).get(name + folder.SHIFTED):
        return _read(name, own, truncated=False)
    data = artifacts.study_tasks(cache_dir) / "sae_probes" / "data"
    return _read(name, data / "OOD data" / f"{name}{folder.SHIFTED}.csv.zst", truncated=False)


def fingerprint(name: str, *, tasks_dir: Location | None = None) -> str:
    """Returns a hash of the task's files in `tasks_dir`; empty if both sets are the study's."""
    own = folder.files(tasks_dir)
    paths = [own[stem] for stem in (name, name + folder.SHIFTED) if stem in own]
    read = lambda path: foreign.read_bytes(path, csv_files.MOST_BYTES)
    found = [f"{path.name} {hashlib.sha256(read(path)).hexdigest()}" for path in paths]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] if found else ""


def match(patterns: Sequence[str], tasks_dir: Location | None = None) -> tuple[str, ...]:
    """Returns the tasks that any of the patterns names, each once, in the order of `names`.

    Args:
        patterns: task names, globs such as `*_glue_*`, `demo`, `all`, or `own`: those that have a
            file in `tasks_dir`. What is the name of a task means that one, also if it holds `*`,
            `?` or brackets.
        tasks_dir: as in `load`.

    Raises:
        ValueError: `patterns` is empty, or one of them names no task.
        NotADirectoryError: `tasks_dir` is not a folder.
    """
    known = names(tasks_dir)
    groups: dict[str, tuple[str, ...]] = {"all": known, "demo": registry.DEMO}
    if tasks_dir is not None:
        own = {stem.removesuffix(folder.SHIFTED) for stem in folder.files(tasks_dir)}
        groups["own"] = tuple(name for name in known if name in own)
        if "own" in patterns and not own:
            raise ValueError(f"{tasks_dir} holds no task: expected <name>.csv files.")
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


def _own(tasks_dir: Location | None, listed: tuple[str, ...], shifted: bool) -> tuple[str, ...]:
    names = (n for n in folder.files(tasks_dir) if n.endswith(folder.SHIFTED) == shifted)
    own = {name.removesuffix(folder.SHIFTED) for name in names}
    return tuple(sorted(own.difference(listed)))


def _read(name: str, path: Path, truncated: bool) -> Task:
    prompts, labels, class_names = csv_files.read(path)
    labels.flags.writeable = False
    return Task(name, prompts, labels, truncated, str(path), class_names)


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

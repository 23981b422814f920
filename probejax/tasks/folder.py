"""The task files that a user has: which task each one is, and which names cannot be."""

import os
from pathlib import Path

from probejax.tasks import registry
from probejax.tasks.columns import ENDINGS

Location = str | os.PathLike[str]

GROUPS = ("all", "demo", "own")  # what stands for several tasks, so that no task can be called so
SHIFTED = "_OOD"  # the study's own file names, so that its data folder serves as data


def files(data: Location) -> dict[str, Path]:
    """Returns task files by their names without the ending, sorted.

    A file is named `<task>.csv` (or another of `columns.ENDINGS`), or `<task>_OOD.csv` for the
    shifted test set. Of a folder, hidden files are no tasks, nor are files with other endings. What
    is there is not opened.

    Args:
        data: one file, or a folder of files.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a file's name would be lost or mean two things; the message says how to rename.
    """
    data = Path(data)
    if data.is_dir():
        paths = sorted(path for path in data.iterdir() if not path.name.startswith("."))
    elif not os.path.lexists(data):
        raise FileNotFoundError(
            f"--data={data} is neither a file nor a folder; expected {_endings()}, or a folder of "
            "such files."
        )
    elif not (ending := _ending(data.name)):
        raise ValueError(f"--data={data}: of what kind it is, its name must say: {_endings()}.")
    else:
        shifted = data.name[: -len(ending)] + SHIFTED
        beside = (data.with_name(shifted + end) for end in ENDINGS)
        paths = [data, *(path for path in beside if path.exists())]
    found: dict[str, Path] = {}
    for path in paths:
        if ending := _ending(path.name):
            name = path.name[: -len(ending)]
            if reason := _unfit(name, path, ending, found):
                raise ValueError(f"{str(path)!r} cannot be a task file: {reason}.")
            found[name] = path
    for name, path in found.items():
        task = name.removesuffix(SHIFTED)
        if name != task and task not in found and task not in registry.NAMES:
            raise ValueError(
                f"{str(path)!r} is the shifted test set of a task {task!r}, but there is no "
                f"{task}.csv beside it; add that, or rename the file."
            )
    return found


def _ending(name: str) -> str | None:
    fits = [end for end in ENDINGS if name.casefold().endswith(end)]
    return max(fits, key=len, default=None)


def _endings() -> str:
    return f"a file in {', '.join(end for end in ENDINGS if end[-4:] != '.zst')} (or .zst of these)"


def _unfit(name: str, path: Path, ending: str, found: dict[str, Path]) -> str | None:
    """Says why a name cannot be a task's, None if it can."""
    if not path.name.endswith(ending):
        return f"its name ends in {path.name[-len(ending) :]}; rename it to {name}{ending}"
    if name in GROUPS:
        return f"`{name}` means several tasks; rename it"
    if name in found:
        return f"{found[name].name} would be the same task; rename or remove one of them"
    if not name.isprintable() or name != name.strip():
        return "its name has spaces at an end, or characters that cannot be shown; rename it"
    return None

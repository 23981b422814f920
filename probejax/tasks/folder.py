"""The task files in a user's folder: which task each one is, and which names cannot be."""

import os
from pathlib import Path

from probejax.tasks import csv_files, registry

Location = str | os.PathLike[str]

GROUPS = ("all", "demo", "own")  # what stands for several tasks, so that no task can be called so
SHIFTED = "_OOD"  # the study's own file names, so that its data folder serves as tasks_dir
_ENDINGS = (".csv", ".csv.zst")


def files(tasks_dir: Location | None) -> dict[str, Path]:
    """Returns the task files of a folder by their names without the ending, sorted.

    A file is named `<task>.csv` or `<task>.csv.zst`, or `<task>_OOD.csv` for the shifted test set.
    Hidden files are no tasks, nor are files with other endings. What is there is not opened.

    Args:
        tasks_dir: the folder; without one there is no file.

    Raises:
        NotADirectoryError: `tasks_dir` is not a folder.
        ValueError: a file's name would be lost or mean two things; the message says how to rename.
    """
    if tasks_dir is None:
        return {}
    folder = Path(tasks_dir)
    if not folder.is_dir():
        raise NotADirectoryError(
            f"tasks_dir {folder} is not a folder; expected a folder of <name>.csv files with the "
            f"columns {' and '.join(csv_files.COLUMNS)}"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((end for end in _ENDINGS if path.name.casefold().endswith(end)), None)
        if ending is None or path.name.startswith("."):
            continue
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

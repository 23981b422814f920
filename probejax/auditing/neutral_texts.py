"""Neutral texts, on whose tokens the direction of a probe is looked at; JAX is not imported."""

from collections.abc import Collection
from pathlib import Path

from probejax import foreign, tasks
from probejax.tasks import Own, folder
from probejax.tasks.content import MOST_BYTES

_EACH = 10  # prompts of every other task


def read(place: str | Path) -> tuple[str, ...]:
    """Returns the texts of a file or of all files of a folder.

    Args:
      place: `.txt` files hold a text per line; all others are read as `--data` is.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or no text in it.
    """
    path = Path(place)
    plain = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.suffix == ".txt" else []
    found: dict[str, None] = {}
    for each in plain:
        foreign.require_regular(each)
        with foreign.parsing(each, "write it as UTF-8"):
            lines = foreign.read_bytes(each, MOST_BYTES).decode("utf-8-sig").splitlines()
        found |= dict.fromkeys(line for line in lines if line.strip())
    own = Own(path)
    if not plain or (path.is_dir() and folder.files(path)):
        for name in tasks.match(("own",), own):
            found |= dict.fromkeys(tasks.load(name, data=own).prompts)
    if not found:
        raise ValueError(f"--corpus={place} holds no text; give a file with a text per line.")
    return tuple(found)


def of_other_tasks(
    audited: Collection[str], cache_dir: str | Path | None = None
) -> tuple[str, ...]:
    """Returns the first prompts of each of the study's tasks, but for those that are audited.

    Args:
      audited: names of tasks; a task of the same name but for what follows its last `_` is left
        out, too.
      cache_dir: where the study's tasks are.
    """
    families = {name.split("_", 1)[-1].rpartition("_")[0] for name in audited} - {""}
    found: dict[str, None] = {}
    for name in tasks.names():
        if name in audited or name.split("_", 1)[-1].rpartition("_")[0] in families:
            continue
        prompts = tasks.load(name, cache_dir=cache_dir).prompts
        found |= dict.fromkeys(list(dict.fromkeys(prompts[: 4 * _EACH]))[:_EACH])
    return tuple(found)

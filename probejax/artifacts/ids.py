"""What was typed where a path or an id of the Hub is expected: telling them apart, and slips."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

_CLOSE = 0.8  # share of letters that a slip leaves in place


def local_path(text: str) -> Path:
    """Returns the path that a text means on this disk, `~` written out where that is somebody's.

    Raises:
      FileNotFoundError: there is none, and it holds a character that no name on the Hub has.
    """
    path = Path(os.path.expanduser(text))
    if not text.isprintable() and not exists(path):
        raise FileNotFoundError(f"There is no {text!r} here, and no model or SAE has such a name.")
    return path


def exists(path: Path | str) -> bool:
    """Says whether there is such a path; what cannot be one, or cannot be looked at, is none."""
    return os.path.exists(path)


def is_path(text: str) -> bool:
    """Says whether a text can be nothing but a path on the disk."""
    return text.startswith((".", "/", "~")) or bool(re.match(r"[A-Za-z]:|.*\\", text))


def no_such_path(text: str) -> str:
    """Returns, as the end of a sentence, where a path leaves what is on the disk."""
    path = local_path(text)
    there = next((p for p in path.parents if exists(p)), Path("."))
    first = path.relative_to(there).parts[0]
    if not there.is_dir():
        return f"{there} is a file and holds no {first}."
    try:
        names = sorted(each.name for each in there.iterdir())
    except OSError as error:
        return f"the folder {there} cannot be read ({error.strerror})."
    near = difflib.get_close_matches(first, names, 1, _CLOSE)
    return f"there is no {there / first}{f'; did you mean {there / near[0]}?' if near else '.'}"


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence that offers the nearest known names, or nothing.

    Args:
        text: what was typed; with an owner in front or without.
        known: what may be typed, compared by the last part where `text` has no owner.
    """
    last = {name if "/" in text else name.rpartition("/")[2]: name for name in known}
    near = difflib.get_close_matches(text, last, 3, _CLOSE)
    return f"; did you mean {' or '.join(last[name] for name in near)}?" if near else ""

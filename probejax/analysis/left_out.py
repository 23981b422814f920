"""What a report leaves out: a part that cannot be made costs a line, and no other part."""

from collections.abc import Callable
from typing import TypeVar

from probejax import foreign, storage

T = TypeVar("T")


def attempt(left_out: list[str], what: str, make: Callable[[], T]) -> T | None:
    """Returns what `make` makes; if it raises, None, and a line more in `left_out`.

    Args:
        left_out: one sentence per part that could not be made.
        what: the part, as a reader knows it.
        make: makes it; its error says why it cannot.

    Raises:
        StorageError: the folder cannot be written, which no other part could either.
    """
    try:
        return make()
    except storage.StorageError:
        raise
    except Exception as error:  # results come from anywhere, and the tables must come in any case
        line = f"Left out: {what} ({foreign.reason(error)})."
        if line not in left_out:
            left_out.append(line)
        return None

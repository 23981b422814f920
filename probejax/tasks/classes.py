"""From labels as they stand in a file to classes, and from classes to tasks of two labels."""

import decimal
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

Cell = str | bool | int | float | None
MOST_CLASSES = 20  # of which each becomes a task, against the rest

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?", re.ASCII)
_MISSING = {"", "nan", "null", "none", "na", "n/a", "#n/a", "<na>"}
_SHOWN = 5  # classes in a message


class Classes(NamedTuple):
    """The different labels of a file.

    Attributes:
        names: as they are spelled, in their order: numbers by value, all else alphabetically.
        which: int64 [n], the class of each row.
    """

    names: tuple[str, ...]
    which: Int[np.ndarray, " n"]


def is_missing(target: str) -> bool:
    """Tells whether a target is empty or how spreadsheets and data frames spell a missing value."""
    return target.strip().casefold() in _MISSING


def kind(cell: Cell) -> str:
    """Returns what a label is: `text`, `boolean` or `number`."""
    if isinstance(cell, str):
        return "text"
    return "boolean" if isinstance(cell, bool) else "number"


def classes(labels: Sequence[Cell]) -> Classes:
    """Returns the classes of labels that are all of one kind.

    Texts that are all numbers count by value: `1` and `1.0` are one class, `9` sorts before `10`.
    All other texts count as they are spelled.

    Raises:
        ValueError: two classes differ in case, spaces or the form of their letters alone.
    """
    values = _values(labels)
    spelled: dict = {}
    for value, label in zip(values, labels, strict=True):
        spelled.setdefault(value, str(label))  # as it is spelled first
    order = {value: place for place, value in enumerate(sorted(spelled, key=in_order))}
    names = tuple(spelled[value] for value in order)
    which = np.array([order[value] for value in values], np.int64)
    if len({_plain(name) for name in names}) < len(names):
        raise ValueError(
            f"has {_shown(Classes(names, which))}, and some of these differ only in case or "
            "spaces: spell them alike"
        )
    return Classes(tuple(name.strip() for name in names), which)


def in_order(value: Any) -> Any:
    """Returns the key by which classes are sorted: texts by their letters, of whatever case."""
    return (value.casefold(), value) if isinstance(value, str) else value


def _values(labels: Sequence[Cell]) -> Sequence:
    """Returns what labels are compared and sorted by."""
    texts = [label.strip() for label in labels if isinstance(label, str)]
    if texts and all(_NUMBER.fullmatch(text) for text in texts):
        return [decimal.Decimal(text) for text in texts]
    return labels


def tasks(found: Classes, positive: str | None) -> tuple[int | None, ...]:
    """Returns the tasks that classes make: of each the positive class, None for the larger of two.

    Two classes are one task. Of more, each is a task against the rest, or `positive` alone is.

    Args:
        found: the classes.
        positive: the class whose label is 1, as it is spelled.

    Raises:
        ValueError: there are fewer than two classes, too many, or none is called `positive`.
    """
    count = len(found.names)
    if count < 2:
        raise ValueError(f"has {_shown(found)}; expected two or more")
    if positive is not None:
        return (place(found.names, positive),)
    if count == 2:
        return (None,)
    if count > MOST_CLASSES:
        numeric = all(_NUMBER.fullmatch(name) for name in found.names)
        raise ValueError(
            f"has {_shown(found)}, more than {MOST_CLASSES}"
            + (": these look like measurements, and a probe tells two classes apart; cut them at a "
               "threshold" if numeric else "; join some")
            + ", or name one of them with --positive to have it against the rest"
        )  # fmt: skip
    return tuple(range(count))


def place(names: Sequence[str], wanted: str) -> int:
    """Returns which class is meant; numbers may be spelled otherwise.

    Raises:
        ValueError: none is.
    """
    same = (lambda a, b: a == b.strip(), lambda a, b: _plain(a) == _plain(b), _equal_numbers)
    for equal in same:
        if found := [i for i, name in enumerate(names) if equal(name, wanted)]:
            return found[0]
    shown = ", ".join(map(repr, names[:_SHOWN])) + ", ..." * (len(names) > _SHOWN)
    raise ValueError(f"has no class {wanted!r}; its classes are {shown}")


def binary(found: Classes, positive: int | None) -> tuple[Int[np.ndarray, " n"], tuple[str, str]]:
    """Returns int64 labels, 1 for the positive class, and what labels 0 and 1 are called."""
    positive = 1 if positive is None else positive
    one = found.names[positive]
    zero = found.names[1 - positive] if len(found.names) == 2 else f"not {one}"
    return (found.which == positive).astype(np.int64), (zero, one)


def _equal_numbers(one: str, other: str) -> bool:
    texts = (one.strip(), other.strip())
    if not all(_NUMBER.fullmatch(text) for text in texts):
        return False
    return decimal.Decimal(texts[0]) == decimal.Decimal(texts[1])


def _shown(found: Classes) -> str:
    counts = np.bincount(found.which, minlength=len(found.names))
    shown = [f"{n!r} x {c:,}" for n, c in zip(found.names[:_SHOWN], counts, strict=False)]
    count = len(found.names)
    return (
        f"{count:,} class{'' if count == 1 else 'es'} "
        f"({', '.join(shown)}{', ...' * (count > _SHOWN)})"
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()

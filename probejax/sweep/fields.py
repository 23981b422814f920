"""What a field of a configuration may be given as, by its type."""

import numbers
import os
import types
import typing
from typing import Any

_SAID = {str: "text", int: "a whole number", bool: "True or False"}


def taken(name: str, kind: Any, value: Any) -> Any:
    """Returns a value as its field holds it: one where several may stand becomes a tuple of one.

    Args:
      name: of the field.
      kind: its type: `str`, `int` or `bool`, or a tuple of any number of these; perhaps or None.
      value: as it was given.

    Raises:
      ValueError: it is of another type.
    """
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    (kind,) = (option for option in options if option is not type(None))
    several = typing.get_origin(kind) is tuple
    one = typing.get_args(kind)[0] if several else kind
    given = value if several and isinstance(value, list | tuple | range) else (value,)
    found = tuple(_one(one, each) for each in given)
    if None in found:
        more = ", or several in a tuple" if several else ""
        array = hasattr(value, "dtype") and not isinstance(value, type)
        shown = f"<{type(value).__name__}>" if array else f"{value!r:.60}"
        path = " (an array belongs in a file: give its path)" if array else ""
        raise ValueError(f"--{name}={shown} is of a wrong type; give {_SAID[one]}{more}{path}.")
    return found if several else found[0]


def _one(kind: type, value: Any) -> str | int | bool | None:
    """Returns a single value, a path as its text; None if it is of another type."""
    if kind is str:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        return value if isinstance(value, str) else None
    if kind is bool:
        return value if isinstance(value, bool) else None
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(value) if whole else None

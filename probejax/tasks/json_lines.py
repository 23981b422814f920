"""Reads JSON Lines: an object a line, all with the same keys."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from probejax import foreign
from probejax.foreign import DamagedFile
from probejax.tasks.content import Raw, text


class _Constant(NamedTuple):
    """`NaN` or an infinity, which is no JSON; many programs write it where a number is missing."""

    name: str


def read(data: bytes, path: Path) -> Raw:
    """Reads a table of objects; the keys of the first one are its header.

    Raises:
        DamagedFile: the text is not UTF-8, or a line is no JSON object, repeats a key, has other
            keys than the first, or NaN in a column that is read; the message says which line. Blank
            lines may stand at the end only.
    """
    lines = text(data, path).split("\n")  # not splitlines: U+2028 may stand inside a string
    while lines and not lines[-1].strip():
        lines.pop()
    header = list(_object(lines[0], 1, path)) if lines else []

    def cells(places: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
        wanted, keys = [header[place] for place in places], set(header)
        for number, line in enumerate(lines, start=1):
            found = _object(line, number, path)
            if found.keys() != keys:
                key = min(found.keys() ^ keys)
                has = "lacks" if key in keys else "has"
                raise DamagedFile(
                    f"{path} {has} the key {key!r} on line {number}, unlike its first line; "
                    "expected the same keys on every line."
                )
            for key in wanted:
                if isinstance(found[key], _Constant):
                    raise DamagedFile(
                        f"{path} has {found[key].name} in its column {key} on line {number}, which "
                        "is no JSON; a missing value has no place there."
                    )
            yield number, [found[key] for key in wanted]

    return Raw("line", header, cells)


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_pairs, parse_constant=_Constant)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(
            f"{path} has no JSON object on line {number} ({foreign.reason(error)}); expected one "
            "object on each line."
        ) from None
    if not isinstance(found, dict):
        raise DamagedFile(
            f"{path} has a {type(found).__name__} on line {number}; expected one object on each "
            'line, such as {"text": "...", "label": 1}.'
        )
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it repeats the key {next(k for k in keys if keys.count(k) > 1)!r}")
    return found

"""A user's ranking of latents, the best first: what to keep; JAX is not imported."""

import numbers
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from probejax import foreign
from probejax.tasks import content, csv_files

MOST = 64
_COLUMN = "latent"
_MOST_BYTES = 1 << 20


def read(place: str | Path) -> tuple[int, ...]:
    """Returns the latents of a file, the best first.

    Args:
      place: a file with the number of a latent per line, or CSV with a column called `latent`, such
        as `shifted_latents.csv` of an audit, put in another order.

    Raises:
      OSError: as `open` does.
      ValueError: it names no latent, one twice, more than `MOST`, or what is no number.
    """
    path = Path(place)
    data = foreign.read_bytes(path, _MOST_BYTES)
    lines = content.text(data, path).splitlines()
    header = [cell.strip().strip('"') for cell in lines[0].split(",")] if lines else []
    if _COLUMN in header:
        found = csv_files.read(data, path)
        names = [name.strip() for name in found.header]
        if _COLUMN not in names:
            raise ValueError(
                f"--keep={place}: its columns are {', '.join(map(repr, names)):.200}; expected one "
                f"called {_COLUMN}."
            )
        at = names.index(_COLUMN)
        cells = [(number, str(cell)) for number, (cell,) in found.rows([at])]
    else:
        cells = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for number, cell in cells:
        if not re.fullmatch(r"[0-9]{1,9}", cell.strip()):
            raise ValueError(
                f"--keep={place}, line {number}: {cell.strip()!r:.80} is not the number of a "
                f"latent; give one per line, the best first, or CSV with a column {_COLUMN}."
            )
    return ranking([int(cell) for _, cell in cells], f"--keep={place}")


def ranking(latents: Iterable[Any], where: str) -> tuple[int, ...]:
    """Returns latents as whole numbers, once each has been looked at.

    Args:
      latents: the best first.
      where: they were given, for the message.

    Raises:
      ValueError: there is none, one stands there twice, is no number from 0 on, or they are more
        than `MOST`.
    """
    found = list(latents)
    if wrong := [each for each in found if not _is_number(each)]:
        raise ValueError(f"{where} names {wrong[0]!r:.80}; expected numbers of latents, from 0 on.")
    found = [int(each) for each in found]
    if not found:
        raise ValueError(f"{where} names no latent; give the number of one at least.")
    if len(set(found)) < len(found):
        twice = next(each for place, each in enumerate(found) if each in found[:place])
        raise ValueError(f"{where} names latent {twice} twice; give each once, the best first.")
    if len(found) > MOST:
        raise ValueError(f"{where} names {len(found):,} latents; give the best {MOST} at most.")
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 0


def check(latents: tuple[int, ...], width: int, where: str) -> None:
    """Raises ValueError for a latent that an SAE of so many latents does not have."""
    if absent := [each for each in latents if each >= width]:
        raise ValueError(
            f"{where} names latent {absent[0]}, and the SAE has those from 0 to {width - 1}."
        )

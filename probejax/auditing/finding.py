"""What an audit finds: claims, each with what chance gives, and the tables behind them."""

from typing import NamedTuple

import pandas as pd

from probejax.analysis.drawing import Picture


class Claim(NamedTuple):
    """A number that is claimed of a dataset.

    Attributes:
      text: what it is, as a reader knows it.
      value: the number; NaN where it cannot be had.
      by_chance: the same where there is nothing to find; NaN if there is no such number.
      digits: of the two, when they are shown; 0 for counts.
      chance: how that was made; empty if it was not.
    """

    text: str
    value: float
    by_chance: float
    digits: int = 3
    chance: str = "labels permuted"


class Table(NamedTuple):
    """A table behind a finding.

    Attributes:
      name: of its file, without the ending.
      heading: what it shows.
      rows: all of them, the most telling first; a page shows the first.
      note: what a reader must know of it.
      ending: of its file: `csv` for a spreadsheet, in which text that would run as a formula has an
        apostrophe before it, or `jsonl` for a program, in which text is as it was.
    """

    name: str
    heading: str
    rows: pd.DataFrame
    note: str = ""
    ending: str = "csv"


class Finding(NamedTuple):
    """One kind of fault that was looked for.

    Attributes:
      name: in addresses and in code.
      title: as a heading.
      method: how it was looked for, in a few sentences.
      claims: what was found, in numbers.
      tables: what is behind them.
      notes: what could not be looked at, and what was cut, a sentence each.
      pictures: of what was found, by the names of their files, without the ending.
    """

    name: str
    title: str
    method: str
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[tuple[str, Picture], ...] = ()

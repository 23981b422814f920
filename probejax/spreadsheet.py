"""Tables as CSV that a spreadsheet may open: no text in them is taken for a formula and run."""

import re
from csv import QUOTE_MINIMAL, QUOTE_NONNUMERIC

import pandas as pd
import pyarrow as pa
from pyarrow import csv

# What a spreadsheet takes for a formula at the beginning of a cell (OWASP, CSV injection), behind
# the apostrophes that keep it from doing so.
_FORMULA = "'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"


def encode_csv(table: pd.DataFrame, *, quoted: bool = False) -> bytes:
    """Returns a table as CSV: floats exact, and no text that a spreadsheet takes for a formula.

    Text that begins like a formula gets an apostrophe before it, which `plain_text` takes off.
    Numbers stay as they are.

    Args:
        table: without its index.
        quoted: all text in quotes. That is for a million rows, for which pandas takes a minute.
    """
    table = table.assign(**{str(name): _harmless(column) for name, column in table.items()})
    if not quoted:
        # Python leaves a carriage return bare, at which readers begin a new row.
        bare = any("\r" in text for _, column in table.items() for text in _texts(column))
        style = QUOTE_NONNUMERIC if bare else QUOTE_MINIMAL
        return table.to_csv(index=False, quoting=style).encode()
    sink = pa.BufferOutputStream()
    sink.write((",".join(table.columns) + "\n").encode())
    options = csv.WriteOptions(include_header=False)
    csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), sink, options)
    return sink.getvalue().to_pybytes()


def _harmless(column: pd.Series) -> pd.Series:
    formulas = [text for text in _texts(column) if re.match(_FORMULA, text)]
    return column.replace({text: f"'{text}" for text in formulas}) if formulas else column


def _texts(column: pd.Series) -> list[str]:
    if pd.api.types.is_numeric_dtype(column):
        return []
    return [value for value in column.unique() if isinstance(value, str)]


def plain_text(column: pd.Series) -> pd.Series:
    """Returns text that was read from CSV as it was before `encode_csv`."""
    return column.str.replace(f"^'(?={_FORMULA})", "", regex=True)

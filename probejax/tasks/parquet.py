"""Reads Parquet: only the columns that are wanted, a few rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probejax import foreign
from probejax.foreign import DamagedFile
from probejax.tasks.content import MOST_BYTES, Raw

_ROWS = 64  # at a time: a text that repeats takes nothing in the file, and all of it here
_ADVICE = "write it again"


def read(data: bytes, path: Path) -> Raw:
    """Reads a Parquet file; rows are counted from 1.

    Raises:
        DamagedFile: it is none, or unpacks to too much.
    """
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    with foreign.parsing(path, _ADVICE):
        file = pq.ParquetFile(pa.BufferReader(data))
        header = list(file.schema_arrow.names)

    def cells(places: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        number = size = 0
        wanted = [header[place] for place in places]
        with foreign.parsing(path, _ADVICE):
            for batch in file.iter_batches(_ROWS, columns=wanted):
                columns = [_plain(batch.column(name)) for name in wanted]
                size += sum(column.nbytes for column in columns)
                if size > MOST_BYTES:
                    raise DamagedFile(
                        f"{path} unpacks to more than {MOST_BYTES:,} bytes; split it."
                    )
                for row in zip(*(column.to_pylist() for column in columns), strict=True):
                    number += 1
                    yield number, row

    return Raw("row", header, cells)


def _plain(column: Any) -> Any:
    """Returns a column with its values in their places; of categories, every batch has them all."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column

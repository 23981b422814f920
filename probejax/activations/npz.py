"""Small files of named arrays, never pickled."""

import io
import zipfile
from pathlib import Path

import numpy as np


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the content of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(path: Path, *names: str) -> list[np.ndarray]:
    """Returns arrays of an npz file.

    Raises:
      OSError: there is no such file.
      ValueError: it is damaged, or lacks one of the arrays.
    """
    try:
        # Opened here, as numpy forgets to close a damaged one.
        with path.open("rb") as file, np.load(file) as arrays:
            return [arrays[name] for name in names]
    except (KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error

"""Small files of named arrays, never pickled."""

import io
import zipfile
from pathlib import Path

import numpy as np

from probejax import foreign


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the content of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parse(file: io.BufferedIOBase, *names: str) -> list[np.ndarray]:
    """Returns arrays of an npz file; whatever is wrong with it may be raised.

    Args:
      file: open for reading.
      names: of the arrays.
    """
    with zipfile.ZipFile(file) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError("it is compressed")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name] for name in names]


def read(path: Path, *names: str) -> list[np.ndarray]:
    """Returns arrays of an npz file.

    Raises:
      OSError: there is no such file.
      DamagedFile: it is damaged, or lacks one of the arrays.
    """
    with foreign.open_regular(path) as file:
        with foreign.parsing(path, "delete that file and run again"):
            return parse(file, *names)

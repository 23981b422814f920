"""Reads the header of a safetensors file; the tensors are read in place."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from probejax.saes.stored import FileArray

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
_LARGEST_HEADER = 100_000_000  # the format's own limit


def read(path: Path) -> dict[str, FileArray]:
    """Returns all tensors of numbers.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is cut short or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no SAE file {path}.")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LARGEST_HEADER):
                raise ValueError("no safetensors header")
            header = json.loads(file.read(length))
        return {
            name: _tensor(path, 8 + length, name, entry)
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] in _DTYPES
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}; {size:,} bytes); download it again."
        ) from error


def _tensor(path: Path, base: int, name: str, entry: dict) -> FileArray:
    begin, end = entry["data_offsets"]
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if begin < 0 or end - begin != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{name} of shape {shape} has {end - begin} bytes")
    return FileArray.contiguous(path, base + begin, dtype, shape)

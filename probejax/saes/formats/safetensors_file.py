"""Reads the header of a safetensors file; the tensors are read in place."""

from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np

from probejax import foreign
from probejax.saes.stored import FileArray

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_MOST = 1 << 20  # bytes of a header; that of an SAE has some hundred
_LENGTH = 8  # bytes of the header's length, in front of it


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read(path: Path) -> dict[str, FileArray]:
    """Returns all tensors.

    Raises:
      OSError: as `open` does.
      DamagedFile: the file is cut short, damaged, or has numbers of a kind that is not known.
    """
    with foreign.parsing(path, "download it again"), foreign.open_regular(path) as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if length > _MOST:
            raise ValueError(f"a header of {length:,} bytes, where at most {_MOST:,} are expected")
        header = foreign.decode_json(file.read(length), dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
        return {
            name: _tensor(path, _LENGTH + length, name, entry) for name, entry in entries.items()
        }


def _tensor(path: Path, base: int, name: str, entry: _Entry) -> FileArray:
    if entry.dtype not in _DTYPES:
        raise ValueError(f"{name} is of dtype {entry.dtype}; expected {', '.join(_DTYPES)}")
    begin, end = entry.data_offsets
    found = FileArray.contiguous(path, base + begin, _DTYPES[entry.dtype], entry.shape)
    if begin < 0 or end - begin != found.nbytes:
        raise ValueError(f"{name} of shape {entry.shape} has {end - begin} bytes")
    return found

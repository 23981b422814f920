"""Reads the header of a GGUF file: its key-value pairs and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little
endian). The reader of the `gguf` package makes one numpy view per array element, some ten seconds
for the 262,144 tokens of Gemma 3; this one takes a fraction of a second.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

_NUMBERS = {  # the format's code of a type -> its layout
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_COUNT = struct.Struct("<Q")


class TensorInfo(NamedTuple):
    """Where a tensor lies in the file.

    Attributes:
      shape: in row-major order, the reverse of the order in the file.
      kind: how it is quantised.
      offset: bytes from the start of the file.
      n_bytes: its size in the file.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int
    n_bytes: int


class Header(NamedTuple):
    """What stands before the weights: key -> value, and tensor name -> place."""

    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: str | Path) -> Header:
    """Reads the header of a GGUF file and checks that the file holds all of its tensors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no GGUF file, of an unknown version, damaged or cut short.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(data)
            end = max((t.offset + t.n_bytes for t in header.tensors.values()), default=0)
            if end > len(data):
                raise ValueError(f"its tensors need {end} bytes, it has {len(data)}")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no GGUF file {path}.") from None
    except (ValueError, TypeError, ArithmeticError, RecursionError, struct.error) as error:
        raise ValueError(
            f"{path} is not a complete GGUF file ({error}); download it again."
        ) from error
    return header


def _parse(data: mmap.mmap) -> Header:
    magic, version, n_tensors, n_fields = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF":
        raise ValueError(f"it starts with {magic!r}, not with b'GGUF'")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, known are 2 and 3")
    cursor = _Cursor(data, at=24)
    fields = {}
    for _ in range(n_fields):
        name = cursor.strings(1)[0]
        fields[name] = cursor.values(cursor.number(4), 1)[0]
    found = []
    for _ in range(n_tensors):
        name = cursor.strings(1)[0]
        shape = tuple(reversed(cursor.values(10, cursor.number(4))))
        found.append((name, shape, gguf.GGMLQuantizationType(cursor.number(4)), cursor.number(10)))
    alignment = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = int(np.prod(shape, dtype=object)) // block * block_bytes
        tensors[name] = TensorInfo(shape, kind, start + offset, n_bytes)
    return Header(fields, tensors)


class _Cursor:
    """A place in the file that moves on with every read."""

    def __init__(self, data: mmap.mmap, at: int):
        self.data = data
        self.at = at

    def number(self, code: int) -> int:
        return self.values(code, 1)[0]

    def values(self, code: int, count: int) -> list[Any]:
        if code == _STRING:
            return self.strings(count)
        if code == _ARRAY:
            return [self.values(self.number(4), self.number(10)) for _ in range(count)]
        if code not in _NUMBERS:
            raise ValueError(f"there is no value type {code}")
        dtype = np.dtype(_NUMBERS[code])
        if count * dtype.itemsize > len(self.data) - self.at:
            raise ValueError("the header ends too early")
        values = np.frombuffer(self.data, dtype, count, self.at).tolist()
        self.at += count * dtype.itemsize
        return values

    def strings(self, count: int) -> list[str]:
        values, at = [], self.at
        for _ in range(count):
            start = at + _COUNT.size
            at = start + _COUNT.unpack_from(self.data, at)[0]
            if at > len(self.data):
                raise ValueError("the header ends too early")
            values.append(self.data[start:at].decode())
        self.at = at
        return values

"""Reads the header of a GGUF file: its key-value pairs and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little
endian). The reader of the `gguf` package makes one numpy view per array element, some ten seconds
for the 262,144 tokens of Gemma 3; this one takes a fraction of a second. It believes no number
before it has compared it with the file's size and with what real files have.
"""

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from probejax.foreign import open_regular, parsing

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

# Far above what real files have: 50 fields, 1,300 tensors, 800,000 values in 15 MB.
_MOST_ENTRIES, _MOST_VALUES, _MOST_BYTES = 1 << 15, 1 << 22, 1 << 27
_MOST_AXES, _MOST_DEPTH, _MOST_ALIGNMENT = 4, 4, 1 << 16

_PART = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")


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


class _Entry(NamedTuple):
    """A tensor as the file describes it; `offset` counts from the end of the header."""

    shape: tuple[int, ...]
    kind: int
    offset: int


def read_header(path: str | Path) -> Header:
    """Reads the header of a GGUF file and checks that the file holds all of its tensors.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFile: the file is no GGUF file, of an unknown version, damaged or cut short.
      ValueError: a tensor is quantised in a way that the `gguf` package does not know.
    """
    advice = "download it again"
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no GGUF file {path}.") from None
    with file:
        with parsing(path, advice), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = len(data)
            fields, entries, end = _parse(data)
        for name, entry in entries.items():
            if entry.kind not in list(gguf.GGMLQuantizationType):
                raise ValueError(
                    f"{path} stores {name} as GGUF type {entry.kind}, which the installed gguf "
                    "package does not know; use a file of another quantisation, such as Q8_0."
                )
        with parsing(path, advice):
            return Header(fields, _places(fields, entries, end, size))


def parts(path: Path) -> list[Path]:
    """Returns the files of a model that was split, in order; of any other, the file itself.

    Args:
      path: a file; any part, such as `x-00002-of-00003.gguf`, stands for all of them.

    Raises:
      FileNotFoundError: a part is missing.
    """
    match = _PART.match(path.name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= _MOST_ENTRIES:
        return [path]
    n = int(match[3])
    found = [path.with_name(f"{match[1]}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]
    if missing := [part.name for part in found if not part.exists()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"{path} is one of {n} parts, and {', '.join(missing[:3])}{more} is not beside it; "
            "download all parts into one folder."
        )
    return found


def _parse(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, _Entry], int]:
    """Returns the fields, the tensors as described, and where the header ends."""
    magic, version, n_tensors, n_fields = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF":
        raise ValueError(f"it starts with {magic!r}, not with b'GGUF'")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, known are 2 and 3")
    if max(n_tensors, n_fields) > _MOST_ENTRIES:
        raise ValueError(f"it claims {n_fields:,} keys and {n_tensors:,} tensors")
    cursor = _Cursor(data, at=24)
    fields, entries = {}, {}
    for _ in range(n_fields):
        name = cursor.strings(1)[0]
        if name in fields:
            raise ValueError(f"it has the key {name} twice")
        fields[name] = cursor.values(cursor.number(4), 1)[0]
    for _ in range(n_tensors):
        name = cursor.strings(1)[0]
        if name in entries:
            raise ValueError(f"it has the tensor {name} twice")
        axes = cursor.number(4)
        if axes > _MOST_AXES:
            raise ValueError(f"the tensor {name} has {axes} axes")
        shape = tuple(reversed(cursor.values(10, axes)))
        entries[name] = _Entry(shape, cursor.number(4), cursor.number(10))
    return fields, entries, cursor.at


def _places(
    fields: dict[str, Any], entries: dict[str, _Entry], end: int, size: int
) -> dict[str, TensorInfo]:
    """Returns where each tensor lies; ValueError unless all lie in the file, one after another."""
    alignment = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= _MOST_ALIGNMENT or alignment % 8:
        raise ValueError(f"its general.alignment is {alignment!r}")
    start = -(-end // alignment) * alignment
    tensors = {}
    for name, (shape, code, offset) in entries.items():
        kind = gguf.GGMLQuantizationType(code)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if not shape or 0 in shape or shape[-1] % block:
            raise ValueError(f"the tensor {name} has shape {shape} and type {kind.name}")
        if offset % alignment:
            raise ValueError(f"the tensor {name} starts between two multiples of {alignment}")
        n_bytes = math.prod(shape) // block * block_bytes
        tensors[name] = TensorInfo(shape, kind, start + offset, n_bytes)
    free, before = start, ""
    for name, place in sorted(tensors.items(), key=lambda item: item[1].offset):
        if place.offset < free:
            raise ValueError(f"the tensors {before} and {name} overlap")
        free, before = place.offset + place.n_bytes, name
    if free > size and tensors:
        raise ValueError(f"its tensors need {free:,} bytes, it has {size:,}")
    return tensors


class _Cursor:
    """A place in the file that moves on with every read, and never beyond its bounds."""

    def __init__(self, data: mmap.mmap, at: int):
        self.data = data
        self.at = at
        self.end = min(len(data), _MOST_BYTES)
        self.left = _MOST_VALUES

    def number(self, code: int) -> int:
        return self.values(code, 1)[0]

    def values(self, code: int, count: int, depth: int = 0) -> list[Any]:
        if code == _STRING:
            return self.strings(count)
        if code == _ARRAY:
            if depth == _MOST_DEPTH:
                raise ValueError(f"its arrays are nested more than {_MOST_DEPTH} deep")
            self._claim(count, 12)
            return [self.values(self.number(4), self.number(10), depth + 1) for _ in range(count)]
        if code not in _NUMBERS:
            raise ValueError(f"there is no value type {code}")
        dtype = np.dtype(_NUMBERS[code])
        self._claim(count, dtype.itemsize)
        values = np.frombuffer(self.data, dtype, count, self.at).tolist()
        self.at += count * dtype.itemsize
        return values

    def strings(self, count: int) -> list[str]:
        self._claim(count, _COUNT.size)
        values, at = [], self.at
        for _ in range(count):
            start = at + _COUNT.size
            at = start + _COUNT.unpack_from(self.data, at)[0]
            if at > self.end:
                raise ValueError("the header ends too early")
            values.append(self.data[start:at].decode())
        self.at = at
        return values

    def _claim(self, count: int, least: int) -> None:
        """Raises ValueError unless `count` values of `least` bytes may still come."""
        self.left -= count
        if self.left < 0 or count * least > self.end - self.at:
            raise ValueError("the header ends too early, or claims too many values")

"""Reads an uncompressed `.npz`: its members are stored, so they can be read in place."""

import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from probejax import foreign
from probejax.saes.formats import zip_file
from probejax.saes.stored import FileArray

_MOST_HEADER = 500  # bytes; usual are 118, and long ones can keep Python's parser busy
_TEXT = "US"  # kinds of dtypes


def read(path: Path) -> dict[str, FileArray]:
    """Returns the arrays of numbers; what is text is left out.

    A lower-case `w_enc` of some releases is found as `W_enc`.

    Raises:
      OSError: as `open` does.
      DamagedFile: the file is cut short, damaged, or holds something else than numbers and text.
    """
    found = {}
    with foreign.parsing(path, "download it again"), zip_file.opened(path) as (file, members):
        for member, info in members.items():
            name = _canonical(member)
            if name in found:
                raise ValueError(f"it has two arrays {name}")
            if (array := _member(path, file, info)) is not None:
                found[name] = array
    return found


def _canonical(member: str) -> str:
    """Returns `W_enc` for `W_enc.npy` and for `w_enc.npy`."""
    name = member.removesuffix(".npy")
    return "W" + name[1:] if name.startswith("w_") else name


def _member(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> FileArray | None:
    """Returns the place of an array, None if it is text."""
    offset, length = zip_file.place(file, info)
    file.seek(offset)
    version = np.lib.format.read_magic(file)
    short = version == (1, 0)
    lengths = file.tell()
    if (said := int.from_bytes(file.read(2 if short else 4), "little")) > _MOST_HEADER:
        raise ValueError(f"{info.filename} has a header of {said:,} bytes")
    file.seek(lengths)
    header = np.lib.format.read_array_header_1_0 if short else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.kind in _TEXT:
        return None
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are never unpickled")
    if dtype.kind != "f" or dtype.itemsize > np.dtype(np.float64).itemsize:
        raise ValueError(f"{info.filename} is of dtype {dtype}; expected floating-point numbers")
    try:
        array = FileArray.contiguous(path, file.tell(), dtype, shape, fortran)
    except ValueError as error:
        raise ValueError(f"{info.filename}: {error}") from error
    if file.tell() - offset + array.nbytes != length:
        raise ValueError(f"{info.filename} of shape {shape} has {length:,} bytes")
    return array

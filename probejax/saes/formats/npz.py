"""Reads an uncompressed `.npz`: its members are stored, so they can be read in place."""

import tokenize
import zipfile
from pathlib import Path

import numpy as np

from probejax.saes.stored import FileArray

_DAMAGE = (  # what zipfile and numpy raise on damaged headers
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    EOFError,
    OSError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
)


def read(path: Path, wanted: tuple[str, ...]) -> dict[str, FileArray]:
    """Returns those of the wanted members that the file holds.

    A lower-case `w_enc` of some releases is found as `W_enc`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is cut short, damaged, or holds something else than numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no SAE file {path}.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {
                name: _member(path, file, info)
                for info in archive.infolist()
                if (name := _canonical(info.filename)) in wanted
            }
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}; {path.stat().st_size:,} bytes); "
            "download it again."
        ) from error


def _canonical(member: str) -> str:
    """Returns `W_enc` for `W_enc.npy` and for `w_enc.npy`."""
    name = member.removesuffix(".npy")
    return "W" + name[1:] if name.startswith("w_") else name


def _member(path: Path, file, info: zipfile.ZipInfo) -> FileArray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, so it cannot be read in place")
    file.seek(data_offset(file, info))
    version = np.lib.format.read_magic(file)
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are never unpickled")
    if dtype.kind != "f":
        raise ValueError(f"{info.filename} is of dtype {dtype}; expected floating-point numbers")
    try:
        return FileArray.contiguous(path, file.tell(), dtype, shape, fortran)
    except ValueError as error:
        raise ValueError(f"{info.filename}: {error}") from error


def data_offset(file, info: zipfile.ZipInfo) -> int:
    """Returns where the content of a stored member begins."""
    file.seek(info.header_offset)
    header = file.read(30)  # local file header: the lengths of name and extra field end it
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + name + extra

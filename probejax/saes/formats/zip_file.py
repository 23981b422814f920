"""Opens a zip whose members are stored as they are, so that they can be read in place."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from probejax import foreign

_MOST = 1 << 20  # bytes of the list of members, and of anything else that is read at once
_HEADER = 30  # bytes in front of a member, before its name
_ENCRYPTED = 1


class _Sips(io.BufferedReader):
    """A file that is read in small parts only, whatever lengths it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(_MOST)
        if size > _MOST:
            raise ValueError(f"it asks for {size:,} bytes at once")
        return super().read(size)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, dict[str, zipfile.ZipInfo]]]:
    """Opens a zip; gives the file and its members by name.

    Raises:
      OSError: as `open` does.
      DamagedFile: it is no regular file.
      Exception: whatever a damaged zip raises, see `foreign.parsing`.
    """
    raw = cast(io.BufferedReader, foreign.open_regular(path)).detach()
    with _Sips(raw) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("it has two members of one name")
        yield file, members


def place(file: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Returns where the content of a member begins, and how long it is.

    Raises:
      ValueError: it is not stored as it is, or not where the list of members says.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{info.filename} is compressed, so it cannot be read in place")
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"{info.filename} is encrypted")
    file.seek(info.header_offset)
    header = file.read(_HEADER)
    if not header.startswith(b"PK\3\4"):
        raise ValueError(f"{info.filename} is not where its list of members says")
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + _HEADER + name + extra, info.file_size

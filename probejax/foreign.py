"""Files from outside: opened, bounded and checked here, before anything believes them.

Runs are shared as archives, weights come from strangers, caches are cut short by a full disk. So
every parser of such bytes opens its file with `open_regular` or `read_bytes`, reads JSON into a
type with `read_json`, runs inside `parsing`, and makes names of new files with `file_name`.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import msgspec
from etils import epath

_MOST_JSON = 1 << 28  # bytes of one JSON text; a unit has some hundred thousand
_MOST_NAME = 120  # characters of a file name; file systems take 255 bytes
_MOST_REASON = 300  # characters of what another library says of a file


class DamagedFile(ValueError):
    """A file is not what it should be; the message names it and says what to do."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file to read its bytes; a pipe, a device or a socket is refused and not waited for.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        DamagedFile: it is no regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return os.fdopen(handle, "rb")


def require_regular(path: str | os.PathLike[str]) -> None:
    """Checks a file that another library will open.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise _not_regular(path)


def state(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Returns what changes when a file is written anew."""
    about = os.stat(path)
    return about.st_ino, about.st_size, about.st_mtime_ns


def read_bytes(path: epath.PathLike, most: int) -> bytes:
    """Returns the content of a file, on the disk or in a bucket.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is no regular file, or holds more than `most` bytes.
    """
    if "://" in os.fspath(path):
        path = epath.Path(path)
        _bound(path, path.stat().length, most)
        return path.read_bytes()
    with open_regular(path) as file:
        _bound(path, os.fstat(file.fileno()).st_size, most)
        return file.read()


def read_json(path: epath.PathLike, kind: Any, advice: str, most: int = _MOST_JSON) -> Any:
    """Reads a JSON file into a type.

    Args:
        path: on the disk or in a bucket.
        kind: what msgspec understands, such as `dict[str, Any]` or a `msgspec.Struct`.
        advice: what to do if it is damaged, as the end of a sentence.
        most: bytes it may have.

    Raises:
        OSError: as `open` does.
        DamagedFile: it is no JSON of this type; the message says where it departs from it.
    """
    with parsing(path, advice):
        return decode_json(read_bytes(path, most), kind)


def decode_json(data: bytes | str, kind: Any) -> Any:
    """Returns JSON text as a value of a type.

    Raises:
        ValueError: it is not JSON of this type, or nested too deeply.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextlib.contextmanager
def parsing(path: epath.PathLike, advice: str) -> Iterator[None]:
    """Turns whatever a parser stumbles over into one sentence about its file.

    Args:
        path: the file that is read inside.
        advice: what to do, as the end of a sentence: `download it again`.

    Raises:
        DamagedFile: in place of any error but those of the operating system.
    """
    try:
        yield
    except DamagedFile:
        raise
    except Exception as error:  # damaged bytes can raise anything in any library
        # A seek to nowhere is the file's fault; all else that the system says is not.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedFile(f"{path} is damaged ({reason(error)}); {advice}.") from error


def reason(error: BaseException) -> str:
    """Returns what an error says, on one line, for the middle of a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    if not text or isinstance(error, LookupError):  # whose text is a bare key
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _MOST_REASON else f"{text[:_MOST_REASON]}..."


def file_name(text: str) -> str:
    """Returns a name for a file, made of letters, digits and `._-`, that cannot lead elsewhere.

    Everything else becomes an underscore. Two texts that differ in more than slashes get different
    names: a few digits of a hash tell them apart, as they do where a text is too long.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".") or "_"
    if re.search(r"[^A-Za-z0-9._/-]", text) or text.startswith(".") or len(name) > _MOST_NAME:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = f"{name[:_MOST_NAME]}-{digest}"
    return name


def _bound(path: Any, size: int, most: int) -> None:
    if size > most:
        raise DamagedFile(f"{path} has {size:,} bytes, where at most {most:,} are expected.")


def _not_regular(path: Any) -> DamagedFile:
    return DamagedFile(f"{os.fspath(path)} is no regular file, and only those are read.")

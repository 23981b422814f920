"""Write-once results on a disk or in a bucket: a file is there whole or not at all.

Nothing is appended and nothing is locked, because a bucket can do neither. A finished unit is one
object; to resume is to subtract the names that are there from the names that are wanted.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from etils import epath

from probejax import foreign, stored_scores, stored_unit
from probejax.stored_scores import StoredScores

_DAY = 86_400  # seconds after which a half-written file of another machine is nobody's


class StorageError(OSError):
    """A result could not be written or read; the message says which and what to do."""


class ConfigMismatch(ValueError):
    """The output folder belongs to a run with another configuration."""


def encode_json(payload: Mapping[str, Any]) -> str:
    """Returns the one JSON text of a payload: sorted keys, exact floats, NaN and inf as null."""
    return json.dumps(_plain(payload), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and JAX
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity
    return value


def unit_id(fields: Mapping[str, Any]) -> str:
    """Returns the name of a unit of work: 16 hex digits of the SHA-256 of its fields."""
    return hashlib.sha256(encode_json(fields).encode()).hexdigest()[:16]


def check_place(out: str) -> None:
    """Checks that results can be written to a place of this kind.

    Raises:
        ValueError: it is empty, or neither a folder nor a gs:// prefix.
    """
    scheme, found, rest = out.partition("://")
    if not out.strip() or (found and (scheme != "gs" or not rest)):
        raise ValueError(
            f"--out={out} is no place for results: give a folder, or gs://bucket/prefix."
        )


def try_place(out: epath.PathLike) -> None:
    """Writes an empty file into a folder and deletes it again, before work is spent on results.

    Raises:
        StorageError: the place is unwritable or full.
    """
    path = epath.Path(out) / f".{uuid.uuid4().hex}.part"
    write_atomic(path, b"")
    path.unlink()


def write_atomic(path: epath.PathLike, content: bytes | str, flag: str = "--out") -> None:
    """Writes a file so that readers see the old content or the new, never a part.

    Args:
        path: on the disk or in a bucket.
        content: all of it.
        flag: what decides where it lies, for the message.

    Raises:
        StorageError: the place is unwritable or full; nothing half-written is left behind.
    """
    path = epath.Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _in_bucket(path):
            path.write_bytes(data)  # one PUT is atomic
        else:
            with writing(path) as file:
                file.write(data)
    except (OSError, ImportError) as error:
        raise _unwritable(path, error, flag) from error


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[io.BufferedWriter]:
    """Opens a file on the disk to be written; it appears under its name when it is whole.

    Raises:
        OSError: as `open` and `write` do; nothing half-written is left behind.
    """
    part = _part(path)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the content does
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def remove_leftovers(folder: epath.PathLike) -> None:
    """Deletes what killed processes left half-written in a folder and the folders below it.

    Files of processes that still run stay, and of other machines those that are younger than a day.
    """
    if _in_bucket(epath.Path(folder)):
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if (found := _PART.fullmatch(name)) and not _is_written(path, found):
                with contextlib.suppress(OSError):
                    os.unlink(path)


_PART = re.compile(r"\.(?:(?P<host>.+)-(?P<process>\d+)-)?[0-9a-f]{32}\.part")


def _part(path: str | os.PathLike[str]) -> str:
    """Returns a hidden name beside a file, which says who is writing."""
    name = f".{foreign.file_name(socket.gethostname())}-{os.getpid()}-{uuid.uuid4().hex}.part"
    return os.path.join(os.path.dirname(os.fspath(path)), name)


def _is_written(path: str, found: re.Match[str]) -> bool:
    """Tells whether the process that began a half-written file may still be at it."""
    if found["host"] == foreign.file_name(socket.gethostname()):
        try:
            os.kill(int(found["process"]), 0)
        except ProcessLookupError:
            return False
        except OSError:  # it runs as somebody else
            pass
        return True
    try:
        return time.time() - os.stat(path).st_mtime < _DAY
    except OSError:
        return False


def write_config(
    out: epath.PathLike,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    free: Collection[str] = (),
) -> None:
    """Writes `config.json` once per output folder; several processes may call it at once.

    Args:
        out: the folder.
        config: what is run there.
        defaults: what a setting meant before there was such a setting: a folder from then goes on.
        free: settings that may be others there; then this configuration takes its place.

    Raises:
        ConfigMismatch: the folder already holds another configuration.
        StorageError: the folder is unwritable, or its `config.json` is damaged.
    """
    path = epath.Path(out) / "config.json"
    text = json.dumps(_plain(config), sort_keys=True, indent=2, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, text.encode())
    except (OSError, ImportError) as error:
        raise _unwritable(path, error) from error
    if not check_config(out, config, defaults, free=free):
        write_atomic(path, text)


def check_config(
    out: epath.PathLike,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    free: Collection[str] = (),
) -> bool:
    """Says whether a folder has this configuration, or none; raises where it has another.

    Args:
        out: the folder.
        config: as for `write_config`, like the others.
        defaults: what a setting meant before there was such a setting.
        free: settings that may be others there.

    Raises:
        ConfigMismatch: settings that are not free are others there.
        StorageError: its `config.json` is damaged.
    """
    path = epath.Path(out) / "config.json"
    if not path.exists():
        return True
    there = _read_json(path, "restore it or choose another --out")
    there, here = json.loads(encode_json(defaults or {})) | there, json.loads(encode_json(config))
    fixed = lambda settings: {name: v for name, v in settings.items() if name not in free}
    if fixed(there) != fixed(here):
        raise ConfigMismatch(
            f"{out} holds a run with another configuration: {_differences(there, here)}. "
            "Give the same flags to resume that run, or another --out to start a new one."
        )
    return there == here


_REDO = "delete it and run the same command again to redo that unit"


class Store:
    """The finished units of one run: `units/<name>.json`, and beside them `timings/<name>.json`.

    Where a unit has test scores, these are in `scores/<name>.safetensors`. The bytes of a unit and
    of its scores depend on what was computed alone, so that two runs can be compared file by file;
    what a run took is kept apart.
    """

    def __init__(self, root: epath.PathLike):
        """Names the run's folder; it is made when the first unit is written."""
        self.root = epath.Path(root)
        self.units = self.root / "units"
        self.timings = self.root / "timings"
        self.scores = self.root / "scores"

    def done(self) -> set[str]:
        """Returns the names of the finished units."""
        return {path.name.removesuffix(".json") for path in self._paths()}

    def put(
        self,
        name: str,
        payload: Mapping[str, Any],
        timing: Mapping[str, Any] | None = None,
        scores: StoredScores | None = None,
    ) -> None:
        """Saves a finished unit.

        Raises:
            StorageError: the place is unwritable or full; the unit does not count as done.
        """
        if timing is not None:  # first, because the unit's file is what marks the unit as done
            write_atomic(self.timings / f"{name}.json", encode_json(timing) + "\n")
        if scores is not None:  # first, too
            write_atomic(self._scores(name), stored_scores.encode(scores))
        write_atomic(self.units / f"{name}.json", encode_json(payload) + "\n")

    def read_all(self) -> Iterator[dict[str, Any]]:
        """Yields the payloads of all finished units, in the order of their names.

        Raises:
            StorageError: a unit's file is damaged or no unit; the message names it.
        """
        for path in sorted(self._paths(), key=lambda path: path.name):
            yield _read_unit(path)

    def read(self, name: str) -> dict[str, Any]:
        """Returns the payload of a finished unit.

        Raises:
            StorageError: its file is damaged or no unit; the message names it.
        """
        return _read_unit(self.units / f"{name}.json")

    def read_scores(self, name: str) -> StoredScores | None:
        """Returns the test scores of a unit; None where it has kept none.

        Raises:
            OSError: as `open` does.
            DamagedFile: its file is damaged.
        """
        path = self._scores(name)
        try:
            data = foreign.read_bytes(path, stored_scores.MOST_BYTES)
        except FileNotFoundError:
            return None
        with foreign.parsing(path, "delete it and the unit of this name, to have both made anew"):
            return stored_scores.decode(data)

    def _scores(self, name: str) -> epath.Path:
        return self.scores / f"{name}.safetensors"

    def _paths(self) -> list[epath.Path]:
        try:
            if not self.units.exists():
                return []
            return [path for path in self.units.iterdir() if _is_result(path.name)]
        except (OSError, ImportError) as error:
            raise StorageError(f"Cannot list {self.units}: {_reason(error)}.") from error


def _is_result(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _in_bucket(path: epath.Path) -> bool:
    return "://" in str(path)


def _create(path: epath.Path, data: bytes) -> None:
    """Writes a file unless another process has just done so."""
    if _in_bucket(path):
        path.write_bytes(data)
        return
    whole = _part(path)
    with writing(whole) as file:
        file.write(data)
    try:
        os.link(whole, path)  # unlike a rename, fails where the name is taken
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(whole, path)
        return
    os.unlink(whole)


def _read_unit(path: epath.Path) -> dict[str, Any]:
    payload = _read_json(path, _REDO)
    try:
        return stored_unit.checked(payload)
    except ValueError as error:
        raise StorageError(f"{path} is no unit ({foreign.reason(error)}); {_REDO}.") from error


def _read_json(path: epath.Path, advice: str) -> dict[str, Any]:
    try:
        return foreign.read_json(path, dict[str, Any], advice)
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {_reason(error)}.") from error
    except foreign.DamagedFile as error:
        raise StorageError(str(error)) from error


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    def shown(config: dict[str, Any], name: str) -> str:
        return json.dumps(config[name]) if name in config else "absent"

    names = [n for n in sorted({*there, *here}) if shown(there, n) != shown(here, n)]
    return "; ".join(f"{n} is {shown(there, n)} there and {shown(here, n)} here" for n in names)


def _unwritable(path: epath.Path, error: Exception, flag: str = "--out") -> StorageError:
    links = [each for each in path.parents if os.path.islink(each) and not os.path.exists(each)]
    why = f"{links[0]} is a link to a place that does not exist" if links else _reason(error)
    return StorageError(
        f"Cannot write {path}: {why}. Free some space or choose a writable {flag}; "
        "what was saved before is kept, and the same command resumes."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "a file is where a folder should be"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, ImportError):
        text += " (pip install 'probejax[gcs]')"
    return text.rstrip(".")

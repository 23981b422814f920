"""Where the cache is, and what both kinds of download share."""

import os
from pathlib import Path, PureWindowsPath

Location = str | os.PathLike[str]

GEMMA_NOTICE = "Gemma's terms of use apply to these weights: https://ai.google.dev/gemma/terms\n"


class ArtifactError(RuntimeError):
    """An artifact cannot be fetched, or is not what it should be; the message says what to do."""


def cache_dir(path: Location | None = None) -> Path:
    """Returns the cache folder: `path`, else $PROBEJAX_CACHE, else ~/.cache/probejax.

    Raises:
        ValueError: it is in a bucket.
    """
    chosen = path or os.environ.get("PROBEJAX_CACHE") or "~/.cache/probejax"
    if "://" in os.fspath(chosen):
        raise ValueError(
            f"--cache_dir={chosen} is no folder on a disk, where activations have to be; compiled "
            "programs alone may be in a bucket: JAX_COMPILATION_CACHE_DIR=gs://bucket/prefix."
        )
    return Path(os.path.expanduser(chosen)).absolute()


def disk_sentence(root: Path, error: OSError) -> str:
    """Says that the cache cannot be written, why, and where else to put it."""
    return (
        f"cannot write to the cache folder {root} ({error}); make room or give permission there, "
        "or choose another folder with --cache_dir or $PROBEJAX_CACHE"
    )


def refuse_outside(name: str, where: str) -> None:
    """Checks that a file name from outside stays inside the folder it will be put into.

    Raises:
        ValueError: `name` has a root, a drive letter or `..`.
    """
    # Windows' reading of a path knows both slashes, drive letters and roots.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{where} names a file outside its own folder, {name!r}: refused")

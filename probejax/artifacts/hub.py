"""Named files from the Hugging Face Hub, never a whole repository, into `<cache>/hub`."""

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import errors

from probejax.artifacts.cache import ArtifactError, Location, cache_dir
from probejax.artifacts.checked import damaged, sha256_of
from probejax.artifacts.hub_errors import NoSuchFile, explained
from probejax.foreign import file_name, reason

# The Hub has answered, or the client has looked into the cache already.
_ANSWERS = (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError)


def hub_file(
    repo_id: str, filename: str, revision: str | None = None, cache: Location | None = None
) -> Path:
    """Returns one file of a model repository, fetched when absent, and again when damaged.

    The cache keeps a file under the hash that the Hub gives of it, so that damage is found.

    Args:
        repo_id: as on the Hub, such as `google/gemma-2-2b`.
        filename: path inside the repository.
        revision: branch, tag or commit; the main branch when None.
        cache: the cache folder, see `cache_dir`.

    Raises:
        NoSuchRepository: there is none, or it is private.
        ArtifactError: gated, missing or not reachable, or the cache is not writable.
    """
    root = cache_dir(cache)
    try:
        path = _download(repo_id, filename, revision, root)
    except Exception as error:
        if isinstance(error, _ANSWERS) or not (
            known := _in_cache(repo_id, filename, revision, root)
        ):
            raise explained(error, repo_id, filename, revision, root) from error
        path = known  # the network failed in a way in which the client itself does not look there
    if damage := _damage(path, root):
        sys.stderr.write(f"{path} is damaged ({damage}); fetching it again\n")
        try:
            _download(repo_id, filename, snapshot(path, filename).name, root, force=True)
            damage = _damage(path, root)
        except Exception as error:
            raise ArtifactError(
                f"{path} is damaged ({damage}) and could not be fetched again ({reason(error)}); "
                "run again where the Hugging Face Hub can be reached"
            ) from error
        if damage:
            raise ArtifactError(
                f"the Hugging Face Hub delivered a {filename} of {repo_id} that is not the file it "
                f"announced ({damage}); run again later"
            )
    return path


def hub_file_if_any(
    repo_id: str, filename: str, commit: str, cache: Location | None = None
) -> Path | None:
    """Returns a file as `hub_file` does, or None if the repository holds none of that name.

    A commit never changes, so that what is known about it needs no request: this works offline.

    Raises:
        ArtifactError: as for `hub_file`, but for a missing file.
    """
    if _in_cache(repo_id, filename, commit, cache_dir(cache)) is False:
        return None
    try:
        return hub_file(repo_id, filename, commit, cache)
    except NoSuchFile:
        return None


def hub_etag(repo_id: str, filename: str, commit: str, cache: Location | None = None) -> str | None:
    """Returns the Hub's hash of a file, without fetching it; None if there is no such file.

    Of large files that is the SHA-256 of their content. A file in the cache needs no request.

    Raises:
        ArtifactError: as for `hub_file`, but for a missing file.
    """
    root = cache_dir(cache)
    known = _in_cache(repo_id, filename, commit, root)
    if known is False:
        return None
    if known is not None:
        return _etag(known) or sha256_of(known)
    try:
        url = huggingface_hub.hf_hub_url(repo_id, filename, revision=commit)
        return huggingface_hub.get_hf_file_metadata(url).etag
    except Exception as error:
        explanation = explained(error, repo_id, filename, commit, root)
        if not isinstance(explanation, NoSuchFile):
            raise explanation from error
    # As the client does when it looks for a file to fetch.
    absent = (
        root / "hub" / f"models--{repo_id.replace('/', '--')}" / ".no_exist" / commit / filename
    )
    with contextlib.suppress(OSError):
        absent.parent.mkdir(parents=True, exist_ok=True)
        absent.touch()
    return None


def snapshot(path: Path, filename: str) -> Path:
    """Returns the folder of a file's commit, which is named by it."""
    return path.parents[filename.count("/")]


def _download(
    repo_id: str, filename: str, revision: str | None, root: Path, force: bool = False
) -> Path:
    return Path(
        huggingface_hub.hf_hub_download(
            repo_id, filename, revision=revision, cache_dir=root / "hub", force_download=force
        )
    )


def _in_cache(
    repo_id: str, filename: str, revision: str | None, root: Path
) -> Path | Literal[False] | None:
    """Returns a file of the cache, False if it is known that there is none, None if nothing is."""
    known = huggingface_hub.try_to_load_from_cache(
        repo_id, filename, cache_dir=root / "hub", revision=revision
    )
    return Path(known) if isinstance(known, str) else None if known is None else False


def _damage(path: Path, root: Path) -> str | None:
    etag = _etag(path)
    if etag is None:
        return None
    repository = path.parts[len((root / "hub").parts)]
    return damaged({path: etag}, root / "checked" / f"{file_name(repository)}.json")


def _etag(path: Path) -> str | None:
    """Returns the hash that a file of the cache is kept under; None where there are no links."""
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None

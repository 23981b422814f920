"""What the Hub's client raises, in one sentence each."""

import errno
from pathlib import Path

from huggingface_hub import errors

from probejax.artifacts.cache import ArtifactError, disk_sentence

# The errors of a disk; any other OSError while downloading is the network's.
_DISK_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


class NoSuchRepository(ArtifactError):
    """The Hub knows no repository of this name, or does not show it to this account."""


class NoSuchFile(ArtifactError):
    """The repository holds no file of this name."""


def is_missing_file(error: BaseException | None) -> bool:
    """Says whether an error means that the repository has no such file."""
    # The Hub's client derives "not in the cache, and no network" from "no such file".
    return isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def explained(
    error: Exception, repo_id: str, filename: str, revision: str | None, root: Path
) -> ArtifactError:
    """Returns an error that says why a file of the Hub cannot be had and what to do."""
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if is_missing_file(error):
        return NoSuchFile(_sentence(error, repo_id, filename, revision, root))
    # A gated repository is derived from one that does not exist.
    nowhere = isinstance(error, errors.RepositoryNotFoundError) and not isinstance(
        error, errors.GatedRepoError
    )
    kind = NoSuchRepository if nowhere else ArtifactError
    return kind(_sentence(error, repo_id, filename, revision, root))


def _sentence(
    error: Exception, repo_id: str, filename: str, revision: str | None, root: Path
) -> str:
    log_in = "set HF_TOKEN or run `hf auth login`"
    wanted = f"cannot fetch {filename} of {repo_id} from the Hugging Face Hub"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{wanted}: it is gated; accept its licence at https://huggingface.co/{repo_id}, then "
            f"{log_in} with the same account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{wanted}: there is no such repository, or it is private; check the spelling, or "
            f"{log_in} with an account that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{wanted}: it has no revision {revision!r}; check the spelling or leave it out"
    if is_missing_file(error):
        return (
            f"{wanted}: there is no such file at revision {revision or 'main'}; compare "
            f"https://huggingface.co/{repo_id}/tree/{revision or 'main'}"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{wanted}: not a repository id, expected owner/name ({_line(error)})"
    if isinstance(error, errors.DisabledRepoError):
        return f"{wanted}: its owner or the Hub has disabled it; choose another repository"
    if status in (401, 403):
        return (
            f"{wanted}: access was refused (HTTP {status}); accept its licence at "
            f"https://huggingface.co/{repo_id} if it has one, then {log_in} with a token that may "
            "read it"
        )
    if status is not None:
        return f"{wanted}: the Hub answered with HTTP {status}; run again later"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{wanted}: it is not in {root / 'hub'} and offline mode is on; unset HF_HUB_OFFLINE, "
            "or give a local folder instead"
        )
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return disk_sentence(root, error)
    return (
        f"{wanted}: it is not in {root / 'hub'} and the download failed ({_line(error)}); check "
        "the network and run again, or give a local folder instead"
    )


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

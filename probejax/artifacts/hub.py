"""Named files from the Hugging Face Hub, never a whole repository, into `<cache>/hub`."""

import errno
import json
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from probejax.artifacts.cache import (
    GEMMA_NOTICE,
    ArtifactError,
    Location,
    cache_dir,
    disk_sentence,
    refuse_outside,
)

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# The errors of a disk; any other OSError while downloading is the network's.
_DISK_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def hub_file(
    repo_id: str, filename: str, revision: str | None = None, cache: Location | None = None
) -> Path:
    """Returns one file of a model repository, fetched when absent.

    Args:
        repo_id: as on the Hub, such as `google/gemma-2-2b`.
        filename: path inside the repository.
        revision: branch, tag or commit; the main branch when None.
        cache: the cache folder, see `cache_dir`.

    Raises:
        ArtifactError: gated, missing or not reachable, or the cache is not writable.
    """
    root = cache_dir(cache)
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repo_id, filename, revision=revision, cache_dir=root / "hub"
            )
        )
    except Exception as error:
        raise ArtifactError(_sentence(error, repo_id, filename, revision, root)) from error


def hub_weights(repo_id: str, revision: str | None = None, cache: Location | None = None) -> Path:
    """Returns a folder with a model's config.json, tokenizer files and safetensors weights.

    The weights are model.safetensors or, without one, the files that model.safetensors.index.json
    names. All files are of one commit, the one that `revision` means when config.json is fetched.

    Raises:
        ArtifactError: as for `hub_file`, or the repository holds no tokenizer or no such weights.
        ValueError: the index names a file outside the repository.
    """
    folder = hub_file(repo_id, "config.json", revision, cache).parent
    commit = folder.name
    found = [_if_exists(repo_id, name, commit, cache) for name in _TOKENIZERS]
    if not any(found):
        raise ArtifactError(
            f"{repo_id} on the Hugging Face Hub holds no tokenizer: expected {_TOKENIZERS[0]} or "
            f"{_TOKENIZERS[1]}; choose a repository that has one"
        )
    for name in _TOKENIZER_SETTINGS:
        _if_exists(repo_id, name, commit, cache)
    if "gemma" in repo_id.lower() and not any(folder.glob("*.safetensors")):
        sys.stderr.write(GEMMA_NOTICE)
    if _if_exists(repo_id, _WEIGHTS, commit, cache):
        return folder
    index = _if_exists(repo_id, _INDEX, commit, cache)
    if index is None:
        raise ArtifactError(
            f"{repo_id} on the Hugging Face Hub holds neither {_WEIGHTS} nor {_INDEX}; choose a "
            "repository with safetensors weights"
        )
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{index} is not a safetensors index (expected JSON with a weight_map, {error}); "
            "delete the file and run again"
        ) from error
    for shard in shards:
        refuse_outside(shard, _INDEX)
        hub_file(repo_id, shard, commit, cache)
    return folder


def _if_exists(repo_id: str, filename: str, commit: str, cache: Location | None) -> Path | None:
    # A commit never changes, so what is known about it needs no request: this works offline.
    known = huggingface_hub.try_to_load_from_cache(
        repo_id, filename, cache_dir=cache_dir(cache) / "hub", revision=commit
    )
    if known is not None:
        return Path(known) if isinstance(known, str) else None
    try:
        return hub_file(repo_id, filename, commit, cache)
    except ArtifactError as error:
        if _is_missing_file(error.__cause__):
            return None
        raise


def _is_missing_file(error: BaseException | None) -> bool:
    # The Hub's client derives "not in the cache, and no network" from "no such file".
    return isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _sentence(
    error: Exception, repo_id: str, filename: str, revision: str | None, root: Path
) -> str:
    """Says in one sentence why a file of the Hub cannot be had and what to do."""
    log_in = "set HF_TOKEN or run `hf auth login`"
    wanted = f"cannot fetch {filename} of {repo_id} from the Hugging Face Hub"
    reason = error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        reason = error.__cause__
    status = getattr(getattr(reason, "response", None), "status_code", None)

    if isinstance(reason, errors.GatedRepoError):
        return (
            f"{wanted}: it is gated; accept its licence at https://huggingface.co/{repo_id}, then "
            f"{log_in} with the same account"
        )
    if isinstance(reason, errors.RepositoryNotFoundError):
        return (
            f"{wanted}: there is no such repository, or it is private; check the spelling, or "
            f"{log_in} with an account that may read it"
        )
    if isinstance(reason, errors.RevisionNotFoundError):
        return f"{wanted}: it has no revision {revision!r}; check the spelling or leave it out"
    if _is_missing_file(reason):
        return (
            f"{wanted}: there is no such file at revision {revision or 'main'}; compare "
            f"https://huggingface.co/{repo_id}/tree/{revision or 'main'}"
        )
    if isinstance(reason, errors.HFValidationError):
        return f"{wanted}: not a repository id, expected owner/name ({_line(reason)})"
    if isinstance(reason, errors.DisabledRepoError):
        return f"{wanted}: its owner or the Hub has disabled it; choose another repository"
    if status in (401, 403):
        return (
            f"{wanted}: access was refused (HTTP {status}); accept its licence at "
            f"https://huggingface.co/{repo_id} if it has one, then {log_in} with a token that may "
            "read it"
        )
    if status is not None:
        return f"{wanted}: the Hub answered with HTTP {status}; run again later"
    if isinstance(reason, errors.OfflineModeIsEnabled):
        return (
            f"{wanted}: it is not in {root / 'hub'} and offline mode is on; unset HF_HUB_OFFLINE, "
            "or give a local folder instead"
        )
    if isinstance(reason, OSError) and reason.errno in _DISK_ERRNOS:
        return disk_sentence(root, reason)
    return (
        f"{wanted}: it is not in {root / 'hub'} and the download failed ({_line(reason)}); check "
        "the network and run again, or give a local folder instead"
    )


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

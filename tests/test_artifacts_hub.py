"""What the Hub's client raises, in one sentence each; `tests.hub_cases` has the client itself."""

import errno
import importlib
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from probejax import artifacts


def answer(kind, status):
    """The Hub client's own exception for an HTTP answer."""
    return kind(
        "said\nthe Hub", response=SimpleNamespace(headers={}, request=None, status_code=status)
    )


def not_cached(cause):
    error = errors.LocalEntryNotFoundError("not in the cache")
    error.__cause__ = cause
    return error


def no_network():
    library = importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
    return library.ConnectError("Name or service not known")


MISSING_FILE = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)

CASES = {
    "gated": (
        lambda: answer(errors.GatedRepoError, 403),
        "it is gated; accept its licence at https://huggingface.co/owner/model, then set "
        "HF_TOKEN or run `hf auth login` with the same account",
    ),
    "missing repository": (
        lambda: answer(errors.RepositoryNotFoundError, 401),
        "there is no such repository, or it is private; check the spelling, or set HF_TOKEN or run "
        "`hf auth login` with an account that may read it",
    ),
    "missing revision": (
        lambda: answer(errors.RevisionNotFoundError, 404),
        "it has no revision 'v2'; check the spelling or leave it out",
    ),
    "missing file": (
        lambda: answer(MISSING_FILE, 404),
        "there is no such file at revision v2; compare https://huggingface.co/owner/model/tree/v2",
    ),
    "bad id": (
        lambda: errors.HFValidationError("too many slashes"),
        "not a repository id, expected owner/name (HFValidationError: too many slashes)",
    ),
    "disabled": (
        lambda: answer(errors.DisabledRepoError, 403),
        "its owner or the Hub has disabled it; choose another repository",
    ),
    "bad token": (lambda: answer(errors.HfHubHTTPError, 401), "access was refused (HTTP 401)"),
    "forbidden": (
        lambda: not_cached(answer(errors.HfHubHTTPError, 403)),
        "access was refused (HTTP 403)",
    ),
    "server down": (
        lambda: not_cached(answer(errors.HfHubHTTPError, 503)),
        "the Hub answered with HTTP 503; run again later",
    ),
    "offline": (
        lambda: not_cached(errors.OfflineModeIsEnabled("HF_HUB_OFFLINE=1")),
        "is not in {hub} and offline mode is on; unset HF_HUB_OFFLINE, or give a "
        "local folder instead",
    ),
    "no network": (
        lambda: not_cached(no_network()),
        "it is not in {hub} and the download failed (ConnectError: Name or service not known); "
        "check the network and run again, or give a local folder instead",
    ),
    "no network, raised as it is": (no_network, "(ConnectError: Name or service not known)"),
    "cut off": (lambda: ConnectionResetError(errno.ECONNRESET, "reset"), "check the network"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_failure_is_one_sentence_with_what_to_do(case, tmp_path, monkeypatch):
    make, expected = CASES[case]

    def fail(*_, **__):
        raise make()

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.hub_file("owner/model", "config.json", "v2", cache=tmp_path)
    message = str(error.value)
    assert message.startswith("cannot fetch config.json of owner/model from the Hugging Face Hub: ")
    assert expected.format(hub=tmp_path / "hub") in message
    assert "\n" not in message


def test_a_full_disk_names_the_cache(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.hub_file("owner/model", "config.json", cache=tmp_path)
    assert str(error.value).startswith(f"cannot write to the cache folder {tmp_path} (")
    assert "--cache_dir or $PROBEJAX_CACHE" in str(error.value)


def test_the_client_itself_refuses_a_bad_id_without_a_request(tmp_path):
    with pytest.raises(artifacts.ArtifactError, match="not a repository id, expected owner/name"):
        artifacts.hub_file("a/b/c", "config.json", cache=tmp_path)

import errno
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from probejax import artifacts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


class Hub:
    """A repository on the Hub: what hf_hub_download would do with it, without a network."""

    def __init__(self, files):
        self.files = files
        self.asked = []

    def download(self, repo_id, filename, *, revision, cache_dir):
        self.asked.append((filename, revision))
        if filename not in self.files:
            raise answer(MISSING_FILE, 404)
        name = "models--" + repo_id.replace("/", "--")
        path = Path(cache_dir) / name / "snapshots" / COMMIT / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[filename])
        return str(path)


@pytest.fixture
def hub(monkeypatch):
    hub = Hub({"config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"", "model.bin": b"x"})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    return hub


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_hub_file_lies_in_the_cache(hub, tmp_path):
    path = artifacts.hub_file("owner/model", "README.md", cache=tmp_path)
    assert path == tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT / "README.md"


def test_weights_in_one_file(hub, tmp_path, capsys):
    hub.files |= {"model.safetensors": b"w", "tokenizer_config.json": b"{}"}
    folder = artifacts.hub_weights("owner/model", "main", cache=tmp_path)
    assert names(folder) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    # One commit: `main` is looked up once, by the first file.
    assert hub.asked[0] == ("config.json", "main")
    assert {revision for _, revision in hub.asked[1:]} == {COMMIT}
    assert "gemma" not in capsys.readouterr().err.lower()


def test_weights_in_the_files_that_the_index_names(hub, tmp_path, capsys):
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    index = json.dumps({"weight_map": shards}).encode()
    hub.files |= {"model.safetensors.index.json": index, "other.safetensors": b"unused"}
    hub.files |= dict.fromkeys(shards.values(), b"w")
    folder = artifacts.hub_weights("google/gemma-2-2b", cache=tmp_path)
    assert names(folder) == [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    notice = "https://ai.google.dev/gemma/terms"
    assert capsys.readouterr().err.count(notice) == 1
    # What the cache holds of a commit is not asked for again, and the notice is not repeated.
    before = len(hub.asked)
    artifacts.hub_weights("google/gemma-2-2b", cache=tmp_path)
    again = [name for name, _ in hub.asked[before:]]
    assert "tokenizer.json" not in again and "model.safetensors.index.json" not in again
    assert notice not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({}, artifacts.ArtifactError, r"holds neither model\.safetensors nor model\.saf.*index"),
        ({"tokenizer.json": None}, artifacts.ArtifactError, "holds no tokenizer"),
        ({"config.json": None}, artifacts.ArtifactError, "no such file at revision main"),
        (
            {"model.safetensors.index.json": b"[1]"},
            artifacts.ArtifactError,
            "is not a safetensors index",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../up"}}'},
            ValueError,
            r"'\.\./\.\./up'",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'},
            artifacts.ArtifactError,
            r"cannot fetch gone\.safetensors of owner/model.*no such file",
        ),
    ],
)
def test_repositories_that_cannot_be_used(change, kind, message, hub, tmp_path):
    hub.files = {k: v for k, v in (hub.files | change).items() if v is not None}
    with pytest.raises(kind, match=message):
        artifacts.hub_weights("owner/model", cache=tmp_path)


def test_a_failure_between_the_files_is_not_taken_for_a_missing_file(hub, tmp_path, monkeypatch):
    def cut_off(repo_id, filename, **options):
        if filename == "model.safetensors":
            raise not_cached(no_network())
        return hub.download(repo_id, filename, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cut_off)
    with pytest.raises(artifacts.ArtifactError, match=r"cannot fetch model\.safetensors.*network"):
        artifacts.hub_weights("owner/model", cache=tmp_path)

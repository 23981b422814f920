"""A model on the Hub: its small files at once, its weights when they are asked for."""

import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from probejax.artifacts.cache import GEMMA_NOTICE, ArtifactError, Location, refuse_outside
from probejax.artifacts.hub import hub_etag, hub_file, hub_file_if_any
from probejax.foreign import read_json

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_TOKENIZER_SETTINGS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class HubModel(NamedTuple):
    """A model of which config.json and the tokenizer's files are in the cache.

    Attributes:
        repo_id: as on the Hub, such as `google/gemma-2-2b`.
        folder: where its files are; it is named by their commit.
        weights: the names of its safetensors files, and the Hub's hashes of them.
    """

    repo_id: str
    folder: Path
    weights: dict[str, str]


def hub_model(repo_id: str, revision: str | None = None, cache: Location | None = None) -> HubModel:
    """Fetches what tells a model's numbers and cuts its text, and looks where its weights are.

    The weights are model.safetensors or, without one, the files that model.safetensors.index.json
    names. All files are of one commit, the one that `revision` means when config.json is fetched.

    Raises:
        ArtifactError: as for `hub_file`, or the repository holds no tokenizer or no such weights.
        ValueError: the index is damaged, or names a file outside the repository.
    """
    folder = hub_file(repo_id, "config.json", revision, cache).parent
    commit = folder.name
    found = [hub_file_if_any(repo_id, name, commit, cache) for name in _TOKENIZERS]
    if not any(found):
        raise ArtifactError(
            f"{repo_id} on the Hugging Face Hub holds no tokenizer: expected {_TOKENIZERS[0]} or "
            f"{_TOKENIZERS[1]}; choose a repository that has one"
        )
    for name in _TOKENIZER_SETTINGS:
        hub_file_if_any(repo_id, name, commit, cache)
    if etag := hub_etag(repo_id, _WEIGHTS, commit, cache):
        return HubModel(repo_id, folder, {_WEIGHTS: etag})
    index = hub_file_if_any(repo_id, _INDEX, commit, cache)
    if index is None:
        raise ArtifactError(
            f"{repo_id} on the Hugging Face Hub holds neither {_WEIGHTS} nor {_INDEX}; choose a "
            "repository with safetensors weights"
        )
    weights = {}
    advice = "it is so on the Hub: choose another repository or revision"
    for shard in sorted(set(read_json(index, _Index, advice).weight_map.values())):
        refuse_outside(shard, _INDEX)
        etag = hub_etag(repo_id, shard, commit, cache)
        if etag is None:
            raise ArtifactError(
                f"{repo_id} on the Hugging Face Hub holds no {shard}, which its {_INDEX} names; "
                "choose a repository whose weights are whole"
            )
        weights[shard] = etag
    return HubModel(repo_id, folder, weights)


def hub_weights(model: HubModel, cache: Location | None = None) -> None:
    """Fetches the weights that are not in the model's folder yet.

    Raises:
        ArtifactError: as for `hub_file`.
    """
    absent = [name for name in model.weights if not (model.folder / name).exists()]
    if absent and "gemma" in model.repo_id.lower():
        sys.stderr.write(GEMMA_NOTICE)
    for name in model.weights:
        hub_file(model.repo_id, name, model.folder.name, cache)

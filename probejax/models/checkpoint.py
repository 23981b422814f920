"""Finds a checkpoint by name and loads it: model, tokenizer and what identifies them."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tokenizers

from probejax import artifacts
from probejax.foreign import open_regular, read_json, require_regular
from probejax.models import bos as of_bos
from probejax.models import (
    chat,
    families,
    ggml_vocabulary,
    gguf_config,
    hf_config,
    safetensors,
    tokens,
    weights,
)
from probejax.models.config import ModelConfig
from probejax.models.gguf import Gguf
from probejax.models.gguf_header import parts, read_header
from probejax.models.layouts import Named
from probejax.models.presets import PRESETS
from probejax.models.transformer import Transformer
from probejax.sites import Site, parse

PINNED = {  # models that come without an account
    "gemma-3-270m": artifacts.gemma_3_270m,
    "smollm2-135m": artifacts.smollm2_135m,
}
# What may be meant by a name with a slip in it. Base models of Gemma 3 end in -pt, but for one.
_BASES = {name: name if name[:7] == "gemma-2" else f"{name}-pt" for name in PRESETS} | {
    "gemma-3-270m": "gemma-3-270m"
}
_KNOWN = (*(f"google/{n}" for name in _BASES for n in (_BASES[name], f"{name}-it")), *PINNED)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk, not yet read; one on the Hub, of which only small files are here.

    Attributes:
      name: label in results, e.g. `gemma-3-270m`.
      path: a GGUF file or a folder of safetensors.
      fingerprint: hash that changes when the weights, the config or the tokenizer do.
      fetch_weights: brings those that are still on the Hub.
    """

    name: str
    path: Path
    fingerprint: str
    fetch_weights: Callable[[], None] = dataclasses.field(
        default=lambda: None, repr=False, compare=False
    )

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The numbers of the model.

        Raises:
          ValueError: a model that probejax does not run, or a damaged file.
        """
        if self.path.is_file():
            return gguf_config.from_gguf(self._gguf.fields, self.name, self._gguf)
        fields = read_json(self.path / "config.json", dict[str, Any], "download it again")
        return hf_config.from_hf(fields, self.name)

    @functools.cached_property
    def _gguf(self) -> Gguf:
        return Gguf(self.path)

    def transformer(
        self, n_layers: int | None, dtype: Any, mesh: jax.sharding.Mesh | None = None
    ) -> Transformer:
        """Reads the weights of the first `n_layers` blocks, or of all of them.

        Raises:
          ArtifactError: they are on the Hub and could not be fetched.
          ValueError: a file is damaged, or not of this model.
        """
        config = self.config  # first: it may say that these are no weights to read
        if mesh is not None:
            weights.check_mesh(config, mesh.shape.get("model", 1))
        self.fetch_weights()
        family = families.named(config.family)
        if self.path.is_file():
            source = Named(self._gguf, family.gguf, config)
        else:
            files = safetensors.Safetensors(self.path)
            source = safetensors.text_model(files, family.files, config)
        return weights.load(config, source, n_layers=n_layers, dtype=dtype, mesh=mesh)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Reads the tokenizer."""
        if self.path.is_file():
            return tokens.tokenizer_from_gguf(self.path)
        return tokens.tokenizer_from_folder(self.path)

    @functools.cached_property
    def bos(self) -> of_bos.Bos:
        """What the model's files say of BOS."""
        if self.path.is_file():
            return of_bos.of_vocabulary(ggml_vocabulary.read(self._gguf.fields, self.path))
        return of_bos.of_folder(self.path, self.tokenizer)

    @functools.cached_property
    def chat_template(self) -> str | None:
        """What its tokenizer makes turns of a chat with, see `models.chat`; None without one."""
        if self.path.is_file():
            return chat.of_header(self._gguf.fields)
        return chat.of_folder(self.path)

    def template(self, wanted: bool) -> str | None:
        """Returns the chat template where one is wanted.

        Raises:
          ValueError: there is none.
        """
        if wanted and not self.chat_template:
            raise ValueError(
                f"--chat_template makes each prompt a turn of a chat, and {self.name} has no "
                "template for that; leave it out, or take a model that was trained to chat."
            )
        return self.chat_template if wanted else None

    def bos_token(self, rule: str = "auto") -> str | None:
        """Returns the text of the token to put before each prompt, see `bos.chosen`.

        Raises:
          ValueError: there is none where one is wanted.
        """
        return of_bos.chosen(self.bos, rule, self.name)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model in memory: numbers, weights, tokenizer, the text of its BOS, its chat template."""

    config: ModelConfig
    transformer: Transformer
    tokenizer: tokenizers.Tokenizer
    bos: str | None = tokens.BOS
    chat_template: str | None = None

    def __repr__(self) -> str:
        return f"LoadedModel({self.config.name}, {self.transformer})"


def find(spec: str, *, cache_dir: str | Path | None = None) -> Checkpoint:
    """Locates a model; its weights stay on the disk, or on the Hub until they are asked for.

    Args:
      spec: `gemma-3-270m`; a GGUF file; a folder with config.json and safetensors; or the id of a
        Hugging Face repository such as `google/gemma-2-2b`.
      cache_dir: where fetched files live; see `probejax.artifacts.cache_dir`.

    Raises:
      FileNotFoundError: a path that does not exist, or a folder that is not a model's.
      ArtifactError: the files could not be fetched.
      ValueError: a spec that is none of these.
    """
    path = artifacts.local_path(spec)
    if spec in PINNED:
        path = PINNED[spec](cache_dir)
    elif os.path.isdir(path):
        safetensors.files(path)
        if not (path / "config.json").exists():
            raise FileNotFoundError(f"{path} has no config.json; --model wants a model folder.")
    elif artifacts.exists(path):
        require_regular(path)
    else:
        return _find_on_hub(spec, cache_dir)
    # An archive with a known hash has one tokenizer, and what was harvested of it still counts.
    cutting = "" if spec in PINNED else tokens.fingerprint(path)
    return Checkpoint(_name(spec), path, _fingerprint(path, cutting))


def _name(spec: str) -> str:
    return spec.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


def _find_on_hub(spec: str, cache_dir: str | Path | None) -> Checkpoint:
    if artifacts.is_path(spec):
        raise FileNotFoundError(f"--model={spec}: {artifacts.no_such_path(spec)}")
    repo_id = spec.rstrip("/")
    if repo_id.count("/") != 1:
        raise ValueError(
            f"--model={spec} is no file, no folder and no Hugging Face id (owner/name); without an "
            f"account there is {', '.join(PINNED)}{artifacts.did_you_mean(repo_id, _KNOWN) or '.'}"
        )
    try:
        model = artifacts.hub_model(repo_id, cache=cache_dir)
    except artifacts.NoSuchRepository as error:
        near = artifacts.did_you_mean(repo_id, _KNOWN)
        raise artifacts.NoSuchRepository(
            f"--model={spec} is no file or folder here, and {error}{near}"
        ) from error
    digest = hashlib.sha256((model.folder / "config.json").read_bytes())
    digest.update("".join(f"{file}:{etag};" for file, etag in model.weights.items()).encode())
    digest.update(tokens.fingerprint(model.folder).encode())
    fetch = functools.partial(artifacts.hub_weights, model, cache_dir)
    return Checkpoint(_name(spec), model.folder, digest.hexdigest()[:16], fetch)


def load(
    spec: str,
    layers: Sequence[int | str | Site] | None = None,
    *,
    dtype: Any = jnp.float32,
    cache_dir: str | Path | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> LoadedModel:
    """Loads a model up to the last place where it will be read.

    Args:
      spec: as for `find`.
      layers: where it will be read, see `sites.parse`; None loads the whole model.
      dtype: float32 or bfloat16.
      cache_dir: where fetched files live.
      mesh: where to put the weights, cut along its axis "model".

    Raises:
      ValueError: a layer that the model does not have, or a damaged checkpoint.
    """
    checkpoint = find(spec, cache_dir=cache_dir)
    n_layers = None
    if layers is not None:
        sites = [parse(layer) for layer in layers]
        checkpoint.config.check(sites)
        n_layers = max(site.blocks for site in sites)
    transformer = checkpoint.transformer(n_layers, dtype, mesh)
    texts = (checkpoint.tokenizer(), checkpoint.bos.token, checkpoint.chat_template)
    return LoadedModel(checkpoint.config, transformer, *texts)


def _tensors(file: Path) -> list[tuple[int, int]]:
    """Returns where the tensors of a file begin, and how long they are; none of a damaged one."""
    if file.name == "config.json":
        return []
    try:
        if file.suffix == ".safetensors":
            return safetensors.places(file)
        tensors = read_header(file).tensors.values()  # whatever a GGUF file is called
        return [(each.offset, each.n_bytes) for each in tensors]
    except ValueError:  # the loader says what is wrong with it
        return []


def _fingerprint(path: Path, cutting: str, samples: int = 64, block: int = 1 << 16) -> str:
    """Hashes the config, and of the weights sizes and blocks, not all of them.

    Whole files would take minutes. The blocks are evenly spaced, and where the files may change
    there is one more in the middle of every tensor: a matrix that was edited shows.

    Args:
      path: a GGUF file or a folder.
      cutting: hash of what cuts text into tokens; empty if nothing may change.
      samples: evenly spaced blocks of a file.
      block: bytes of one.
    """
    digest = hashlib.sha256()
    one_file = path.is_file()
    for file in parts(path) if one_file else [path / "config.json", *safetensors.files(path)]:
        size = file.stat().st_size
        digest.update(f"{'' if one_file else file.name}:{size};".encode())
        with open_regular(file) as stream:
            for i in range(samples):
                stream.seek(i * max(size - block, 0) // max(samples - 1, 1))
                digest.update(stream.read(block))
            for start, length in _tensors(file) if cutting else ():
                stream.seek(start + max(0, length - block) // 2)
                digest.update(stream.read(min(length, block)))
    digest.update(cutting.encode())
    return digest.hexdigest()[:16]

"""SAELens' list of pretrained SAEs: its names for releases, and what lies behind them.

`sae_lens_list.json.xz` holds the names, repositories and places of `pretrained_saes.yaml` in
sae-lens 6.54.12 (MIT licence, copyright 2023 Joseph Bloom); `tests/golden/sae_lens_list.py` makes
it. A name is typed `<release>/<SAE>`, such as `gpt2-small-res-jb/blocks.8.hook_resid_pre`.
"""

import functools
import lzma
from pathlib import Path
from typing import NamedTuple

import msgspec

from probejax.artifacts import did_you_mean

_DATA = Path(__file__).with_suffix(".json.xz")
SAE_LENS = ("cfg.json", "sae_weights.safetensors")
DICTIONARY_LEARNING = ("config.json", "ae.pt", "eval_results.json?")

# The files of every conversion that we read; a question mark ends what may be missing.
_FILES = {
    "": SAE_LENS,
    "gemma_2": ("params.npz",),
    "gemma_3": ("params.safetensors", "config.json?"),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "llama_scope_r1_distill": ("config.json", "sae_weights.safetensors"),
    "dictionary_learning_1": DICTIONARY_LEARNING,
    "deepseek_r1": ("",),
    "goodfire": ("",),
    "qwen_scope": ("",),
}
_NOT_READ = {
    "gemma_2_transcoder": "a transcoder of Gemma Scope",
    "mwhanna_transcoder": "a transcoder (one safetensors file for a layer)",
    "mntss_clt_layer_transcoder": "one layer of a cross-layer transcoder",
    "connor_rob_hook_z": "an SAE of attention heads in a PyTorch file of its own kind",
    "temporal": "a temporal SAE",
    "norm_scaling_factor": "in SAELens' format, but with a norm_scaling_factor outside its files",
    "normalize_activations": "in SAELens' format, but with another normalize_activations than its "
    "files say",
}


class _Release(msgspec.Struct):
    repository: str
    model: str
    conversion: str
    saes: dict[str, str]  # name of an SAE -> where it is in the repository, empty for the same


class Listed(NamedTuple):
    """An SAE of the list.

    Attributes:
      repository: owner and name.
      folder: where in it; a file where the SAE is one file.
      files: what to fetch from there; a question mark ends what may be missing.
      model: the model that the list names.
    """

    repository: str
    folder: str
    files: tuple[str, ...]
    model: str


@functools.cache
def releases() -> dict[str, _Release]:
    """Returns all releases by name."""
    return msgspec.json.decode(lzma.decompress(_DATA.read_bytes()), type=dict[str, _Release])


def find(spec: str) -> Listed | None:
    """Returns the SAE that `<release>/<SAE>` names, None if there is no such release.

    Raises:
      ValueError: the release has no such SAE, or it is in a format that we do not read.
    """
    name, _, sae = spec.partition("/")
    release = releases().get(name)
    if release is None:
        return None
    if sae not in release.saes:
        near = did_you_mean(f"{name}/{sae}", (f"{name}/{each}" for each in release.saes))
        raise ValueError(
            f"SAELens' release {name} has no SAE {sae or 'without a name'}"
            f"{near or f'; one of its {len(release.saes)} is {name}/{next(iter(release.saes))}.'}"
        )
    folder = release.saes[sae] or sae
    kind = _NOT_READ.get(release.conversion, "")
    if release.conversion == "gemma_3" and folder.startswith("transcoder"):
        kind = "a transcoder of Gemma Scope 2"
    if kind:
        raise ValueError(f"{spec} is {kind}, which probejax does not read; choose another SAE.")
    return Listed(release.repository, folder, _FILES[release.conversion], release.model)


def canonical(repository: str, folder: str) -> str | None:
    """Returns where the canonical SAE (L0 nearest 100) of `layer_<n>/width_<w>` lies, if it is one.

    Args:
      repository: name without its owner, such as `gemma-scope-2b-pt-res`.
      folder: the folder of a layer and width.
    """
    release = releases().get(f"{repository}-canonical")
    return release.saes.get(f"{folder}/canonical") if release else None


def folders(repository: str) -> list[str]:
    """Returns all places in a repository that the list knows."""
    found = (each for each in releases().values() if each.repository == repository)
    return [path or sae for each in found for sae, path in each.saes.items()]

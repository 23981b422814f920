"""Known releases of SAEs: what a short id means, which files to fetch, and where their pages are.

A short id is the name of the repository and the folder in it, such as
`gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_408`, or SAELens' name of a release and an SAE,
see `sae_lens_list`; with the owner in front, repositories that are not listed here work too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from probejax import artifacts
from probejax.saes import sae_lens_list
from probejax.saes.sae_lens_list import DICTIONARY_LEARNING, SAE_LENS


class Family(NamedTuple):
    """Repositories that are laid out alike.

    Attributes:
      owner: who publishes them.
      repository: pattern of their names; groups of a name are used for `model`.
      folder: pattern of what follows in a short id.
      files: what to fetch from there; a question mark ends what may be missing.
      model: the model they were trained on, as a template of the groups.
      example: a short id.
    """

    owner: str
    repository: str
    folder: str
    files: tuple[str, ...]
    model: str
    example: str


FAMILIES = (
    Family(
        "google",
        r"gemma-scope-(2b|9b|27b)-(pt|it)-(?:res|mlp|att)",
        r"(?:layer_\d+|embedding)/width_\w+/(?:average_l0_\d+|canonical)",
        ("params.npz",),
        "gemma-2-{0}{1}",
        "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_408",
    ),
    Family(
        "google",
        r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)",
        r"(?:resid_post|attn_out|mlp_out)(?:_all)?/layer_\d+_width_\w+_l0_[a-z]+(?:_seed_1)?",
        ("params.safetensors", "config.json?"),
        "gemma-3-{0}{1}",
        "gemma-scope-2-270m-pt/resid_post/layer_9_width_16k_l0_medium",
    ),
    Family(
        "fnlp",
        r"Llama3_1-8B-Base-LX[RMA]-(?:8|32)x",
        r"Llama3_1-8B-Base-L\d+[RMA]-(?:8|32)x",
        ("hyperparams.json", "checkpoints/final.safetensors"),
        "Llama-3.1-8B",
        "Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x",
    ),
    Family(
        "fnlp",
        r"Llama-Scope-R1-Distill",
        r"[\w-]+/L\d+R",
        ("config.json", "sae_weights.safetensors"),
        "DeepSeek-R1-Distill-Llama-8B",
        "Llama-Scope-R1-Distill/800M-Slimpajama-0-OpenR1-Math-220k/L15R",
    ),
    Family(
        "canrager",
        r"saebench_(gemma-2-2b|pythia-160m-deduped)_width-2pow\d+_date-(?:0107|1109)",
        r"[\w.-]+/resid_post_layer_\d+/trainer_\d+",
        DICTIONARY_LEARNING,
        "{0}",
        "saebench_gemma-2-2b_width-2pow14_date-0107/"
        "gemma-2-2b_top_k_width-2pow14_date-0107/resid_post_layer_12/trainer_2",
    ),
    Family(
        "adamkarvonen",
        r"saebench_(gemma-2-2b|pythia-160m-deduped)_width-2pow\d+_date-010[48]",
        r"[\w.-]+/resid_post_layer_\d+/trainer_\d+",
        DICTIONARY_LEARNING,
        "{0}",
        "saebench_gemma-2-2b_width-2pow12_date-0108/"
        "MatryoshkaBatchTopK_gemma-2-2b__0108/resid_post_layer_12/trainer_0",
    ),
    Family(
        "adamkarvonen",
        "temp",
        r"old_relu_google_gemma-2-2b_standard/resid_post_layer_\d+/trainer_\d+",
        DICTIONARY_LEARNING,
        "gemma-2-2b",
        "temp/old_relu_google_gemma-2-2b_standard/resid_post_layer_12/trainer_0",
    ),
    Family(
        "andyrdt",
        r"saes-(?:llama-3.1-8b-instruct|qwen2.5-7b-instruct|gpt-oss-20b)",
        r"resid_post_layer_\d+/trainer_\d+",
        DICTIONARY_LEARNING,
        "",
        "saes-qwen2.5-7b-instruct/resid_post_layer_15/trainer_1",
    ),
    Family(
        "EleutherAI",
        r"(?!SAE-Res-)(?:sae|SAE)-[\w.-]+",
        r"layers\.\d+(?:\.mlp)?|embed_tokens",
        ("cfg.json", "sae.safetensors"),
        "",
        "sae-llama-3-8b-32x/layers.10",
    ),
    Family(
        "Qwen",
        r"SAE-Res-(.+)-W\d+K-L0_\d+",
        r"layer\d+\.sae\.pt",
        ("",),
        "{0}",
        "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer12.sae.pt",
    ),
    Family(
        "Goodfire",
        r"(Llama-3\.[13]-\d+B-Instruct)-SAE-l\d+",
        r"Llama-3\.[13]-\d+B-Instruct-SAE-l\d+\.pth?",
        ("",),
        "{0}",
        "Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth",
    ),
    Family(
        "jbloom",
        r"GPT2-Small-[\w-]+",
        r"[\w.]+",
        SAE_LENS,
        "gpt2",
        "GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre",
    ),
)


class Release(NamedTuple):
    """One SAE on the Hub.

    Attributes:
      repository: owner and name.
      folder: where in it; a file where the SAE is one file.
      files: what to fetch, relative to the folder; a question mark ends what may be missing.
      model: the model it was trained on, None where the id does not say.
    """

    repository: str
    folder: str
    files: tuple[str, ...]
    model: str | None


_OWN_FILES = {
    name.removesuffix("?") for family in FAMILIES for name in (*family.files, "checkpoints") if name
}
_SHORTEST = 8  # letters of a name that is compared with what was typed


def folder_of(spec: str) -> str:
    """Returns an id without the slashes, or the name of an SAE's own file, at its end."""
    spec = spec.rstrip("/")
    for name in sorted(_OWN_FILES, key=len, reverse=True):
        spec = spec.removesuffix(f"/{name}")
    return spec


def find(spec: str) -> Release | None:
    """Returns the SAE that a short id means, None if the text is no such id.

    Raises:
      ValueError: an SAE that a known release does not have, or in a format that is not read; a
        folder that a known repository cannot have; or a slip in a known name. The message shows an
        example.
    """
    first, _, rest = spec.partition("/")
    second, _, last = rest.partition("/")
    if _is_listed(first, rest) and (listed := sae_lens_list.find(spec)):
        family = _family(listed.repository)
        model = _model(*family) if family else listed.model
        return Release(*listed[:3], model)
    for owner, name, folder in ((None, first, rest), (first, second, last)):
        family, groups = _family(f"{owner}/{name}" if owner else name) or (None, ())
        if family is None:
            continue
        repository = f"{family.owner}/{name}"
        if not re.fullmatch(family.folder, folder):
            raise ValueError(
                f"{spec} is not laid out as the SAEs of {repository} are; expected something like "
                f"{family.example}."
            )
        folder = _canonical(name, folder)
        return Release(repository, folder, family.files, _model(family, groups))
    if last and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*){2,}", spec) and not artifacts.exists(first):
        if near := did_you_mean(first):
            raise ValueError(f"{spec} begins with the name of no known release{near}")
        return Release(f"{first}/{second}", last, SAE_LENS, None)
    return None


def _is_listed(name: str, sae: str) -> bool:
    """Says whether SAELens' list decides: it has the SAE, or else no family knows the name."""
    release = sae_lens_list.releases().get(name)
    return release is not None and (sae in release.saes or not _family(name))


def _family(repository: str) -> tuple[Family, tuple[str, ...]] | None:
    """Returns the family of a repository, with its owner or without, and what its name says."""
    owner, _, name = repository.rpartition("/")
    for family in FAMILIES:
        found = re.fullmatch(family.repository, name)
        if found and owner in ("", family.owner):
            return family, found.groups()
    return None


def did_you_mean(name: str) -> str:
    """Returns the end of a sentence that offers known names of releases, or nothing."""
    return artifacts.did_you_mean(name, (each for each in _names() if len(each) >= _SHORTEST))


def _names() -> Iterator[str]:
    for name, release in sae_lens_list.releases().items():
        yield from (release.repository, name)
    for family in FAMILIES:
        yield f"{family.owner}/{family.example.partition('/')[0]}"


def fetch(release: Release, cache_dir: str | Path | None = None) -> Path:
    """Returns the folder, or the file, of a release; its files are fetched one by one.

    All are of the commit that the main branch means when the first is fetched.

    Raises:
      ArtifactError: a file is missing or cannot be had.
    """
    commit, place = None, Path()
    try:
        for name in release.files:
            filename = f"{release.folder}/{name.removesuffix('?')}".rstrip("/")
            if name.endswith("?") and commit:
                artifacts.hub_file_if_any(release.repository, filename, commit, cache_dir)
                continue
            path = artifacts.hub_file(release.repository, filename, commit, cache_dir)
            root = artifacts.snapshot(path, filename)
            commit, place = root.name, root / release.folder
    except artifacts.NoSuchRepository as error:
        spec = f"{release.repository}/{release.folder}"
        raise artifacts.NoSuchRepository(
            f"--sae={spec} is no file or folder here, and {error}{did_you_mean(release.repository)}"
        ) from error
    except artifacts.NoSuchFile as error:
        near = artifacts.did_you_mean(release.folder, sae_lens_list.folders(release.repository))
        raise artifacts.NoSuchFile(f"{error}{near}") from error
    return place


def _model(family: Family, groups: tuple[str, ...]) -> str | None:
    if (
        "gemma" in family.model and groups
    ):  # base models of Gemma 2 have no suffix; those of Gemma 3 mostly do
        size, tuning = groups
        base = "" if size == "270m" or "gemma-2" in family.model else "-pt"
        return family.model.format(size, "-it" if tuning == "it" else base)
    return family.model.format(*groups) or None


def _canonical(name: str, folder: str) -> str:
    """Replaces `canonical` by the L0 nearest 100, as SAELens' list has it."""
    if not folder.endswith("/canonical"):
        return folder
    place = folder.removesuffix("/canonical")
    found = sae_lens_list.canonical(name, place)
    if found is None:
        raise ValueError(f"{name} has no canonical SAE in {place}; give its average_l0.")
    return found


def neuronpedia(path: str) -> str | None:
    """Returns the id of an SAE's pages, found by the names in its path; None if there are none."""
    if found := re.search(
        r"(gemma-scope-(\d+b)-(pt|it)-(res|mlp|att))\b.*/layer_(\d+)/width_(\w+)/average_l0_(\d+)",
        path,
    ):
        name, size, tuning, part, layer, width, l0 = found.groups()
        page = f"gemma-2-{size}{'-it' if tuning == 'it' else ''}/{layer}-gemmascope-{part}-{width}"
        folder = f"layer_{layer}/width_{width}"
        if sae_lens_list.canonical(name, folder) == f"{folder}/average_l0_{l0}":
            return page
        paged = (name, layer) == ("gemma-scope-9b-pt-res", "20") and width in ("16k", "131k", "1m")
        return f"{page}__l0-{l0}" if paged else None
    if found := re.search(
        r"gemma-scope-2-(\d+[mb])-(pt|it)\b.*/resid_post/layer_(\d+)_width_(\w+?)_l0_medium(?=/|$)",
        path,
    ):
        size, tuning, layer, width = found.groups()
        tuned = "-it" if tuning == "it" else ""
        return f"gemma-3-{size}{tuned}/{layer}-gemmascope-2-res-{width}"
    if found := re.search(r"Llama3_1-8B-Base-L(\d+)([RMA])-(8|32)x", path):
        layer, part, factor = found.groups()
        site, width = {"R": "res", "M": "mlp", "A": "att"}[part], {"8": "32k", "32": "131k"}[factor]
        return f"llama3.1-8b/{layer}-llamascope-{site}-{width}"
    return None

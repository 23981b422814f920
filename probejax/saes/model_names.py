"""Names of models: those who make a model and those who train SAEs on it write them differently."""

import re

_TUNED = re.compile(r"(.+)-(?:it|instruct|chat)", re.IGNORECASE)
_BASE = re.compile(r"(.+?)(?:-pt|-base)?", re.IGNORECASE)
# TransformerLens' short names, lower-case, for models that their makers call otherwise.
_SHORT = {
    "gpt2-small": "gpt2",
    "distil-gpt2": "distilgpt2",
    "mistral-7b": "Mistral-7B-v0.1",
    "mistral-7b-instruct": "Mistral-7B-Instruct-v0.1",
    "gemma-3-270m-pt": "gemma-3-270m",  # the one base model of Gemma 3 without a suffix
}


def usual(text: str | None) -> str | None:
    """Returns the name by which its makers call a model, the last part of its Hugging Face id.

    `google/gemma-v3-1b-it` is gemma-3-1b-it, `gpt2-small` is gpt2, and `Meta-Llama-3.1-8B` is
    Llama-3.1-8B.
    """
    if not text:
        return None
    name = text.rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"^gemma-v(?=\d)", "gemma-", name, flags=re.IGNORECASE)
    name = re.sub(r"^meta-(?=llama-)", "", name, flags=re.IGNORECASE)
    name = re.sub(r"(?<=.)-hf$", "", name, flags=re.IGNORECASE)
    return _SHORT.get(name.lower(), name)


def comparable(text: str | None) -> str:
    """Returns what is equal for two names of one model; empty where there is none."""
    return (usual(text) or "").lower()


def instructed(base: str | None, model: str) -> bool:
    """Says whether a model is what instructions made of a base model."""
    family, tuning = _BASE.fullmatch(comparable(base)), _TUNED.fullmatch(comparable(model))
    same = family is not None and tuning is not None and family[1] == tuning[1]
    return same and not _TUNED.fullmatch(comparable(base))


def is_known(model: str) -> bool:
    """Says whether SAEs are published for a model, or for one that could be taken for it."""
    return comparable(model) in _KNOWN


_PUBLISHED = (
    *(f"gemma-2-{size}{tuning}" for size in ("2b", "9b", "27b") for tuning in ("", "-it")),
    *(f"gemma-3-{size}-{tuning}" for size in ("1b", "4b", "12b", "27b") for tuning in ("pt", "it")),
    *(f"gemma-{size}{tuning}" for size in ("2b", "7b") for tuning in ("", "-it")),
    *(f"pythia-{size}{data}" for size in ("70m", "160m") for data in ("", "-deduped")),
    *(f"Llama-{version}-8B{tuning}" for version in ("3", "3.1") for tuning in ("", "-Instruct")),
    *("gemma-3-270m", "gemma-3-270m-it", "DeepSeek-R1-Distill-Llama-8B"),
    *("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"),
)
_KNOWN = frozenset(map(comparable, _PUBLISHED))

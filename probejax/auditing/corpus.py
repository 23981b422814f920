"""Neutral texts, on whose tokens the direction of a probe is looked at, and their activations."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from probejax import foreign, tasks
from probejax.activations.language_model import LanguageModel
from probejax.auditing.tokens import Corpus
from probejax.models import tokens as tokenizers
from probejax.sites import Site
from probejax.tasks import Own
from probejax.tasks.content import MOST_BYTES

MOST_TOKENS = 100_000
LENGTH = 128  # tokens kept of a text
_EACH = 10  # prompts of every other task


def read(place: str | Path) -> tuple[str, ...]:
    """Returns the texts of a file or of all files of a folder.

    Args:
      place: `.txt` files hold a text per line; any other is read as `--data` is.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or no text in it.
    """
    path = Path(place)
    plain = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.suffix == ".txt" else []
    found: dict[str, None] = {}
    for each in plain:
        foreign.require_regular(each)
        with foreign.parsing(each, "write it as UTF-8"):
            lines = foreign.read_bytes(each, MOST_BYTES).decode().splitlines()
        found |= dict.fromkeys(line for line in lines if line.strip())
    if not plain:
        own = Own(path)
        for name in tasks.match(("own",), own):
            found |= dict.fromkeys(tasks.load(name, data=own).prompts)
    if not found:
        raise ValueError(f"--corpus={place} holds no text; give a file with a text per line.")
    return tuple(found)


def of_other_tasks(
    audited: Collection[str], cache_dir: str | Path | None = None
) -> tuple[str, ...]:
    """Returns the first prompts of each of the study's tasks, but for those that are audited.

    Args:
      audited: names of tasks; a task of the same name but for what follows its last `_` is left
        out, too.
      cache_dir: where the study's tasks are.
    """
    families = {name.split("_", 1)[-1].rpartition("_")[0] for name in audited} - {""}
    found: dict[str, None] = {}
    for name in tasks.names():
        if name in audited or name.split("_", 1)[-1].rpartition("_")[0] in families:
            continue
        prompts = tasks.load(name, cache_dir=cache_dir).prompts
        found |= dict.fromkeys(list(dict.fromkeys(prompts[: 4 * _EACH]))[:_EACH])
    return tuple(found)


def activate(model: LanguageModel, site: Site, texts: Sequence[str], about: str) -> Corpus:
    """Returns the tokens of texts with their activations, of as many texts as fit the limit.

    Args:
      model: gives the activations.
      site: where it is read.
      texts: the texts; the last tokens of each are kept.
      about: where they are from, for the page.
    """
    ids = tokenizers.encode(model.tokenizer, list(texts), LENGTH)
    order = np.random.RandomState(0).permutation(len(ids))
    counts = np.cumsum([len(ids[i]) for i in order])
    some = order[: max(1, int((counts <= MOST_TOKENS).sum()))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that texts are cut, which the page says
        wanted = [texts[i] for i in some]
        found = model.activations(list(map(str, wanted)), site, positions="all", max_length=LENGTH)
    parts = zip(found.starts, found.counts, strict=True)
    rows = np.concatenate([np.arange(start, start + count) for start, count in parts])
    flat = np.concatenate([ids[i] for i in some])
    strings = {int(i): model.tokenizer.decode([int(i)], skip_special_tokens=False)
               for i in np.unique(flat)}  # fmt: skip
    cut = "" if len(some) == len(texts) else f" (of {len(texts):,}, drawn at random)"
    return Corpus(
        np.asarray(found.x[rows], np.float32), flat, strings, int(ids[0][0]),
        f"the last {LENGTH} tokens of {len(some):,} texts{cut} of {about}",
    )  # fmt: skip

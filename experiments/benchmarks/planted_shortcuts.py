"""Shortcuts that were planted in real tasks, and which way of an audit names them.

Short ends of prompts, from which every trace of the shortcut was taken; then it is added to 80 % of
one class. (a) is features of the writing, (b) the probe's direction on single tokens, (c) latents.
What is claimed with nothing planted is counted, too, for the true labels and for permuted ones.
"""

import functools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from probejax import sweep, tasks
from probejax.auditing import corpus, neutral_texts
from probejax.auditing.corpus import Corpus
from probejax.auditing.dataset import Dataset, dataset
from probejax.auditing.latents import Latents, latents
from probejax.auditing.shortcuts import CERTAIN, shortcuts
from probejax.auditing.tokens import Tokens, tokens
from probejax.metrics import host_aucs

ROWS, SHARE = 400, 0.8  # of both classes together; of class 1 that gets the shortcut
_END = 120  # characters of a prompt that are kept
_WORD = "also"  # common enough to be in neutral texts
_NEUTRAL = 300  # characters of a neutral text
_OF_WORDS = ("words", "character n-grams")


class Plant(NamedTuple):
    """A shortcut.

    Attributes:
      add: puts it into a text, given a generator.
      names: whether the name of a feature is that of the shortcut.
      mark: the characters it is about, by which tokens name it; empty if there are none.
    """

    add: Callable[[str, np.random.RandomState], str]
    names: Callable[[str], bool]
    mark: str


def _insert(text: str, rng: np.random.RandomState) -> str:
    words = text.split(" ")
    at = rng.randint(len(words) + 1)
    return " ".join([*words[:at], _WORD, *words[at:]])


def _cut(text: str, rng: np.random.RandomState) -> str:
    words = text.split(" ")
    return " ".join(words[: max(1, len(words) // 2)])


PLANTS = {
    "full stop": Plant(
        lambda text, _: f"{text}.",
        lambda name: name in ("ends with '.'", "number of '.'", "has the characters '.'"),
        ".",
    ),
    "leading space": Plant(
        lambda text, _: f" {text}",
        lambda name: name in ("begins with ' '", "leading spaces"),
        " ",
    ),
    "word": Plant(
        _insert,
        lambda name: name.startswith("has the word") and _WORD in re.findall(r"\w+", name),
        _WORD,
    ),
    "length": Plant(_cut, lambda name: name in ("characters", "words"), ""),
}  # fmt: skip


class Texts(NamedTuple):
    """A task as it is planted in: different short texts, as many of either class."""

    name: str
    texts: tuple[str, ...]
    y: np.ndarray


def read(name: str, cache_dir: str | None = None, rows: int = ROWS) -> Texts:
    """Returns ends of a task's prompts without full stops and spaces at their ends, or the word."""
    task = tasks.load(name, cache_dir=cache_dir)
    cut = [text[-_END:].strip(" .\n\t") for text in task.prompts]
    usable = [i for i, text in enumerate(cut) if text and _WORD not in text.casefold().split()]
    texts, labels = [cut[i] for i in usable], task.labels[usable]
    order = np.random.RandomState(0).permutation(tasks.distinct_rows(texts, labels))
    some = np.concatenate([order[labels[order] == y][: rows // 2] for y in (0, 1)])
    return Texts(name, tuple(texts[i] for i in some), labels[some].astype(int))


def plant(given: Texts, which: str) -> tuple[Texts, Bool[np.ndarray, " n"]]:
    """Returns texts with a shortcut in most of class 1, and which have it."""
    rng = np.random.RandomState(zlib.crc32(f"{given.name} {which}".encode()))
    ones = rng.permutation(np.flatnonzero(given.y))
    has = np.isin(np.arange(len(given.y)), ones[: int(SHARE * len(ones))])
    add = PLANTS[which].add
    texts = [add(t, rng) if own else t for t, own in zip(given.texts, has, strict=True)]
    return given._replace(texts=tuple(texts)), has


class Reader:
    """Gives texts their activations, from the cache where they are in it."""

    def __init__(self, model: str, planted_in: tuple[str, ...], cache_dir: str | None = None):
        """Loads nothing yet.

        Args:
          model: it reads the texts, and an SAE ships for it.
          planted_in: tasks whose prompts are no neutral texts.
          cache_dir: the cache.
        """
        config = sweep.Config(model=model, tasks=("demo",), methods=("sae_k16",))
        self.job = sweep.Execution(sweep.resolve(config, cache_dir))
        self._neutral = functools.partial(neutral_texts.of_other_tasks, planted_in, cache_dir)

    def read(self, given: Texts) -> Dataset:
        """Returns a dataset of texts."""
        (sae,) = self.job.plan.saes.values()
        return dataset(self._x(given.texts, given.name), given.y, texts=given.texts, sae=sae.load())

    def planted(self, clean: Dataset, given: Texts, has: Bool[np.ndarray, " n"]) -> Dataset:
        """Returns a clean dataset with planted texts in place of some; only those are read."""
        x, texts = clean.x.copy(), np.array(given.texts, dtype=object)
        x[has] = self._x(texts[has].tolist(), given.name)
        return dataset(x, given.y, texts=given.texts, sae=clean.sae)

    def _x(self, texts: Sequence[str], name: str) -> np.ndarray:
        (found,) = self.job.read(texts, name, self.job.plan.recipe).values()
        return np.asarray(found.last(), np.float32)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """Neutral texts, token by token."""
        texts = [text[:_NEUTRAL] for text in self._neutral()]
        return corpus.read(self.job, texts, "other tasks")


class Found(NamedTuple):
    """What an audit says of a dataset: features, and with a model tokens and latents."""

    features: pd.DataFrame
    tokens: Tokens | None = None
    latents: Latents | None = None


def look(data: Dataset, reader: Reader | None) -> Found:
    """Audits a dataset for shortcuts, in all three ways if there is a model."""
    features = shortcuts(data).tables[0].rows
    if reader is None:
        return Found(features)
    return Found(features, tokens(data, reader.corpus)[1], latents(data)[1])


def ranks(
    found: Found, planted: Plant, has: Bool[np.ndarray, " n"] | None
) -> dict[str, int | None]:
    """Returns the rank at which each way names a shortcut; None where it does not.

    Args:
      found: what the audit says.
      planted: the shortcut.
      has: the rows that have it, for latents; None where it is in no text.
    """
    claimed = found.features[found.features["beyond_chance"]]
    strength = (claimed["auc"] - 0.5).abs().to_numpy()
    named = {"features": _rank(strength, [planted.names(name) for name in claimed["feature"]])}
    if found.tokens is not None and planted.mark:
        table = found.tokens.table
        rows = table.iloc[np.argsort(-table["score"].abs().to_numpy(), kind="stable")]
        each = [bool(Tokens(rows.iloc[[i]]).naming(planted.mark)) for i in range(len(rows))]
        named["tokens"] = _rank(rows["score"].abs().to_numpy(), each)
    if found.latents is not None and has is not None:
        told = host_aucs(found.latents.values, has[:, None].astype(int))[:, 0]
        order = -np.arange(len(told))
        named["latents"] = _rank(order, np.abs(told - 0.5) >= CERTAIN - 0.5)
    return named


def _rank(strength: np.ndarray, yes: Sequence[bool] | np.ndarray) -> int | None:
    """Returns the rank of the strongest that is meant; what ties with it does not stand before."""
    meant = strength[np.asarray(yes, bool)]
    return 1 + int((strength > meant.max()).sum()) if len(meant) else None


def claims(found: Found) -> dict[str, int]:
    """Returns how many features are beyond chance, by kind, and how many tokens name anything."""
    beyond = found.features[found.features["beyond_chance"]]
    words = int(beyond["family"].isin(_OF_WORDS).sum())
    counts = {"writing": len(beyond) - words, "words": words}
    if found.tokens is not None:
        counts["tokens"] = int(found.tokens.table["beyond_chance"].sum())
    return counts


def cells(name: str, reader: Reader | None, cache_dir: str | None = None) -> Iterator[dict]:
    """Yields what is claimed of a task with nothing planted, and the ranks of each shortcut.

    Args:
      name: of the task.
      reader: gives activations; without one only (a) is measured, which needs none.
      cache_dir: the cache.
    """
    given = read(name, cache_dir)
    if reader is None:
        clean = dataset(np.eye(len(given.y), dtype=np.float32), given.y, texts=given.texts)
    else:
        clean = reader.read(given)
    about = {"task": name, "rows": len(given.y), "model": reader is not None}
    before = look(clean, reader)
    shuffled = clean._replace(y=np.random.RandomState(1).permutation(clean.y))
    by_chance = claims(look(shuffled, reader))
    yield {**about, "plant": "nothing", **claims(before),
           **{f"{key}, labels permuted": count for key, count in by_chance.items()}}  # fmt: skip
    for which, planted in PLANTS.items():
        texts, has = plant(given, which)
        if reader is None:
            data = clean._replace(texts=texts.texts)
        else:
            data = reader.planted(clean, texts, has)
        unplanted = ranks(before, planted, None)
        yield {**about, "plant": which, **ranks(look(data, reader), planted, has),
               **{f"{key}, unplanted": rank for key, rank in unplanted.items()}}  # fmt: skip


def summary(every: pd.DataFrame) -> Iterator[dict]:
    """Yields, for each shortcut, in how many tasks each way names it, and at which rank."""
    for which, part in every[every["plant"] != "nothing"].groupby("plant", sort=False):
        for way in ("features", "tokens", "latents"):
            tried = part if way == "features" else part[part["model"]]
            if (
                way not in tried
                or not len(tried)
                or (way == "tokens" and not PLANTS[str(which)].mark)
            ):
                continue
            rank = tried[way].dropna()
            line = {"name": f"{which}, named by {way}", "tasks": len(tried), "named": len(rank)}
            line |= {"first": int((rank == 1).sum()), "median_rank": rank.median()}
            if f"{way}, unplanted" in tried:
                line["named_unplanted"] = int(tried[f"{way}, unplanted"].notna().sum())
            yield line
    clean = every[every["plant"] == "nothing"]
    for kind in ("writing", "words", "tokens"):
        if kind in clean and (tried := clean[clean[kind].notna()]) is not None and len(tried):
            by_chance = tried[f"{kind}, labels permuted"]
            yield {
                "name": f"claims with nothing planted, {kind}",
                "tasks": len(tried),
                "median": tried[kind].median(),
                "labels permuted, tasks with any": int((by_chance > 0).sum()),
                "labels permuted, mean": float(by_chance.mean()),
            }

"""Neutral texts as tokens with their activations."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax.activations.language_model import LanguageModel
from probejax.models import tokens as tokenizers
from probejax.sites import Site

MOST_TOKENS = 100_000
LENGTH = 128  # tokens kept of a text


class Corpus(NamedTuple):
    """Tokens of neutral texts.

    Attributes:
      x: [t, d] their activations.
      ids: [t] what they are, text after text.
      strings: what each id is as text, for those that occur.
      bos: its id, if there is one.
      about: where they are from.
    """

    x: Float[np.ndarray, "t d"]
    ids: Int[np.ndarray, " t"]
    strings: dict[int, str]
    bos: int | None
    about: str


def activate(model: LanguageModel, site: Site, texts: Sequence[str], about: str) -> Corpus:
    """Returns the tokens of texts with their activations, of as many texts as fit the limit.

    Args:
      model: gives the activations.
      site: where it is read.
      texts: the texts; the last tokens of each are kept.
      about: where they are from, for the page.
    """
    ids, some = drawn(model.tokenizer, texts, model.bos)
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
    bos = None if model.bos is None else model.tokenizer.token_to_id(model.bos)
    return Corpus(
        np.asarray(found.x[rows], np.float32), flat, strings, bos,
        f"the last {LENGTH} tokens of {len(some):,} texts{cut} of {about}",
    )  # fmt: skip


def drawn(
    tokenizer: Any, texts: Sequence[str], bos: str | None
) -> tuple[list[np.ndarray], Int[np.ndarray, " k"]]:
    """Returns the token ids of texts, and which of these, drawn at random, fit the limit."""
    ids = tokenizers.encode(tokenizer, list(texts), LENGTH, bos)
    order = np.random.RandomState(0).permutation(len(ids))
    counts = np.cumsum([len(ids[i]) for i in order])
    return ids, order[: max(1, int((counts <= MOST_TOKENS).sum()))]

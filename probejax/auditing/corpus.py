"""Neutral texts as tokens with their activations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax import activations, sweep
from probejax.models import tokens as tokenizers
from probejax.positions import ALL

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


def recipe(plan: sweep.Plan) -> activations.Recipe:
    """Returns how a model reads neutral texts: every token, and none as a turn of a chat."""
    return dataclasses.replace(plan.recipe, positions=ALL, max_length=LENGTH, chat="")


def read(job: sweep.Execution, texts: Sequence[str], about: str) -> Corpus:
    """Returns the tokens of texts with their activations, of as many texts as fit the limit.

    They stay in the cache, for every audit that reads the same texts.

    Args:
      job: has the model.
      texts: different ones; the last tokens of each are kept.
      about: where they are from, for the page.
    """
    plan = job.plan
    tokenizer, bos = plan.checkpoint.tokenizer(), plan.checkpoint.bos_token(plan.config.bos)
    ids, some = drawn(tokenizer, texts, bos)
    wanted = [texts[int(i)] for i in some]
    (found,) = job.read(wanted, "neutral texts", recipe(plan)).values()
    parts = zip(found.starts, found.counts, strict=True)
    rows = np.concatenate([np.arange(start, start + count) for start, count in parts])
    flat = np.concatenate([ids[i] for i in some])
    strings = {int(i): tokenizer.decode([int(i)], skip_special_tokens=False)
               for i in np.unique(flat)}  # fmt: skip
    cut = "" if len(some) == len(texts) else f" (of {len(texts):,}, drawn at random)"
    return Corpus(
        np.asarray(found.x[rows], np.float32),
        flat,
        strings,
        None if bos is None else tokenizer.token_to_id(bos),
        f"the last {LENGTH} tokens of {len(some):,} texts{cut} of {about}",
    )


def drawn(
    tokenizer: Any, texts: Sequence[str], bos: str | None
) -> tuple[list[np.ndarray], Int[np.ndarray, " k"]]:
    """Returns the token ids of texts, and which of these, drawn at random, fit the limit."""
    ids = tokenizers.encode(tokenizer, list(texts), LENGTH, bos)
    order = np.random.RandomState(0).permutation(len(ids))
    counts = np.cumsum([len(ids[i]) for i in order])
    return ids, order[: max(1, int((counts <= MOST_TOKENS).sum()))]

"""What a model reads of prompts: their tokens, and which of these each vector is taken from."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tokenizers
from jaxtyping import Int

from probejax import positions
from probejax.models import chat, tokens
from probejax.models.config import ModelConfig


class Reading(NamedTuple):
    """What is read of n prompts.

    Attributes:
      ids: the tokens of each, BOS first if there is one; of a long prompt the end.
      places: which token of each its vector is taken from, counted from the end, 1 for the last;
        of a mean, the first that counts.
      cut: numbers of the prompts that are longer.
    """

    ids: list[np.ndarray]
    places: Int[np.ndarray, " n"]
    cut: list[int]

    def seen(self, position: str) -> list[bytes]:
        """Returns the tokens of each prompt on which its vector depends, as bytes.

        A token sees those before it, so of prompts that begin alike and are read before they part
        these are equal, as the vectors are.

        Args:
          position: with which this was read.
        """
        if position == positions.MEAN:
            return [row.tobytes() for row in self.ids]
        ends = zip(self.ids, self.places.tolist(), strict=True)
        return [row[: len(row) - place + 1].tobytes() for row, place in ends]


def read(
    prompts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    config: ModelConfig,
    *,
    bos: str | None,
    template: str | None,
    position: str,
    max_length: int,
) -> Reading:
    """Returns what a model reads of prompts.

    Args:
      prompts: n texts.
      tokenizer: of the model.
      config: of the model.
      bos: text of the token before each; None puts none there.
      template: that makes each the user's turn of a chat; None leaves them as they are.
      position: `all`, or one of `probejax.positions`.
      max_length: tokens kept, BOS included.

    Raises:
      ValueError: a prompt has no token, or not the one that is wanted, or is longer than the
        model's positions; `max_length` is below 1; or the template cannot be used.
    """
    tokens.require_length(max_length)
    skip, texts = int(bos is not None), chat.turns(template, prompts, config.name)
    ids = tokens.encode(tokenizer, texts, max_length + 1, bos)
    cut = [number for number, row in enumerate(ids) if len(row) > max_length]
    for number in cut:
        ids[number] = np.delete(ids[number], skip)
    config.check_length(max(map(len, ids), default=0))
    return Reading(ids, from_end(position, texts, ids, tokenizer, skip), cut)


def require_tokens(
    prompts: Sequence[str], bos: str | None, template: str | None, what: str
) -> None:
    """Raises ValueError if a prompt is empty, and nothing that is put around it has a token."""
    if bos is None and template is None and "" in prompts:
        raise ValueError(
            f"Prompt {list(prompts).index('')} of {what} is empty, and without BOS it has no "
            "token; leave it out, or give --bos=always."
        )


def from_end(
    position: str,
    texts: Sequence[str],
    ids: Sequence[np.ndarray],
    tokenizer: tokenizers.Tokenizer,
    skip: int,
) -> Int[np.ndarray, " n"]:
    """Returns the token of each text that is read, counted from its end, 1 for the last.

    Args:
      position: `all`, of which the last token is returned, or one of `probejax.positions`; of a
        mean, the first token that counts is returned.
      texts: n texts as the model reads them.
      ids: their tokens, BOS first if there is one; of a long text the end.
      tokenizer: that made them.
      skip: 1 where BOS is the first token, else 0. As the last token alone BOS may be read.

    Raises:
      ValueError: a text has no such token.
    """
    lengths = np.array([len(row) - skip for row in ids], int)
    if position in (positions.LAST, positions.ALL):
        return np.ones(len(ids), int)
    back, marker = positions.back(position), positions.marker(position)
    if back is not None:
        found = np.full(len(ids), back)
    elif marker is None:
        found = np.maximum(lengths, 1)  # mean: one token at least
    else:
        whole = _with_spaces(tokenizer)
        found = np.array([_after(marker, text, whole) for text in texts], int)
    for text, wanted, there in zip(texts, found.tolist(), lengths.tolist(), strict=True):
        if not 0 < wanted <= there:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            has = f"{there} token{'s' if there != 1 else ''} that the model reads"
            why = f"does not hold {marker!r}" if wanted == 0 else f"has {has}"
            raise ValueError(
                f"--position={position} is no token of {shown!r}, which {why}; leave the prompt "
                "out, or read another position."
            )
    return found


def _with_spaces(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Returns a tokenizer for which a token begins where its own space does.

    What puts special tokens around texts may be set to leave the space out of a token's offsets
    (`trim_offsets`). It changes no token, and a copy goes without it.
    """
    if tokenizer.post_processor is None:
        return tokenizer
    found = copy.deepcopy(tokenizer)
    found.post_processor = cast(Any, None)
    return found


def _after(marker: str, text: str, tokenizer: tokenizers.Tokenizer) -> int:
    """Returns the place of the token with which a text's last `marker` ends; 0 without one.

    Args:
      marker: what is looked for.
      text: as the model reads it.
      tokenizer: with the spaces in the offsets of its tokens.
    """
    at = text.rfind(marker)
    if at < 0:
        return 0
    starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    return len(starts) - sum(start < at + len(marker) for start in starts) + 1

"""Where in each prompt its vector is read, in tokens."""

from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int

from probejax import positions


def from_end(
    position: str,
    texts: Sequence[str],
    ids: Sequence[np.ndarray],
    tokenizer: tokenizers.Tokenizer,
    skip: int,
) -> Int[np.ndarray, " n"]:
    """Returns the token of each text that is read, counted from its end, 1 for the last.

    Args:
      position: see `probejax.positions`; of `mean` and `all` it is the first token that counts.
      texts: n texts as the model reads them.
      ids: their tokens, BOS first if there is one; of a long text the end.
      tokenizer: that made them.
      skip: 1 where BOS is the first token, else 0. Only the last token may be BOS.

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
        found = np.array([_after(marker, text, tokenizer) for text in texts], int)
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


def _after(marker: str, text: str, tokenizer: tokenizers.Tokenizer) -> int:
    """Returns the place of the token with which a text's last `marker` ends; 0 without one."""
    at = text.rfind(marker)
    if at < 0:
        return 0
    starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    return len(starts) - sum(start < at + len(marker) for start in starts) + 1

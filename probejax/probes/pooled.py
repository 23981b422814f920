"""L2 logistic regression on the mean or the largest residual over a prompt's tokens."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from probejax.probes import given, logreg, scores
from probejax.probes import tokens as ragged
from probejax.probes.rows import Rows
from probejax.probes.tokens import Tokens

_TOGETHER = 1 << 14  # tokens read at a time


def fit(
    tokens: Tokens,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    pooling: Literal["mean", "max"],
    bos: bool = False,
) -> scores.Fitted:
    """Fits one probe per lane on pooled residuals, as `logreg` does on those of the last token.

    Args:
      tokens: of all prompts that `rows` means.
      rows: the lanes.
      protocol: whose rules.
      pooling: the mean over tokens, or the largest value of each dimension.
      bos: whether the first token counts; its residual is the same for every prompt, and so large
        that it would hide most others.

    Raises:
      ValueError: the tokens or the rows will not do, see `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    tokens = tokens if bos else ragged.without_bos(tokens)
    features = pool(tokens, pooling)
    return logreg.fit(jnp.asarray(features), rows, protocol)


def pool(tokens: Tokens, pooling: Literal["mean", "max"]) -> Float[np.ndarray, "N d_model"]:
    """Returns the pooled residuals of every prompt, float32."""
    found = np.zeros((len(tokens.counts), tokens.d_model), np.float32)
    ends = np.cumsum(tokens.counts)
    start = 0
    while start < len(ends):
        taken = ends[start] - tokens.counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, taken + _TOGETHER, side="right")))
        counts = tokens.counts[start:stop]
        at = np.cumsum(counts) - counts
        rows = np.repeat(tokens.starts[start:stop] - at, counts) + np.arange(counts.sum())
        x = np.asarray(tokens.x[rows], np.float32)
        if pooling == "max":
            found[start:stop] = np.maximum.reduceat(x, at)
        else:
            found[start:stop] = np.add.reduceat(x, at) / counts[:, None]
        start = stop
    return found

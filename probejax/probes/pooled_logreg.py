"""L2 logistic regression on the mean or the largest residual over a prompt's tokens."""

import dataclasses
from typing import Literal, cast

from probejax.activations import ragged
from probejax.activations.ragged import Activations
from probejax.probes import given, logreg, scores
from probejax.probes.families import Linear
from probejax.probes.rows import Rows


def fit(
    tokens: Activations,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    pooling: Literal["mean", "max"],
    bos: bool = False,
) -> scores.Fit:
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
    found = logreg.fit(ragged.pool(tokens, pooling), rows, protocol)
    probe = dataclasses.replace(cast(Linear, found.probe), pooling=pooling, bos=bos)
    return dataclasses.replace(found, probe=probe)

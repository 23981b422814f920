"""The latents whose pooled activations differ most between the classes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probejax.activations import ragged
from probejax.activations.ragged import Activations
from probejax.probes import given, scores
from probejax.probes.pooled_latents import Pooling, blocks, pool_columns
from probejax.probes.rows import Rows
from probejax.probes.sae import Selection, select_by
from probejax.saes.select import Ranking, contest
from probejax.saes.stream import Dictionary, width


def select(
    tokens: Activations,
    rows: Rows,
    sae: Dictionary,
    k: int,
    pooling: Pooling,
    ranking: Ranking,
    protocol: scores.Protocol = "paper",
    *,
    bos: bool = False,
    block: int = 4096,
) -> Selection:
    """Ranks pooled latents on training prompts; the result goes into `probes.sae.fit`.

    Args:
      tokens: of all prompts that `rows` means.
      rows: the lanes.
      sae: the dictionary.
      k: latents per fit; a smaller k is a prefix of a larger one.
      pooling: the largest or the mean activation over a prompt's tokens.
      ranking: how to rank, see `saes.select.top_latents`; the study's is `raw`.
      protocol: as for `probes.sae.select`.
      bos: whether the first token counts. The study leaves it out.
      block: latents computed at a time.

    Raises:
      ValueError: k larger than the dictionary, or the tokens or the rows will not do, see
        `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    tokens = tokens if bos else ragged.without_bos(tokens)
    if k > (d_sae := width(sae, jnp.asarray(tokens.x[tokens.starts[:1]]))):
        raise ValueError(f"k={k} latents were asked for, but the SAE has only {d_sae}.")
    used = given.used(rows)

    def rank(train, mask, labels) -> np.ndarray:
        race = contest(train, mask, labels, k, ranking)
        state = race.begin
        for each in blocks(tokens, race.rows, sae, pooling, block=block):
            state = race.add(state, each)
        return np.asarray(state.index)[: len(train)]

    def columns(latents: np.ndarray) -> Array:
        values = jnp.zeros((len(tokens.counts), len(latents)), jnp.float32)
        return values.at[used].set(pool_columns(tokens, used, sae, latents, pooling, block=block))

    found = select_by(rank, columns, rows, sae, protocol)
    return found._replace(pooling=pooling, bos=bos)

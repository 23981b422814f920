"""A linear probe on some latents of an SAE, of the last token or pooled over all."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax.activations.ragged import without_bos
from probejax.probes.families.probe import Probe, shared, static
from probejax.probes.pooled_latents import pool_columns
from probejax.saes import part
from probejax.saes.select import encode_columns

FIRES = 1.0  # a binarised latent is on above this, as the study has it


class Latents(NamedTuple):
    """Activations as a stack of probes reads them.

    Attributes:
      values: [N, M], latents of every row.
      columns: [L, k], which of them each probe reads.
    """

    values: Float[Array, "N M"]
    columns: Int[np.ndarray, "L k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OnLatents(Probe):
    """The logit of x is z.w + b, z the latents that the probe reads.

    Attributes:
      w: [*lanes, k] weights.
      b: [*lanes] intercepts.
      latents: [*lanes, k], indices of the latents in the SAE.
      sae: whose they are: an SAE, anything with `encode(x)`, or the part of an SAE that is needed.
      pooling: "" for the last token's latents, else their `mean` or `max` over tokens.
      bos: whether the first token counts among those.
      binarised: whether a latent counts as 1 above 1 and as 0 otherwise.
    """

    w: Float[Array | np.ndarray, "*lanes k"]
    b: Float[Array | np.ndarray, "*lanes"]
    latents: Int[np.ndarray, "*lanes k"]
    sae: Any = shared()
    pooling: Any = static("")
    bos: bool = static(False)
    binarised: bool = static(False)

    @property
    def lanes(self) -> int | None:
        return len(self.b) if self.b.ndim else None

    @property
    def reads_tokens(self) -> bool:
        return bool(self.pooling)

    @property
    def width(self) -> int | None:
        return part.width(self.sae)

    def source(self, x: Any) -> Latents:
        if self.sae is None:
            raise ValueError(
                "the latents that this probe reads compete with others for the right to be "
                "active, so it needs the whole SAE: give it as px.load_probe(path, sae=...)"
            )
        union, columns = np.unique(self.latents, return_inverse=True)
        sae, wanted = part.within(self.sae, union)
        if self.pooling:
            tokens = self.tokens(x)
            tokens = tokens if self.bos else without_bos(tokens)
            every = np.arange(len(tokens.counts))
            values = pool_columns(tokens, every, sae, wanted, self.pooling)
        else:
            values = encode_columns(sae, jnp.asarray(self.rows(x)), wanted)
        return Latents(self.counted(values), columns.reshape(self.latents.shape))

    def counted(self, values: Float[Array, "N M"]) -> Float[Array, "N M"]:
        """Returns latents as the probe reads them."""
        return jnp.asarray(values > FIRES, jnp.float32) if self.binarised else values

    def of_rows(self, source, rows, mask):
        return _logits(source.values, rows, source.columns, self.w, self.b)

    def kept(self) -> "OnLatents":
        return dataclasses.replace(self, sae=part.cut(self.sae, np.unique(self.latents)))


@jax.jit
def _logits(values, rows, columns, w, b):
    lanes = jnp.arange(len(w))[:, None]
    dense = jnp.zeros((len(w), values.shape[1]), values.dtype).at[lanes, columns].add(w)
    every = jnp.einsum("nm,lm->ln", values, dense, precision="highest") + b[:, None]
    return jnp.take_along_axis(every, rows, axis=1)

"""A linear probe on some latents of an SAE, of the last token or pooled over all."""

import dataclasses
from typing import Any, NamedTuple

import jax
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

    values: Float[np.ndarray, "N M"]
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
                "the file of this probe does not hold the latents that it reads: they compete with "
                "others for the right to be active, or are no SAE's of probejax; give the whole "
                "SAE, as px.load_probe(path, sae=...)"
            )
        union, columns = np.unique(self.latents, return_inverse=True)
        sae, wanted = part.within(self.sae, union)
        if self.pooling:
            tokens = self.tokens(x)
            tokens = tokens if self.bos else without_bos(tokens)
            every = np.arange(len(tokens.counts))
            values = pool_columns(tokens, every, sae, wanted, self.pooling)
        else:
            values = encode_columns(sae, self.rows(x), wanted)
        return Latents(self.counted(values), columns.reshape(self.latents.shape))

    def counted(self, values: Float[Array | np.ndarray, "N M"]) -> Float[np.ndarray, "N M"]:
        """Returns latents as the probe reads them."""
        values = np.asarray(values)
        return np.asarray(values > FIRES, np.float32) if self.binarised else values

    def of_rows(self, source, rows, mask):
        # Summed in float64 and rounded: rows with the same latents on must tie.
        values, w = np.asarray(source.values), np.asarray(self.w, np.float64)
        found = np.zeros(rows.shape)
        for lane, (own, asked) in enumerate(zip(rows, mask, strict=True)):
            z = values[own[asked]][:, source.columns[lane]]
            found[lane, asked] = (z @ w[lane]).astype(np.float32)
        return found + np.asarray(self.b, float)[:, None]

    def kept(self) -> "OnLatents":
        return dataclasses.replace(self, sae=part.cut(self.sae, np.unique(self.latents)))

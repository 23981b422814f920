"""A linear probe, on the last token or on the mean or the largest of all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.activations.ragged import pool, without_bos
from probejax.probes.families.probe import Probe, shared, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Linear(Probe):
    """The logit of x is (x - mean).w + b.

    Attributes:
      w: [*lanes, d] weights.
      b: [*lanes] intercepts.
      mean: [d], taken off first, because float32 would drown in it.
      pooling: what x is of a prompt: "" for its last token, else the `mean` or `max` over tokens.
      bos: whether the first token counts among those.
    """

    w: Float[Array | np.ndarray, "*lanes d"]
    b: Float[Array | np.ndarray, "*lanes"]
    mean: Float[Array | np.ndarray, " d"] = shared()
    pooling: str = static("")
    bos: bool = static(False)

    @property
    def lanes(self) -> int | None:
        return len(self.b) if self.b.ndim else None

    @property
    def reads_tokens(self) -> bool:
        return bool(self.pooling)

    @property
    def width(self) -> int:
        return self.mean.shape[0]

    def source(self, x: Any):
        if not self.pooling:
            return self.rows(x)
        tokens = self.tokens(x)
        return pool(tokens if self.bos else without_bos(tokens), self.pooling)

    def of_rows(self, source, rows, mask):
        return _logits(source, rows, self.w, self.b, self.mean)


@jax.jit
def _logits(x, rows, w, b, mean):
    x = jnp.asarray(x, jnp.float32) - mean[None, :]
    every = jnp.einsum("nd,ld->ln", x, w, precision="highest") + b[:, None]
    return jnp.take_along_axis(every, rows, axis=1)

"""A linear probe, on the last token or on the mean or the largest of all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from probejax import sizes
from probejax.activations.ragged import pool, without_bos
from probejax.probes.families.probe import Probe, shared, static
from probejax.solvers.engine import each


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
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((source, self))):
            every = _product(self.w, source - self.mean[None, :]) + self.b[:, None]
            return jnp.take_along_axis(every, rows, axis=1)
        x = np.asarray(source, np.float32) - np.asarray(self.mean)[None, :]
        every = products(np.asarray(self.w, np.float32), x) + np.asarray(self.b, float)[:, None]
        return np.take_along_axis(every, rows, axis=1)


def products(w: Float[np.ndarray, "L d"], x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "L n"]:
    """Returns the inner products of many vectors with the rows of a matrix, block by block."""
    width, block = sizes.width(1, 64), sizes.BLOCK

    def of_rows(rows):
        count, pad = len(rows), block - len(rows)
        rows = jax.device_put(np.pad(rows, ((0, pad), (0, 0))) if pad else rows)  # once
        return each(lambda some: _product(some, rows), w, width)[:, :count]

    found = [of_rows(x[begin : begin + block]) for begin in range(0, len(x), block)]
    return np.concatenate(found or [np.zeros((len(w), 0), np.float32)], axis=1)


@jax.jit
def _product(w, x):
    return jnp.einsum("nd,ld->ln", x, w, precision="highest")

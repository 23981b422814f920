"""Rotary positions: their numbers, and the rotation of queries and keys."""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int


class Llama3(NamedTuple):
    """How Llama 3.1 slows the rotary angles: whole for long waves, not at all for short ones.

    Source: The Llama 3 Herd of Models (arXiv 2407.21783), section 3.2; transformers calls it
    `llama3`, and so are its fields called there.

    Attributes:
      factor: slow waves are divided by this.
      low_freq_factor: a wave longer than `length / low_freq_factor` tokens is slow.
      high_freq_factor: a wave shorter than `length / high_freq_factor` tokens stays; between the
        two, the frequency goes over linearly.
      length: tokens of the context before it was stretched.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    length: float


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: pair i of a head turns by `base^(-i / pairs) / divisor` per token.

    Attributes:
      base: the slowest pair needs almost `2 pi base` tokens for a turn.
      factor: the divisor of every pair (linear scaling).
      fraction: the part of each head that is turned; the rest stays (GPT-NeoX).
      llama3: the divisors by a rule, in the place of `factor`.
      divisors: the divisors one by one, as GGUF files keep them, in the place of `factor`.
    """

    base: float
    factor: float = 1.0
    fraction: float = 1.0
    llama3: Llama3 | None = None
    divisors: tuple[float, ...] | None = None

    def pairs(self, d_head: int) -> int:
        """Returns how many pairs of a head of this width are turned."""
        return int(d_head * self.fraction) // 2

    def divided_by(self, pairs: int) -> float | Float64[np.ndarray, " pairs"]:
        """Returns the divisor of the pairs' frequencies, one for all or one for each."""
        if self.divisors is not None:
            return np.array(self.divisors)
        if self.llama3 is None:
            return self.factor
        factor, low, high, length = self.llama3
        frequency = self.base ** (-np.arange(pairs) / pairs)
        turns = length * frequency / (2 * math.pi)  # over the old context
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return 1.0 / (kept + (1.0 - kept) / factor)


def rotate(
    x: Float[Array, "B T heads H"], positions: Int[Array, "B T"], rope: Rope
) -> Float[Array, "B T heads H"]:
    """Rotates pairs (i, i + pairs) of each head by `position * frequency`; the rest stays.

    Source: RoFormer (arXiv 2104.09864) in the half-split layout of the checkpoints.
    """
    pairs = rope.pairs(x.shape[-1])
    divisor = rope.divided_by(pairs)
    if isinstance(divisor, np.ndarray):
        divisor = jnp.asarray(divisor, jnp.float32)
    frequency = rope.base ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs) / divisor
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

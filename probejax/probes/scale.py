"""The standard scaler of the methods that need one, over the rows that count."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

_SAMPLE = 512  # rows
_EPS = float(np.finfo(np.float64).eps)  # scikit-learn's bound, whatever the precision here


class Scale(NamedTuple):
    """What a standard scaler learns.

    Attributes:
      mean: per feature.
      scale: standard deviation per feature (of the rows, not of a population); 1 where it is zero.
    """

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]


def standardise(
    x: Float[Array, "n d"], mask: Bool[Array, " n"]
) -> tuple[Float[Array, "n d"], Scale]:
    """Scales one fit's rows to mean 0 and variance 1 over the rows of the mask; made for vmap.

    The rules are those of scikit-learn's StandardScaler, except that NaN spreads. A feature without
    variance keeps its scale.

    Args:
      x: rows of one fit, float32 or float64.
      mask: the rows to learn from: `scores.Folds.seen` of a fold, all training rows of a lane.

    Returns:
      All rows scaled, those outside the mask too, and the scaler.
    """
    scale = learn(x, mask)
    return apply(scale, x), scale


def learn(x: Float[Array, "n d"], mask: Bool[Array, " n"]) -> Scale:
    """Returns the scaler of the rows in the mask.

    Rows are taken relative to the first, so that a feature of one value has no variance at all in
    float32 either, where the mean of 1,024 equal numbers near 7,000 misses them.
    """
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
    inside = lambda rows: jnp.where(mask[:, None], rows, 0)
    first = x[jnp.argmax(mask)]
    moved = inside(x - first[None, :])
    mean = moved.sum(axis=0) / count
    rest = inside(moved - mean[None, :])
    error = rest.sum(axis=0) / count  # of that mean, by rounding
    var = (rest * rest).sum(axis=0) / count - error * error
    mean = first + (mean + error)
    constant = var <= count * _EPS * var + (count * mean * _EPS) ** 2
    return Scale(mean, jnp.where(constant, 1, jnp.sqrt(jnp.maximum(var, 0))))


def middle(x: Shaped[np.ndarray, "n d"]) -> Shaped[np.ndarray, " d"]:
    """Returns where rows lie, roughly: the median of some, spread evenly over all.

    Unlike a mean it stays where most rows are, so those that no lane names may hold anything. Rows
    must be finite; without any it is zero.
    """
    some = x[:: max(1, len(x) // _SAMPLE)]
    return np.median(some, axis=0).astype(x.dtype) if len(some) else np.zeros(x.shape[1], x.dtype)


def apply(scale: Scale, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Returns rows in the units of the scaler."""
    return (x - scale.mean[None, :]) / scale.scale[None, :]

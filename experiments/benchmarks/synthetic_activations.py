"""Activations drawn at random with the shape of real ones, at any width.

The shape is that of gemma-3-270m at layer 9, last tokens: one dimension with a mean near 6,950 that
holds 57 % of the centred variance, centred rows of norm 1,100, and the spectrum below.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dct

# Number of leading principal components, and the share of variance that they leave unexplained.
_LEFT = {1: 0.36, 4: 0.27, 16: 0.17, 64: 0.09, 128: 0.05, 256: 0.015}
_SPREAD = 1100.0  # norm of a centred row
_OUTLIER_MEAN, _OUTLIER_SHARE = 6950.0, 0.57
_OTHER_MEANS = 1900.0  # norm of the mean outside that dimension
_SIGNAL = 64  # components that the label depends on, beside noise
_NOISE = 0.7


def draw(
    rows: int, d_model: int, seed: int = 0
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Returns float32 activations and labels, as many of one class as of the other (one more of 0).

    Args:
      rows: how many.
      d_model: width of the residual stream, at least 2.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    variance = _variances(d_model)
    z = rng.standard_normal((rows, d_model))
    signal = min(_SIGNAL, d_model - 1)
    score = z[:, 1 : 1 + signal] @ rng.standard_normal(signal) / signal**0.5
    score += _NOISE * rng.standard_normal(rows)
    z *= _SPREAD * np.sqrt(variance)
    # Signs and a cosine transform, twice, turn the axes of all but the first component.
    others = z[:, 1:]
    for _ in range(2):
        others = dct(others * rng.choice([-1.0, 1.0], d_model - 1), norm="ortho", axis=1)
    # The outlier dimension is most of the first component; a rotation lends the rest to others.
    cos = min(1.0, (_OUTLIER_SHARE / variance[0]) ** 0.5)
    sin = (1 - cos * cos) ** 0.5
    direction = _unit(rng, d_model - 1)
    along = others @ direction
    x = np.empty((rows, d_model))
    x[:, 0] = cos * z[:, 0] - sin * along
    x[:, 1:] = others + np.outer(sin * z[:, 0] + (cos - 1) * along, direction)
    x += np.concatenate([[_OUTLIER_MEAN], _OTHER_MEANS * _unit(rng, d_model - 1)])
    outlier = d_model // 3
    x[:, [0, outlier]] = x[:, [outlier, 0]]
    labels = np.zeros(rows, np.int64)
    labels[np.argsort(score)[rows - rows // 2 :]] = 1
    return x.astype(np.float32), labels


def _variances(d_model: int) -> Float[np.ndarray, " d"]:
    """Returns the share of variance of every component, in between by powers of its number."""
    known = np.log(list(_LEFT)), np.log(list(_LEFT.values()))
    numbers = np.log(np.arange(1, d_model + 1))
    slope = np.diff(known[1])[-1] / np.diff(known[0])[-1]
    beyond = known[1][-1] + slope * (numbers - known[0][-1])
    left = np.exp(np.where(numbers > known[0][-1], beyond, np.interp(numbers, *known)))
    return -np.diff(left, prepend=1.0)


def _unit(rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
    direction = rng.standard_normal(size)
    return direction / np.linalg.norm(direction)

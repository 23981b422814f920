"""From the scores of a prompt's tokens to its logit.

An aggregator is written for one prompt and one probe. It reads `scores [t, c]`, where c is the
number of score vectors of the probe (one, or one per head, or a query and a value per head), `real
[t]`, which marks the prompt's own tokens (at least one; the rest is padding that may hold
anything), and a `setting` such as a window's width, which may differ between the probes of a batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scores = Float[Array, "t c"]
Real = Bool[Array, " t"]
Setting = Float[Array, ""]
Logit = Float[Array, ""]
Aggregator = Callable[[Scores, Real, Setting], Logit]


def mean(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the mean over the tokens."""
    return jnp.where(real, scores[:, 0], 0).sum() / real.sum()


def last(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the last token's score."""
    return scores[real.sum() - 1, 0]


def multimax(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the sum over heads of the largest score (arXiv 2601.11516)."""
    return jnp.where(real[:, None], scores, -jnp.inf).max(axis=0).sum()


def softmax(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the mean of the scores, weighted by their own softmax (arXiv 2506.10805).

    Args:
      scores: one per token.
      real: the tokens.
      setting: temperature; the smaller, the nearer to the maximum.
    """
    return (_softmax(scores[:, 0] / setting, real) * jnp.where(real, scores[:, 0], 0)).sum()


def attention(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the sum over heads of values weighted by the softmax of queries (arXiv 2502.16681).

    Args:
      scores: the queries' of all heads, then the values' of all heads.
      real: the tokens.
      setting: not used.
    """
    heads = scores.shape[1] // 2
    weights = jax.vmap(_softmax, in_axes=(1, None), out_axes=1)(scores[:, :heads], real)
    return (weights * jnp.where(real[:, None], scores[:, heads:], 0)).sum()


def max_of_rolling_means(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the largest mean of neighbouring scores (arXiv 2601.11516, without its attention).

    Args:
      scores: one per token.
      real: the tokens, from the first place on.
      setting: tokens of the window; a shorter prompt is one window.
    """
    n = real.sum()
    width = jnp.minimum(setting.astype(n.dtype), n)
    sums = jnp.cumsum(jnp.where(real, scores[:, 0], 0))
    end = jnp.arange(len(real))
    before = jnp.where(end >= width, sums[jnp.maximum(end - width, 0)], 0)
    inside = (end >= width - 1) & (end < n)
    return jnp.where(inside, sums - before, -jnp.inf).max() / width


def ema(scores: Scores, real: Real, setting: Setting) -> Logit:
    """Returns the largest exponential moving average (alignment.anthropic.com, cheap monitors).

    It starts from the first score: e_0 = s_0, e_t = a s_t + (1 - a) e_{t-1}.

    Args:
      scores: one per token.
      real: the tokens, from the first place on.
      setting: a, from 0 to 1.
    """

    def follow(average, score):
        average = setting * score + (1 - setting) * average
        return average, average

    clean = jnp.where(real, scores[:, 0], 0)
    _, averages = jax.lax.scan(follow, clean[0], clean)
    return jnp.where(real, averages, -jnp.inf).max()


def _softmax(scores: Float[Array, " t"], real: Real) -> Float[Array, " t"]:
    return jax.nn.softmax(jnp.where(real, scores, -jnp.inf))


NAMED: dict[str, Aggregator] = {
    each.__name__: each
    for each in (mean, last, multimax, softmax, attention, max_of_rolling_means, ema)
}
"""Every aggregator by its name, as files of probes hold it."""

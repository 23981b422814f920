"""Trains a JumpReLU SAE on token activations.

Method: Rajamanoharan et al. 2024 (arXiv 2407.14435): straight-through estimators with a rectangle
kernel, a unit-norm decoder and an L0 penalty, here quadratic around a target (their appendix, and
Gemma Scope 2). Two things are different, both because a residual stream of Gemma has one dimension
that holds over half of all variance:

* The loss is the mean of two fractions of variance unexplained: that of the whole vector, and the
  average over dimensions. Each dimension is scaled so that this is a plain squared error; the scale
  is folded into the weights at the end, so the trained SAE reads raw activations.
* The gradient of the L0 penalty reaches the encoder too, and latents that have not fired for a
  while are pulled towards their threshold, so few die.
"""

import dataclasses
import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
      d_sae: number of latents.
      target_l0: latents per token that the penalty steers to.
      steps: optimiser steps.
      batch: tokens per step.
      learning_rate: peak of Adam's rate; warms up over 2 %, decays over the last 25 %.
      l0_weight: weight of the squared relative excess of L0 over its target.
      l0_warmup: share of the steps over which that weight rises from zero.
      bandwidth: width of the kernel of the straight-through estimators, in pre-activation units.
      threshold: initial threshold, same units (scaled activations have unit mean squared norm).
      dead_after: tokens without firing after which a latent counts as dead.
      dead_weight: weight of the pull on dead latents.
      seed: of the initial weights and the order of the tokens.
    """

    d_sae: int = 4096
    target_l0: float = 76.0
    steps: int = 4000
    batch: int = 2048
    learning_rate: float = 1e-3
    l0_weight: float = 0.5
    l0_warmup: float = 0.2
    bandwidth: float = 0.02
    threshold: float = 0.05
    dead_after: int = 100_000
    dead_weight: float = 1e-4
    seed: int = 0


class Scale(NamedTuple):
    """Where activations are centred and how each dimension is scaled, [d_model] each."""

    mean: Float[Array, " d_model"]
    scale: Float[Array, " d_model"]


class Params(NamedTuple):
    """What is trained, in scaled units."""

    W_enc: Float[Array, "d_model d_sae"]
    b_enc: Float[Array, " d_sae"]
    W_dec: Float[Array, "d_sae d_model"]
    b_dec: Float[Array, " d_model"]
    log_threshold: Float[Array, " d_sae"]


class TrainState(NamedTuple):
    """All that a training run needs to continue.

    Attributes:
      params: current weights.
      optimiser: optax state.
      silent: int [d_sae], tokens since each latent last fired.
      step: steps taken.
    """

    params: Params
    optimiser: optax.OptState
    silent: Int[Array, " d_sae"]
    step: Int[Array, ""]


def measure(x: Float[np.ndarray, "n d_model"]) -> Scale:
    """Returns the centre and the scale that make the loss of this module a squared error."""
    x = np.asarray(x, np.float64)
    mean, variance = x.mean(axis=0), x.var(axis=0)
    weight = 0.5 / variance.sum() + 0.5 / (variance * len(variance))
    return Scale(jnp.asarray(mean, jnp.float32), jnp.asarray(np.sqrt(weight), jnp.float32))


def start(options: TrainOptions, d_model: int) -> TrainState:
    """Returns the initial state: random unit decoder rows and their transpose as the encoder."""
    W_dec = jax.random.normal(jax.random.key(options.seed), (options.d_sae, d_model))
    W_dec = W_dec / jnp.linalg.norm(W_dec, axis=1, keepdims=True)
    params = Params(
        W_enc=W_dec.T,
        b_enc=jnp.zeros(options.d_sae),
        W_dec=W_dec,
        b_dec=jnp.zeros(d_model),
        log_threshold=jnp.full(options.d_sae, np.log(options.threshold), jnp.float32),
    )
    silent = jnp.zeros(options.d_sae, jnp.int32)
    return TrainState(params, _optimiser(options).init(params), silent, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    options: TrainOptions, state: TrainState, x: Float[Array, "batch d_model"], scale: Scale
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Takes one step; returns the new state and what the loss was made of."""
    x = (x - scale.mean[None, :]) * scale.scale[None, :]
    dead = state.silent > options.dead_after
    progress = state.step / options.steps
    l0_weight = options.l0_weight * jnp.minimum(progress / max(options.l0_warmup, 1e-9), 1.0)
    gradient, (report, fired) = jax.grad(_loss, has_aux=True)(
        state.params, x, dead, l0_weight, options
    )
    updates, optimiser = _optimiser(options).update(gradient, state.optimiser)
    params = Params(*cast(tuple, optax.apply_updates(state.params, updates)))
    norm = jnp.linalg.norm(params.W_dec, axis=1, keepdims=True)
    params = params._replace(W_dec=params.W_dec / norm)
    silent = jnp.where(fired, 0, state.silent + x.shape[0])
    return TrainState(params, optimiser, silent, state.step + 1), report


def _optimiser(options: TrainOptions) -> optax.GradientTransformation:
    warm, decay = max(options.steps // 50, 1), max(options.steps // 4, 1)
    peak = options.learning_rate
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warm),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, decay),
        ],
        [warm, options.steps - decay],
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.999))


def _loss(
    params: Params, x: Array, dead: Bool[Array, " d_sae"], l0_weight: Array, options: TrainOptions
):
    pre = x @ params.W_enc + params.b_enc[None, :]
    threshold = jnp.exp(params.log_threshold)[None, :]
    latents = cast(Array, _jumprelu(pre, threshold, options.bandwidth))
    error = latents @ params.W_dec + params.b_dec[None, :] - x
    unexplained = jnp.mean(jnp.sum(error * error, axis=1))  # of a total of one, by the scaling
    l0 = jnp.mean(jnp.sum(_heaviside(pre, threshold, options.bandwidth), axis=1))
    excess = l0 / options.target_l0 - 1.0
    pull = jnp.sum(jnp.mean(jax.nn.relu(threshold - pre), axis=0) * dead)
    loss = unexplained + l0_weight * excess * excess + options.dead_weight * pull
    report = {"unexplained": unexplained, "l0": l0, "dead": jnp.mean(dead), "loss": loss}
    return loss, (report, jnp.any(latents > 0, axis=0))


def _kernel(pre: Array, threshold: Array, bandwidth: float) -> Array:
    """Rectangle kernel of the straight-through estimators, of unit mass."""
    return (jnp.abs(pre - threshold) < bandwidth / 2) / bandwidth


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _jumprelu(pre: Array, threshold: Array, bandwidth: float) -> Array:
    return jnp.where(pre > threshold, jax.nn.relu(pre), 0.0)


def _jumprelu_forward(pre, threshold, bandwidth):
    return _jumprelu(pre, threshold, bandwidth), (pre, threshold)


def _jumprelu_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    to_threshold = -threshold * _kernel(pre, threshold, bandwidth) * gradient
    return jnp.where(pre > threshold, gradient, 0.0), jnp.sum(to_threshold, axis=0, keepdims=True)


_jumprelu.defvjp(_jumprelu_forward, _jumprelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _heaviside(pre: Array, threshold: Array, bandwidth: float) -> Array:
    return (pre > threshold).astype(pre.dtype)


def _heaviside_forward(pre, threshold, bandwidth):
    return _heaviside(pre, threshold, bandwidth), (pre, threshold)


def _heaviside_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    slope = _kernel(pre, threshold, bandwidth) * gradient
    return slope, -jnp.sum(slope, axis=0, keepdims=True)


_heaviside.defvjp(_heaviside_forward, _heaviside_backward)


def fold(params: Params, scale: Scale, dtype: type = np.float16) -> dict[str, np.ndarray]:
    """Returns the SAE in raw units, with unit decoder rows, as the arrays of a `params.npz`.

    The matrices are rounded to `dtype` first and the encoder bias is computed from the rounded
    matrix, so that rounding does not shift pre-activations by the large mean of the activations.
    """
    mean, factor = np.asarray(scale.mean, np.float64), np.asarray(scale.scale, np.float64)
    W_enc, b_enc, W_dec, b_dec, log_threshold = (np.asarray(p, np.float64) for p in params)
    W_dec = W_dec / factor
    norm = np.linalg.norm(W_dec, axis=1)
    W_enc = (W_enc * factor[:, None] * norm).astype(dtype)
    return {
        "W_enc": W_enc,
        "b_enc": (b_enc * norm - mean @ W_enc.astype(np.float64)).astype(np.float32),
        "W_dec": (W_dec / norm[:, None]).astype(dtype),
        "b_dec": (b_dec / factor + mean).astype(np.float32),
        "threshold": (np.exp(log_threshold) * norm).astype(np.float32),
    }

"""Trains SAEs on token activations; see `architectures` for what is sparse and how.

JumpReLU: Rajamanoharan et al. 2024 (arXiv 2407.14435): straight-through estimators with a rectangle
kernel, a unit-norm decoder and an L0 penalty, here quadratic around a target (their appendix, and
Gemma Scope 2). Two things are different, both because a residual stream of Gemma has one dimension
that holds over half of all variance:

* The loss is the mean of two fractions of variance unexplained: that of the whole vector, and the
  average over dimensions. Each dimension is scaled so that this is a plain squared error; the scale
  is folded into the weights at the end, so the trained SAE reads raw activations.
* The gradient of the L0 penalty reaches the encoder too, and latents that have not fired for a
  while are pulled towards their threshold, so few die.

ReLU and gated SAEs have an L1 penalty, whose weight is steered until the L0 is the one asked for;
the top-k family needs none.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from probejax.rules import ARCHITECTURES
from probejax.saes.architectures import (
    Architecture,
    Forward,
    Params,
    forward,
    unexplained,
)

_LEAST_VARIANCE = 1e-6  # of a dimension, as a share of their mean
_CUTOFF_RATE = 0.01  # of the running mean of BatchTopK's threshold


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
      architecture: one of `rules.ARCHITECTURES`.
      d_sae: number of latents.
      target_l0: latents per token that the penalty steers to, or the k of the top-k family.
      steps: optimiser steps.
      batch: tokens per step.
      learning_rate: peak of Adam's rate; warms up over 2 %, decays over the last 25 %.
      l0_weight: weight of the squared relative excess of L0 over its target.
      l0_warmup: share of the steps over which that weight rises from zero.
      bandwidth: width of the kernel of the straight-through estimators, in pre-activation units.
      threshold: initial threshold, same units (scaled activations have unit mean squared norm).
        Up to it dead latents of the other architectures are pulled.
      l1_weight: initial weight of the L1 penalty of ReLU and gated SAEs.
      l1_rate: how fast its logarithm follows the relative excess of L0, per step.
      dead_after: tokens without firing after which a latent counts as dead.
      dead_weight: weight of the pull on dead latents.
      seed: of the initial weights and the order of the tokens.
    """

    architecture: str = "jumprelu"
    d_sae: int = 4096
    target_l0: float = 76.0
    steps: int = 4000
    batch: int = 2048
    learning_rate: float = 1e-3
    l0_weight: float = 0.5
    l0_warmup: float = 0.2
    bandwidth: float = 0.02
    threshold: float = 0.05
    l1_weight: float = 1e-2
    l1_rate: float = 0.01
    dead_after: int = 100_000
    dead_weight: float = 1e-4
    seed: int = 0

    def __post_init__(self):
        """Raises ValueError for what does not exist or cannot be."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"--architecture={self.architecture} does not exist; choose from "
                f"{', '.join(ARCHITECTURES)}."
            )
        if not 1 <= self.target_l0 <= self.d_sae:
            raise ValueError(
                f"--target_l0={self.target_l0:g} of {self.d_sae} latents: expected 1 to that."
            )
        for name in ("steps", "batch", "learning_rate", "bandwidth", "threshold", "l1_weight"):
            value = getattr(self, name)
            if not 0 < value < np.inf:
                raise ValueError(f"--{name}={value:g}: expected a positive number.")


class Scale(NamedTuple):
    """Where activations are centred and how each dimension is scaled, [d_model] each."""

    mean: Float[Array, " d_model"]
    scale: Float[Array, " d_model"]


class TrainState(NamedTuple):
    """All that a training run needs to continue.

    Attributes:
      params: current weights.
      optimiser: optax state.
      silent: int [d_sae], tokens since each latent last fired.
      step: steps taken.
      log_l1: log of the weight of the L1 penalty.
    """

    params: Params
    optimiser: optax.OptState
    silent: Int[Array, " d_sae"]
    step: Int[Array, ""]
    log_l1: Float[Array, ""]


def measure(x: Float[np.ndarray, "n d_model"]) -> Scale:
    """Returns the centre and the scale that make the loss of this module a squared error.

    A dimension that hardly varies counts as one that varies a little: its share would drown the
    others, and past what float16 holds the SAE could not be written.

    Raises:
      ValueError: a vector is not finite, or all are the same.
    """
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore"):  # told below
        mean, variance = x.mean(axis=0), x.var(axis=0)
    if not (np.isfinite(variance).all() and variance.any()):
        raise ValueError(
            "the activations hold NaN or infinity, or are all the same; an SAE cannot be trained "
            "on them"
        )
    variance = np.maximum(variance, _LEAST_VARIANCE * variance.mean())
    weight = 0.5 / variance.sum() + 0.5 / (variance * len(variance))
    return Scale(jnp.asarray(mean, jnp.float32), jnp.asarray(np.sqrt(weight), jnp.float32))


def start(options: TrainOptions, d_model: int) -> TrainState:
    """Returns the initial state: random unit decoder rows and their transpose as the encoder."""
    W_dec = jax.random.normal(jax.random.key(options.seed), (options.d_sae, d_model))
    W_dec = W_dec / jnp.linalg.norm(W_dec, axis=1, keepdims=True)
    zeros, gated = jnp.zeros(options.d_sae), options.architecture == "gated"
    threshold = np.log(options.threshold) if options.architecture == "jumprelu" else -np.inf
    params = Params(
        W_enc=W_dec.T,
        b_enc=zeros,
        W_dec=W_dec,
        b_dec=jnp.zeros(d_model),
        log_threshold=jnp.full(options.d_sae, threshold, jnp.float32),
        r_mag=jnp.zeros_like(zeros) if gated else None,
        b_gate=jnp.zeros_like(zeros) if gated else None,
    )
    silent, step = jnp.zeros(options.d_sae, jnp.int32), jnp.zeros((), jnp.int32)
    log_l1 = jnp.asarray(np.log(options.l1_weight), jnp.float32)
    return TrainState(params, _optimiser(options).init(cast(Any, params)), silent, step, log_l1)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    options: TrainOptions, state: TrainState, x: Float[Array, "batch d_model"], scale: Scale
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Takes one step; returns the new state and what the loss was made of."""
    x = (x - scale.mean[None, :]) * scale.scale[None, :]
    dead = state.silent > options.dead_after
    gradient, (report, out) = jax.grad(_loss, has_aux=True)(
        state.params, x, dead, _weight(options, state), options
    )
    updates, optimiser = _optimiser(options).update(gradient, state.optimiser)
    params = Params(*cast(tuple, optax.apply_updates(cast(Any, state.params), updates)))
    norm = jnp.linalg.norm(params.W_dec, axis=1, keepdims=True)
    params = params._replace(W_dec=params.W_dec / norm)
    if options.architecture in ("batchtopk", "matryoshka"):
        share = jnp.where(state.step == 0, 1.0, _CUTOFF_RATE)
        running = (1 - share) * jnp.exp(state.params.log_threshold) + share * out.cutoff
        params = params._replace(log_threshold=jnp.log(running))
    silent = jnp.where(jnp.any(out.latents > 0, axis=0), 0, state.silent + x.shape[0])
    excess = jnp.clip(report["l0"] / options.target_l0 - 1.0, -1.0, 1.0)
    log_l1 = state.log_l1 + options.l1_rate * excess
    return TrainState(params, optimiser, silent, state.step + 1, log_l1), report


def _weight(options: TrainOptions, state: TrainState) -> Array:
    """Returns the weight of what keeps the latents sparse."""
    if options.architecture == "jumprelu":
        progress = state.step / options.steps
        return options.l0_weight * jnp.minimum(progress / max(options.l0_warmup, 1e-9), 1.0)
    if options.architecture in ("relu", "gated"):
        return jnp.exp(state.log_l1)
    return jnp.zeros(())


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
    params: Params, x: Array, dead: Bool[Array, " d_sae"], weight: Array, options: TrainOptions
) -> tuple[Array, tuple[dict[str, Array], Forward]]:
    kind = cast(Architecture, options.architecture)  # __post_init__ has looked
    out = forward(params, x, kind, options.target_l0, options.bandwidth, options.threshold)
    trained_on, whole = unexplained(params, x, out.latents, kind)
    excess = out.l0 / options.target_l0 - 1.0
    sparsity = excess * excess if kind == "jumprelu" else out.norm
    pull = jnp.sum(jnp.mean(jax.nn.relu(out.margin), axis=0) * dead)
    loss = trained_on + weight * sparsity + out.auxiliary + options.dead_weight * pull
    report = {"unexplained": whole, "l0": out.l0, "dead": jnp.mean(dead), "loss": loss}
    return loss, (report, out)


def fold(
    params: Params, scale: Scale, dtype: type = np.float16, *, unit: bool = True
) -> dict[str, np.ndarray]:
    """Returns the SAE for raw activations, decoder rows of length 1, as arrays of a `params.npz`.

    Where latents compete one length serves all rows (`unit=False`), their median: another for each
    would change who wins.

    The matrices are rounded to `dtype` first and the encoder bias is computed from the rounded
    matrix, so that rounding does not shift pre-activations by the large mean of the activations.
    """
    mean, factor = np.asarray(scale.mean, np.float64), np.asarray(scale.scale, np.float64)
    numbers = {k: np.asarray(v, np.float64) for k, v in params._asdict().items() if v is not None}
    W_enc, b_enc, b_dec = numbers["W_enc"], numbers["b_enc"], numbers["b_dec"]
    threshold = np.exp(numbers["log_threshold"])
    if "r_mag" in numbers:  # the gate opens where the magnitude exceeds this
        gain = np.exp(numbers["r_mag"])
        W_enc, threshold = W_enc * gain, b_enc - gain * numbers["b_gate"]
    W_dec = numbers["W_dec"] / factor
    norm = np.linalg.norm(W_dec, axis=1)
    norm = norm if unit else np.full(len(norm), np.median(norm))
    W_enc = (W_enc * factor[:, None] * norm).astype(dtype)
    return {
        "W_enc": W_enc,
        "b_enc": (b_enc * norm - mean @ W_enc.astype(np.float64)).astype(np.float32),
        "W_dec": (W_dec / norm[:, None]).astype(dtype),
        "b_dec": (b_dec / factor + mean).astype(np.float32),
        "threshold": (threshold * norm).astype(np.float32),
    }

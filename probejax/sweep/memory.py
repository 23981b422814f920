"""How much memory a unit takes, told before it starts."""

from typing import Any

import jax
import numpy as np

from probejax import devices
from probejax import sizes as listed
from probejax.activations import flops_per_token
from probejax.activations.ragged import Activations
from probejax.solvers import l2_float64
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors

_RUNTIME = 1.3e9  # bytes of the interpreter, the libraries and compiled programs
_PER_ROW = 400  # bytes of predictions, masks and states per training row of a fit
_PER_SYSTEM = 27  # bytes for each number of a fit's system, that of 1,024 rows at most
_PER_NUMBER = 12  # of its rows: as they are, centred and in a product
_LANES = 72  # of 1,024 rows, of a usual task: as many folds as fits
_USUAL = 5000  # prompts of a task of the study, or drawn from own data, at most
_GB = 1e9


def at_once(plan: Plan, workers: int | None = None, parallel: int = 1) -> tuple[int, float]:
    """Returns how many tasks are in work together, and the GB that each may use.

    They are as many as `devices.workers` says, but no more than memory holds beside the language
    model, on a device and of the host's what its tasks keep there, and one at the least. Fewer that
    are asked for get no more memory each.

    Args:
      plan: the run.
      workers: how many tasks, where that is given.
      parallel: devices that hold one language model together.
    """
    places, room, most = 1, float(devices.memory_room()), devices.workers(parallel)
    if devices.apart():
        places = max(1, jax.local_device_count() // parallel)
        room -= model_bytes(plan, parallel)
        most = min(most, devices.host_room() // rows_bytes(plan))
    held = max(1, min(most // places, _held(plan, room, not devices.apart())))  # by a device
    if workers is None:
        return held * places, room / held / _GB
    return workers, room / max(held, -(-workers // places)) / _GB


def together(plan: Plan, tasks: int, device_bytes: float, parallel: int = 1) -> int:
    """Returns how many tasks a device that is not here would have in work together.

    Args:
      plan: the run.
      tasks: that come to the device in all.
      device_bytes: of its memory.
      parallel: devices that hold one language model together.
    """
    room = devices.DEVICE_SHARE * device_bytes - model_bytes(plan, parallel)
    return max(1, min(devices.TASKS, tasks, _held(plan, room, on_host=False)))


def _held(plan: Plan, room: float, on_host: bool) -> int:
    """Returns of how many tasks of the usual size a memory holds one fit each."""
    least = predicted_bytes(_USUAL, *widths(plan), listed.TRAIN[-1], on_host=on_host)
    return int(room // least)


def rows_bytes(plan: Plan) -> int:
    """Returns the bytes of a task's lanes that the host keeps where devices fit them."""
    return _PER_NUMBER * _LANES * listed.TRAIN[-1] * widths(plan)[0]


def widths(plan: Plan) -> tuple[int, int, int]:
    """Returns the widest site, the largest SAE (0 without one) and the largest k of a run."""
    d_sae = max((sae.d_sae for sae in plan.saes.values()), default=0)
    return max(map(plan.width, plan.sites)), d_sae, plan.most_latents


def model_bytes(plan: Plan, parallel: int = 1) -> float:
    """Returns what a device holds of the language model up to the last site; 0 without one."""
    if isinstance(plan.source, Vectors):
        return 0.0
    config, size = plan.checkpoint.config, 4 if plan.config.dtype == "float32" else 2
    blocks = flops_per_token(config, plan.sites) / 2
    return size * (blocks + config.d_vocab * config.d_model) / parallel


_TOKENS_TOGETHER = 2**31  # bytes of tokens that `probes.token_training` takes to the device at once
_COPIES = 3  # of those: as gathered from the file, as laid out in tiles, on the device


def predicted_bytes(
    prompts: int,
    d_model: int,
    d_sae: int,
    k: int,
    most_rows: int,
    *,
    token_bytes: int = 0,
    on_host: bool = True,
) -> int:
    """Returns the peak memory of a unit, in bytes, the language model left out.

    Args:
      prompts: rows of the feature matrix.
      d_model: its columns.
      d_sae: latents of the SAE, 0 without one.
      k: latents per probe.
      most_rows: training rows, padding included, of the fits that are in hand together.
      token_bytes: of all tokens of prompts, see `token_bytes`.
      on_host: whether the memory is that of a process, which holds a Python besides.
    """
    features = 3 * 4 * prompts * d_model
    sae = 3 * 4 * d_sae * d_model + 2 * 4 * prompts * d_sae
    gram = 8 * min(prompts, l2_float64.MOST_SHARED * listed.TRAIN[-1]) ** 2
    fits = most_rows * (12 * k + _PER_ROW)
    return int(_RUNTIME * on_host + features + gram + sae + fits + token_bytes)


def batch_bytes(n: int, d: int) -> int:
    """Returns what an accelerator holds of a batch of fits, in bytes.

    That is the largest of the default methods', L2 logistic regression's: its systems while it
    walks, its rows where it judges. Compiled for an H100, tests/test_ahead_of_time.py says how near
    this comes.

    Args:
      n: training rows of a fit, padding included.
      d: width of the vectors.
    """
    m = min(n, d)
    walked = listed.width(n * m, cpu=False) * _PER_SYSTEM * m * m
    return max(walked, listed.width(n * d, cpu=False) * _PER_NUMBER * n * d)


def token_bytes(tokens: Activations) -> int:
    """Returns what probes that read all tokens hold of a task beside what others do, in bytes.

    Training keeps the tokens of a chunk of fits on the device, 2 GiB at most unless one fit alone
    has more; everything else streams, and what it holds of the tokens is less.
    """
    vector = tokens.d_model * np.dtype(tokens.x.dtype).itemsize
    one_fit = np.sort(tokens.counts)[-listed.TRAIN[-1] :].sum() * vector
    together = min(tokens.counts.sum() * vector, max(_TOKENS_TOGETHER, one_fit))
    return int(_COPIES * together)


def rows_that_fit(
    budget_gb: float, prompts: int, d_model: int, d_sae: int, k: int, *, token_bytes: int = 0
) -> int:
    """Returns how many training rows may be in hand together, so that a unit stays in a budget.

    Raises:
      ValueError: not even one fit of the largest size does.
    """
    sizes = (prompts, d_model, d_sae, k)
    beside: dict[str, Any] = {"token_bytes": token_bytes, "on_host": not devices.apart()}
    least = predicted_bytes(*sizes, listed.TRAIN[-1], **beside)
    if least > budget_gb * _GB:
        raise ValueError(
            f"--memory_gb={budget_gb:g} per process is too little: {prompts} prompts of width "
            f"{d_model} with {d_sae} latents need {least / _GB:.1f} GB for one fit at a time"
            + (f", {token_bytes / _GB:.1f} GB of it for their tokens" if token_bytes else "")
            + "; give a larger --memory_gb, or fewer --workers."
        )
    spare = budget_gb * _GB - predicted_bytes(*sizes, 0, **beside)
    return int(spare // (12 * k + _PER_ROW))

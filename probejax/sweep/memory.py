"""How much memory a unit takes, told before it starts."""

import numpy as np

from probejax import sizes as listed
from probejax.activations.ragged import Activations
from probejax.solvers import l2_float64

_RUNTIME = 1.3e9  # bytes of the interpreter, the libraries and compiled programs
_PER_ROW = 400  # bytes of predictions, masks and states per training row of a fit
_PER_SYSTEM = 27  # bytes for each number of a fit's system, that of 1,024 rows at most
_PER_NUMBER = 12  # of its rows: as they are, centred and in a product
_GB = 1e9
_TOKENS_TOGETHER = 2**31  # bytes of tokens that `probes.token_training` takes to the device at once
_COPIES = 3  # of those: as gathered from the file, as laid out in tiles, on the device


def predicted_bytes(
    prompts: int,
    d_model: int,
    d_sae: int,
    k: int,
    most_rows: int,
    *,
    model_bytes: int = 0,
    token_bytes: int = 0,
) -> int:
    """Returns the peak memory of one process that runs a unit, in bytes.

    Args:
      prompts: rows of the feature matrix.
      d_model: its columns.
      d_sae: latents of the SAE, 0 without one.
      k: latents per probe.
      most_rows: training rows, padding included, of the fits that are in hand together.
      model_bytes: of the language model, where this process harvests.
      token_bytes: of all tokens of prompts, see `token_bytes`.
    """
    features = 3 * 4 * prompts * d_model
    sae = 3 * 4 * d_sae * d_model + 2 * 4 * prompts * d_sae
    gram = 8 * min(prompts, l2_float64.MOST_SHARED * listed.TRAIN[-1]) ** 2
    fits = most_rows * (12 * k + _PER_ROW)
    return int(_RUNTIME + features + gram + sae + fits + model_bytes + token_bytes)


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
    least = predicted_bytes(*sizes, listed.TRAIN[-1], token_bytes=token_bytes)
    if least > budget_gb * _GB:
        raise ValueError(
            f"--memory_gb={budget_gb:g} per process is too little: {prompts} prompts of width "
            f"{d_model} with {d_sae} latents need {least / _GB:.1f} GB for one fit at a time"
            + (f", {token_bytes / _GB:.1f} GB of it for their tokens." if token_bytes else ".")
        )
    spare = budget_gb * _GB - predicted_bytes(*sizes, 0, token_bytes=token_bytes)
    return int(spare // (12 * k + _PER_ROW))

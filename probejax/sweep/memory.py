"""How much memory a unit takes, told before it starts."""

from probejax.probes.rows import GROUPS

_RUNTIME = 1.3e9  # bytes of the interpreter, the libraries and compiled programs
_PER_ROW = 400  # bytes of predictions, masks and states per training row of a fit
_GB = 1e9


def predicted_bytes(
    prompts: int, d_model: int, d_sae: int, k: int, most_rows: int, *, model_bytes: int = 0
) -> int:
    """Returns the peak memory of one process that runs a unit, in bytes.

    Args:
      prompts: rows of the feature matrix.
      d_model: its columns.
      d_sae: latents of the SAE, 0 without one.
      k: latents per probe.
      most_rows: training rows, padding included, of the fits that are in hand together.
      model_bytes: of the language model, where this process harvests.
    """
    features = 3 * 4 * prompts * d_model
    sae = 3 * 4 * d_sae * d_model + 2 * 4 * prompts * d_sae
    return int(_RUNTIME + features + sae + most_rows * (12 * k + _PER_ROW) + model_bytes)


def rows_that_fit(budget_gb: float, prompts: int, d_model: int, d_sae: int, k: int) -> int:
    """Returns how many training rows may be in hand together, so that a unit stays in a budget.

    Raises:
      ValueError: not even one fit of the largest size does.
    """
    least = predicted_bytes(prompts, d_model, d_sae, k, GROUPS[-1])
    if least > budget_gb * _GB:
        raise ValueError(
            f"--memory_gb={budget_gb:g} per process is too little: {prompts} prompts of width "
            f"{d_model} with {d_sae} latents need {least / _GB:.1f} GB for one fit at a time."
        )
    spare = budget_gb * _GB - predicted_bytes(prompts, d_model, d_sae, k, 0)
    return int(spare // (12 * k + _PER_ROW))

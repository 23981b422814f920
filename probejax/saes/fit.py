"""The training loop of an SAE: order of the tokens, checkpoints, progress."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from probejax import storage
from probejax.saes.architectures import Params
from probejax.saes.train import Scale, TrainOptions, measure, start, train_step


def fit(
    x: np.ndarray,
    options: TrainOptions,
    checkpoints: Path,
    *,
    save_every: int = 500,
    origin: Mapping[str, Any] | None = None,
) -> tuple[Params, Scale]:
    """Trains on token activations; killed and started again, it goes on from the last checkpoint.

    The order of the tokens depends on the seed and the step alone, so an interrupted run ends with
    the numbers of an uninterrupted one.

    Args:
      x: [tokens, d_model], BOS excluded; any float dtype.
      options: how to train.
      checkpoints: folder for this run's checkpoints.
      save_every: steps between two checkpoints.
      origin: what `x` was made of, as a JSON object.

    Raises:
      ValueError: fewer tokens than one batch, or checkpoints of a run with other options or of
        another origin.
    """
    if len(x) < options.batch:
        raise ValueError(f"There are {len(x)} tokens, fewer than one batch of {options.batch}.")
    settings = {**dataclasses.asdict(options), "tokens": len(x), "d_model": x.shape[1]}
    settings |= origin or {}
    storage.write_config(checkpoints, settings)
    scale, state = measure(x[:: max(len(x) // 200_000, 1)]), start(options, x.shape[1])
    with ocp.CheckpointManager(
        checkpoints.resolve() / "steps", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    ) as manager:
        done = manager.latest_step()
        if done is not None:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            state = manager.restore(done, args=ocp.args.StandardRestore(abstract))
        with tqdm(total=options.steps, initial=done or 0, desc="train SAE", unit="step") as bar:
            for step in range(done or 0, options.steps):
                state, report = train_step(
                    options, state, jnp.asarray(_batch(x, step, options)), scale
                )
                bar.update()
                if (step + 1) % 20 == 0:
                    bar.set_postfix({name: f"{float(value):.3f}" for name, value in report.items()})
                if (step + 1) % save_every == 0 or step + 1 == options.steps:
                    manager.save(step + 1, args=ocp.args.StandardSave(state))
    return state.params, scale


def _batch(x: np.ndarray, step: int, options: TrainOptions) -> np.ndarray:
    """Returns the tokens of one step: epoch after epoch, each in an order of its own."""
    per_epoch = len(x) // options.batch
    epoch, index = divmod(step, per_epoch)
    rows = _order(len(x), options.seed, epoch)[index * options.batch : (index + 1) * options.batch]
    return np.asarray(x[np.sort(rows)], np.float32)


@functools.lru_cache(maxsize=1)
def _order(tokens: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(tokens)


def report_json(measured: dict, options: TrainOptions, **provenance) -> str:
    """Returns what is written beside a trained SAE: how it was made and how good it is."""
    fields = {"quality": measured, "options": dataclasses.asdict(options), **provenance}
    return json.dumps(json.loads(storage.encode_json(fields)), indent=1) + "\n"  # no NaN: null

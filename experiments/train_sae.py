"""Trains an SAE on token activations of the tasks' prompts.

    python -m experiments.train_sae --site=resid_post.9 --sae_out=my_sae

Writes `params.npz` in Gemma Scope's layout (a top-k SAE in SAELens') and `training.json` with what
was measured on held-out tokens. Killed at any moment, the same command goes on where it was.
"""

import functools
import sys
from pathlib import Path

import jax
from absl import flags

from experiments import flags as common
from experiments.entry import run
from probejax import activations, models, saes, storage, tasks
from probejax.saes import fit, train
from probejax.saes.architectures import ARCHITECTURES
from probejax.saes.formats import gemma_scope, sae_lens
from probejax.sites import parse

for _flag in (
    *(common.MODEL, common.SITE, common.LAYER, common.TASKS, *common.OWN, common.DTYPE),
    *(common.MAX_LENGTH, common.CACHE_DIR),
):
    flags.declare_key_flag(_flag)

_OUT = flags.DEFINE_string(
    "sae_out", None, "Folder for the SAE and its checkpoints.", required=True
)
_TOKENS = flags.DEFINE_integer("tokens", 1_000_000, "Tokens to harvest, over all tasks.", 1)
_ARCHITECTURE = flags.DEFINE_enum(
    "architecture", "jumprelu", list(ARCHITECTURES), "What is active; BatchTopK's end as JumpReLU."
)
_D_SAE = flags.DEFINE_integer("d_sae", 4096, "Number of latents.", 1)
_TARGET_L0 = flags.DEFINE_float("target_l0", 76.0, "Active latents per token, or k.", 1.0)
_STEPS = flags.DEFINE_integer("steps", 4000, "Optimiser steps.", 1)
_BATCH = flags.DEFINE_integer("batch", 2048, "Tokens per step.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the initial weights and the order of the tokens.")


def main(_: list[str]) -> None:
    """Harvests, trains, measures and saves."""
    out, site = Path(_OUT.value), parse(common.chosen_site() or "resid_post.9")
    names = tasks.match(common.chosen_tasks(), data=common.own())
    checkpoint = models.find(common.MODEL.value, cache_dir=common.CACHE_DIR.value)
    checkpoint.config.check([site])
    recipe = activations.Recipe(
        checkpoint.name,
        checkpoint.fingerprint,
        common.DTYPE.value,
        common.MAX_LENGTH.value,
        positions="all",
    )
    model = functools.cache(
        lambda: models.load(
            common.MODEL.value, (site,), dtype=recipe.dtype, cache_dir=common.CACHE_DIR.value
        )
    )
    read = lambda name: tasks.load(name, data=common.own(), cache_dir=common.CACHE_DIR.value)
    x, held_out = activations.sample_tokens(
        [read(name) for name in names],
        _TOKENS.value,
        site,
        recipe,
        model,
        cache_dir=common.CACHE_DIR.value,
    )
    options = train.TrainOptions(
        architecture=_ARCHITECTURE.value,
        d_sae=_D_SAE.value,
        target_l0=_TARGET_L0.value,
        steps=_STEPS.value,
        batch=_BATCH.value,
        learning_rate=_LEARNING_RATE.value,
        seed=_SEED.value,
    )
    params, scale = fit.fit(x, options, out / "checkpoints")
    if options.architecture == "topk":
        written = sae_lens.to_files(
            train.fold(params, scale, unit=False),
            round(options.target_l0),
            model_name=checkpoint.name,
            hook_name=site.hook,
        )
    else:
        written = {"params.npz": gemma_scope.to_bytes(train.fold(params, scale))}
    for name, content in written.items():
        storage.write_atomic(out / name, content)
    measured = saes.quality(saes.find(str(out)).open(), held_out)
    provenance = {
        "model": checkpoint.name,
        "site": str(site),
        "training_tokens": len(x),
        "device": jax.devices()[0].device_kind,
        "command": " ".join(["python -m experiments.train_sae", *sys.argv[1:]]),
    }
    storage.write_atomic(
        out / "training.json", fit.report_json(measured._asdict(), options, **provenance)
    )
    print(measured)


if __name__ == "__main__":
    run(main)

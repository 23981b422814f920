"""Trains an SAE on token activations of the tasks' prompts.

    python -m experiments.train_sae --site=resid_post.9 --sae_out=my_sae

Writes `params.npz` in Gemma Scope's layout (a top-k SAE in SAELens') and `training.json` with what
was measured on held-out tokens. Killed at any moment, the same command goes on where it was.
"""

import sys
from typing import Any

from absl import flags

import probejax as px
from experiments import flags as common
from experiments.entry import run
from probejax import sites
from probejax.rules import ARCHITECTURES

for _flag in common.READS:
    flags.declare_key_flag(_flag)
_OUT = common.unless_dry(
    flags.DEFINE_string("sae_out", None, "Folder for the SAE and its checkpoints.")
)
_TOKENS = flags.DEFINE_integer("tokens", 1_000_000, "Tokens to harvest, over all tasks.", 1)
_OPTIONS = (
    flags.DEFINE_enum("architecture", "jumprelu", list(ARCHITECTURES), "What is active, and how."),
    flags.DEFINE_integer("d_sae", 4096, "Number of latents.", 1),
    flags.DEFINE_float("target_l0", 76.0, "Active latents per token, or k.", 1.0),
    flags.DEFINE_integer("steps", 4000, "Optimiser steps.", 1),
    flags.DEFINE_integer("batch", 2048, "Tokens per step.", 1),
    flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.", 0.0),
    flags.DEFINE_integer("seed", 0, "Seed of the initial weights and the order of the tokens."),
)


def main(_: list[str]) -> None:
    """Harvests, trains, measures and saves."""
    target = common.target()
    chosen, names, own = common.chosen_sites(), common.chosen_tasks(), common.own()
    chosen = ("9",) if chosen is None else chosen
    if len(chosen) != 1:
        named = ", ".join(chosen) or "none"
        raise ValueError(f"An SAE is trained at one site, and --site names {named}; give one.")
    site = sites.parse(chosen[0])
    px.tasks.match(names, data=own)
    from probejax.saes.train import TrainOptions  # imports JAX: after what can be told without it

    tokens = px.runs.Tokens(
        model=common.MODEL.value,
        site=site,
        names=names,
        data=own,
        count=_TOKENS.value,
        dtype=common.DTYPE.value,
        max_length=common.MAX_LENGTH.value,
        bos=common.BOS.value,
        chat_template=common.CHAT_TEMPLATE.value,
    )
    settings: dict[str, Any] = {flag.name: flag.value for flag in _OPTIONS}
    options = TrainOptions(**settings)
    where: dict[str, Any] = {"cache_dir": common.CACHE_DIR.value}
    if common.DRY_RUN.value:
        print(px.runs.plan_training(options, tokens, target=target, **where))
        return
    command = " ".join(["python -m experiments.train_sae", *sys.argv[1:]])
    where |= {"model_parallel": common.MODEL_PARALLEL.value, "command": command}
    print(px.runs.train_sae(_OUT.value, options, tokens, **where))


if __name__ == "__main__":
    run(main)

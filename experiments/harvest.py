"""Fills the cache with activations, and says before what that takes.

    python -m experiments.harvest --tasks=all
    python -m experiments.harvest --tasks=all --positions=all --disk_gb=200
    python -m experiments.harvest --model=gemma-2-9b --site=resid_post.20 --tasks=all \
        --positions=all --dtype=bfloat16 --dry_run

Killed at any moment, the same command goes on where it was. A dry run needs no weights for the
published Gemma models: their tokens are then counted with the tokenizer of gemma-3-270m.
"""

import functools
import shutil
from pathlib import Path

from absl import flags

import probejax as px
from experiments import flags as common
from experiments.entry import run
from probejax.sites import Site, parse

for _flag in (
    *(common.MODEL, common.SITE, common.LAYER, common.TASKS, *common.OWN, common.DTYPE),
    *(common.MAX_LENGTH, common.DISK_GB, common.CACHE_DIR),
):
    flags.declare_key_flag(_flag)
_POSITIONS = flags.DEFINE_enum(
    "positions", "last", ["last", "all"], "Tokens to keep of a prompt: the last, or all."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
_MULTI_TOKEN_LENGTH = 256  # the study's limit where it keeps all tokens of a prompt


def main(_: list[str]) -> None:
    """Prints the plan, then harvests."""
    cache = common.CACHE_DIR.value
    lists = _prompts()  # before the model: a mistake here costs no download
    checkpoint, config, tokenizer = _model()
    sites = _sites(config)
    every = _POSITIONS.value == "all"
    length = common.MAX_LENGTH.value
    if every and not common.MAX_LENGTH.present:
        length = _MULTI_TOKEN_LENGTH
    recipe = px.activations.Recipe(
        config.name,
        "" if checkpoint is None else checkpoint.fingerprint,
        common.DTYPE.value,
        length,
        _POSITIONS.value,
    )
    plans = px.activations.plan(lists, sites, recipe, tokenizer, config, cache_dir=cache)
    todo = sum(each.tokens for each in plans if not each.cached)
    flops = todo * px.activations.flops_per_token(config, sites)
    print(
        px.activations.table(plans, flops / px.activations.measured_flops(recipe.dtype)), flush=True
    )
    root = Path(px.artifacts.cache_dir(cache))
    root.mkdir(parents=True, exist_ok=True)
    allowed = None if common.DISK_GB.value is None else int(common.DISK_GB.value * 1e9)
    if _DRY_RUN.value:
        return
    px.activations.check_disk(plans, allowed, shutil.disk_usage(root).free)
    px.devices.compilation_cache(root)
    px.storage.remove_leftovers(root / "activations")
    load = functools.cache(
        lambda: px.models.load(common.MODEL.value, sites, dtype=recipe.dtype, cache_dir=cache)
    )
    for number, (name, prompts) in enumerate(lists.items(), start=1):
        label = f"{name} ({number} of {len(lists)})"
        px.activations.harvest(prompts, sites, recipe, load, cache_dir=cache, label=label)
    print(f"All {len(lists)} lists of prompts are in {root / 'activations'}.")


def _model() -> "tuple[px.models.Checkpoint | None, px.models.GemmaConfig, Tokenizer]":
    """Returns the checkpoint, its numbers and its tokenizer."""
    spec, cache = common.MODEL.value, common.CACHE_DIR.value
    if _DRY_RUN.value and spec in px.models.PRESETS and spec != "gemma-3-270m":
        print(f"Without weights: {spec} by its published sizes, tokens as gemma-3-270m cuts them.")
        return (
            None,
            px.models.PRESETS[spec],
            px.models.find("gemma-3-270m", cache_dir=cache).tokenizer(),
        )
    checkpoint = px.models.find(spec, cache_dir=cache)
    return checkpoint, checkpoint.config, checkpoint.tokenizer()


def _sites(config: "px.models.GemmaConfig") -> tuple[Site, ...]:
    """Returns the sites that the flags list, separated by commas."""
    given = common.chosen_site()
    if given is None and config.name not in px.sweep.DEFAULT_LAYERS:
        raise ValueError(f"Give --site: {config.name} has no default.")
    parts = [px.sweep.DEFAULT_LAYERS[config.name]] if given is None else given.split(",")
    found = tuple(dict.fromkeys(parse(part) for part in parts))
    config.check(found)
    return found


def _prompts() -> dict[str, tuple[str, ...]]:
    """Returns the lists of prompts: every task's, and its shifted test set's where it has one."""
    where = {"data": common.own(), "cache_dir": common.CACHE_DIR.value}
    names = px.tasks.match(common.chosen_tasks(), data=common.own())
    shifted = px.tasks.shifted_names(common.own())
    found = {}
    for name in names:
        found[name] = px.tasks.load(name, **where).prompts
        if name in shifted:
            found[f"{name}, shifted"] = px.tasks.load_shifted(name, **where).prompts
    return found


if __name__ == "__main__":
    run(main)

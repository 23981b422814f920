"""The flags that decide a run's results: each is a field of `Config`."""

from typing import Any

from absl import flags

import probejax as px
from experiments import flags as common
from probejax.rules import ENGINES, PROTOCOLS, RANKINGS
from probejax.tasks import REGIMES

_SAE = flags.DEFINE_multi_string(
    "sae",
    [],
    "SAE: an id that ships with probejax or of a known release, a file, a folder, or "
    "random:<width>:<l0>. Repeatable.",
)
_SAE_SUITE = flags.DEFINE_string(
    "sae_suite", None, "Also all SAEs of a suite: saebench-gemma-2-2b, or a folder of SAEs."
)
_REGIMES = flags.DEFINE_list("regimes", list(REGIMES), "Regimes.")
_METHODS = flags.DEFINE_list(
    "methods",
    ["default"],
    "Methods; `default` is all on the last token but the slow ones, `all` is all of these; "
    "`multitoken` is those on all tokens and what the study compares them with.",
)
_SEEDS = flags.DEFINE_list("seeds", ["42"], "One set of draws for each; the study's is 42.")
_OF_VECTORS = (
    common.MODEL,
    *common.OWN,
    common.DTYPE,
    common.MAX_LENGTH,
    common.BOS,
    common.CHAT_TEMPLATE,
    common.POSITION,
    flags.DEFINE_string(
        "groups",
        None,
        "Column of --data that says to which group a row belongs: a sweep holds each out once, as "
        "regime group_shift; an audit judges each.",
    ),
    flags.DEFINE_string(
        "activations",
        None,
        "Vectors of your own in place of a model: x [N, d] as .npy, or x and y in a .npz or "
        ".safetensors file.",
    ),
    flags.DEFINE_string("labels", None, "The labels y [N] of --activations, as .npy."),
)
_AS_THEY_ARE = (
    *_OF_VECTORS,
    flags.DEFINE_bool(
        "controls", False, "Also shuffled labels, random latents and a random SAE, as methods."
    ),
    flags.DEFINE_enum(
        "engine",
        "auto",
        list(ENGINES),
        "What the solvers' loops compute in: float32 on a TPU, float64 elsewhere.",
    ),
    flags.DEFINE_enum("ranking", "normalised", list(RANKINGS), "How latents are ranked."),
    flags.DEFINE_enum(
        "protocol", "paper", list(PROTOCOLS), "Rules: the study's, or without any leak."
    ),
)
_WHERE = (common.SITE, common.LAYER, common.TASKS, _SAE)
VECTORS = (*_OF_VECTORS, *_WHERE)
"""Those that say whose vectors are looked at."""
ALL = (*_AS_THEY_ARE, *_WHERE, _SAE_SUITE, _REGIMES, _METHODS, _SEEDS)


def config(**fixed: Any) -> "px.Config":
    """Returns the run that the flags describe, but for the fields that are `fixed`."""
    values: dict[str, Any] = {flag.name: flag.value for flag in _AS_THEY_ARE}
    values.update((flag.name, tuple(flag.value)) for flag in (_SAE, _REGIMES, _METHODS))
    if _SAE_SUITE.value:
        from probejax.saes import suites  # on first use, as with all that takes time to import

        values["sae"] += suites.resolve(_SAE_SUITE.value)
    if wrong := [seed for seed in _SEEDS.value if not (seed.isascii() and seed.isdigit())]:
        raise ValueError(f"--seeds={wrong[0]} is not a whole number.")
    values["seeds"] = tuple(map(int, _SEEDS.value))
    values["tasks"] = None if common.TASKS.value is None else tuple(common.TASKS.value)
    values["site"] = common.chosen_sites()
    return px.Config(**(values | fixed))

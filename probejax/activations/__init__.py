"""Activations: harvesting them and keeping them on the disk."""

from probejax.activations.cache import Activations, Recipe, discard, harvest, is_cached, key
from probejax.activations.forecast import (
    Plan,
    check_disk,
    flops_per_token,
    measured_flops,
    peak_kept,
    peak_one_by_one,
    plan,
    table,
)
from probejax.activations.language_model import LanguageModel, load_model
from probejax.activations.sample import sample_tokens

__all__ = [
    "Activations",
    "LanguageModel",
    "Plan",
    "Recipe",
    "check_disk",
    "discard",
    "flops_per_token",
    "harvest",
    "is_cached",
    "key",
    "load_model",
    "measured_flops",
    "peak_kept",
    "peak_one_by_one",
    "plan",
    "sample_tokens",
    "table",
]

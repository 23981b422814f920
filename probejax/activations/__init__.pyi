from . import cache, forward, given, ragged, shared, stored
from .cache import Recipe, discard, harvest, is_cached, key
from .forecast import (
    Plan,
    check_disk,
    duration,
    flops_per_token,
    measured_flops,
    peak_kept,
    peak_one_by_one,
    plan,
    table,
)
from .language_model import LanguageModel, load_model
from .ragged import Activations
from .sample import draw_prompts, sample_tokens

__all__ = [
    "Activations",
    "LanguageModel",
    "Plan",
    "Recipe",
    "cache",
    "check_disk",
    "discard",
    "draw_prompts",
    "duration",
    "flops_per_token",
    "forward",
    "given",
    "harvest",
    "is_cached",
    "key",
    "load_model",
    "measured_flops",
    "peak_kept",
    "peak_one_by_one",
    "plan",
    "ragged",
    "sample_tokens",
    "shared",
    "stored",
    "table",
]

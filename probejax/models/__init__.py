"""Language models: configuration, transformer, weights and tokens."""

from probejax.models.checkpoint import Checkpoint, LanguageModel, find, load
from probejax.models.config import PRESETS, GemmaConfig
from probejax.models.transformer import EMBED, Transformer, logits, residuals

__all__ = [
    "EMBED",
    "PRESETS",
    "Checkpoint",
    "GemmaConfig",
    "LanguageModel",
    "Transformer",
    "find",
    "load",
    "logits",
    "residuals",
]

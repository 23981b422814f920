"""Language models: configuration, transformer, weights and tokens."""

from probejax.models import bos, chat
from probejax.models.checkpoint import Checkpoint, LoadedModel, find, load
from probejax.models.config import PRESETS, GemmaConfig
from probejax.models.transformer import Transformer, logits, read_sites, residuals
from probejax.sites import Site

__all__ = [
    "PRESETS",
    "Checkpoint",
    "GemmaConfig",
    "LoadedModel",
    "Site",
    "Transformer",
    "bos",
    "chat",
    "find",
    "load",
    "logits",
    "read_sites",
    "residuals",
]

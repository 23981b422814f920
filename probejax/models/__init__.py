"""Language models: configuration, transformer, weights and tokens."""

from probejax.models import bos, chat
from probejax.models.checkpoint import Checkpoint, LoadedModel, find, load
from probejax.models.config import ModelConfig
from probejax.models.presets import PRESETS
from probejax.models.rope import Llama3, Rope
from probejax.models.transformer import Transformer, logits, read_sites, residuals
from probejax.models.weights import check_mesh
from probejax.sites import Site

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Llama3",
    "LoadedModel",
    "ModelConfig",
    "Rope",
    "Site",
    "Transformer",
    "bos",
    "chat",
    "check_mesh",
    "find",
    "load",
    "logits",
    "read_sites",
    "residuals",
]

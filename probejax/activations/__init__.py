"""Activations: harvesting residual streams and keeping them on the disk."""

from probejax.activations.cache import Activations, Recipe, harvest, key
from probejax.activations.sample import sample_tokens

__all__ = ["Activations", "Recipe", "harvest", "key", "sample_tokens"]

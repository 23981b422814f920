"""Sparse autoencoders: encoding, files of every format, latent selection and training."""

from probejax.rules import RANKINGS
from probejax.saes.describe import LatentCard, describe
from probejax.saes.formats import gemma_scope
from probejax.saes.named import NamedSAE, load_sae
from probejax.saes.quality import Quality, quality
from probejax.saes.registry import SaeFile, find, load, shipped
from probejax.saes.sae import SAE, decode, encode, reconstruct
from probejax.saes.select import Ranking, encode_columns, top_latents
from probejax.saes.stored import StoredSAE
from probejax.saes.stream import Dictionary
from probejax.saes.suites import SUITES

__all__ = [
    "RANKINGS",
    "SAE",
    "SUITES",
    "Dictionary",
    "LatentCard",
    "NamedSAE",
    "Quality",
    "Ranking",
    "SaeFile",
    "StoredSAE",
    "decode",
    "describe",
    "encode",
    "encode_columns",
    "find",
    "gemma_scope",
    "load",
    "load_sae",
    "quality",
    "reconstruct",
    "shipped",
    "top_latents",
]

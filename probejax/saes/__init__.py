"""Sparse autoencoders: encoding, files, latent selection and training."""

from probejax.saes.registry import SaeFile, find, load, shipped
from probejax.saes.sae import SAE, decode, encode
from probejax.saes.select import RANKINGS, Ranking, encode_columns, top_latents

__all__ = [
    "RANKINGS",
    "SAE",
    "Ranking",
    "SaeFile",
    "decode",
    "encode",
    "encode_columns",
    "find",
    "load",
    "shipped",
    "top_latents",
]

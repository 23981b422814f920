"""Probes: one file per method, and the rules by which all of them validate."""

from probejax.probes import logreg, sae
from probejax.probes.methods import BASELINES, is_sae_method, sae_k, unknown_method
from probejax.probes.rows import Rows, batches
from probejax.probes.scores import Scores

__all__ = [
    "BASELINES",
    "Rows",
    "Scores",
    "batches",
    "is_sae_method",
    "logreg",
    "sae",
    "sae_k",
    "unknown_method",
]

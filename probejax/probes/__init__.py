"""Probes: one file per method, and the rules by which all of them validate."""

from probejax.probes import knn, lda, logreg, logreg_l1, mean_difference, mlp, sae, saved, xgboost
from probejax.probes.methods import (
    BASELINES,
    is_binarised,
    is_sae_method,
    sae_k,
    unknown_method,
)
from probejax.probes.rows import Rows, batches
from probejax.probes.saved import SavedProbes, load
from probejax.probes.scores import PROTOCOLS, Fitted, Protocol, Scores

__all__ = [
    "BASELINES",
    "PROTOCOLS",
    "Fitted",
    "Protocol",
    "Rows",
    "SavedProbes",
    "Scores",
    "batches",
    "is_binarised",
    "is_sae_method",
    "knn",
    "lda",
    "load",
    "logreg",
    "logreg_l1",
    "mean_difference",
    "mlp",
    "sae",
    "sae_k",
    "saved",
    "unknown_method",
    "xgboost",
]

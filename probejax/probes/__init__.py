"""Probes: one file per method, and the rules by which all of them validate."""

from probejax.probes import (
    knn,
    lda,
    logreg,
    logreg_l1,
    mean_difference,
    methods,
    mlp,
    pca,
    sae,
    sae_pooled,
    saved,
    tokens,
    xgboost,
)
from probejax.probes.methods import BASELINES, Method, parse
from probejax.probes.rows import Rows, batches
from probejax.probes.saved import SavedProbes, load
from probejax.probes.scores import PROTOCOLS, Fitted, Protocol, Scores
from probejax.probes.token_methods import TOKEN_METHODS

__all__ = [
    "BASELINES",
    "PROTOCOLS",
    "TOKEN_METHODS",
    "Fitted",
    "Method",
    "Protocol",
    "Rows",
    "SavedProbes",
    "Scores",
    "batches",
    "knn",
    "lda",
    "load",
    "logreg",
    "logreg_l1",
    "mean_difference",
    "methods",
    "mlp",
    "parse",
    "pca",
    "sae",
    "sae_pooled",
    "saved",
    "tokens",
    "xgboost",
]

from . import (
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
from .baselines import BASELINES
from .methods import Method, parse
from .rows import Rows, batches
from .saved import SavedProbes, load
from .scores import PROTOCOLS, Fitted, Protocol, Scores
from .token_methods import TOKEN_METHODS

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

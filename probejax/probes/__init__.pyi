from . import (
    families,
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
    xgboost,
)
from .baselines import BASELINES
from .methods import Method, parse
from .rows import Rows, batches
from .saved import SavedProbe, load_probe, save
from .scores import PROTOCOLS, Fit, Protocol, Scores
from .token_methods import TOKEN_METHODS

__all__ = [
    "BASELINES",
    "PROTOCOLS",
    "TOKEN_METHODS",
    "Fit",
    "Method",
    "Protocol",
    "Rows",
    "SavedProbe",
    "Scores",
    "batches",
    "families",
    "knn",
    "lda",
    "load_probe",
    "logreg",
    "logreg_l1",
    "mean_difference",
    "methods",
    "mlp",
    "parse",
    "pca",
    "sae",
    "sae_pooled",
    "save",
    "saved",
    "xgboost",
]

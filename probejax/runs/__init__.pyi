from .fill import Filling, check_filling, fill_cache, plan_filling
from .folder import Run, read
from .foresee import foresee
from .sae import Tokens, plan_training, train_sae
from .start import run

__all__ = [
    "Filling",
    "Run",
    "Tokens",
    "check_filling",
    "fill_cache",
    "foresee",
    "plan_filling",
    "plan_training",
    "read",
    "run",
    "train_sae",
]

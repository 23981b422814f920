from .fill import Filling, fill_cache, plan_filling
from .folder import Run, read
from .sae import Tokens, plan_training, train_sae
from .start import run

__all__ = [
    "Filling",
    "Run",
    "Tokens",
    "fill_cache",
    "plan_filling",
    "plan_training",
    "read",
    "run",
    "train_sae",
]

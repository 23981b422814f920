from .fill import Filling, fill_cache, plan_filling
from .folder import Run, read
from .sae import train_sae
from .start import run

__all__ = ["Filling", "Run", "fill_cache", "plan_filling", "read", "run", "train_sae"]

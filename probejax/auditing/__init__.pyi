from . import neutral_texts
from .audit import Audit, audit
from .dataset import Dataset
from .start import run

__all__ = ["Audit", "Dataset", "audit", "neutral_texts", "run"]

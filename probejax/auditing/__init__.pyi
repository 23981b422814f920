from . import keep, neutral_texts
from .dataset import Dataset
from .report import Audit, audit
from .start import run

__all__ = ["Audit", "Dataset", "audit", "keep", "neutral_texts", "run"]

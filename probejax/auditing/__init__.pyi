from . import keep, neutral_texts
from .dataset import Dataset
from .outlook import look
from .ready import ready
from .report import Audit, audit
from .start import run

__all__ = ["Audit", "Dataset", "audit", "keep", "look", "neutral_texts", "ready", "run"]

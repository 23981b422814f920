from . import job, workers
from .config import Config
from .job import Sweep
from .source import open_source
from .token_disk import TokenDisk, forecast
from .units import Result, Unit, check_done
from .workers import run_units

__all__ = [
    "Config",
    "Result",
    "Sweep",
    "TokenDisk",
    "Unit",
    "check_done",
    "forecast",
    "job",
    "open_source",
    "run_units",
    "workers",
]

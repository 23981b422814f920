"""The sweep: a configuration, the units it consists of, and how they are run."""

from probejax.sweep.config import Config
from probejax.sweep.job import Sweep
from probejax.sweep.token_disk import TokenDisk, forecast
from probejax.sweep.units import Result, Unit, check_done
from probejax.sweep.workers import run_units

__all__ = [
    "Config",
    "Result",
    "Sweep",
    "TokenDisk",
    "Unit",
    "check_done",
    "forecast",
    "run_units",
]

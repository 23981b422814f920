from . import workers
from .config import Config
from .execute import Execution
from .plan import DEFAULT_LAYERS, Plan, resolve
from .source import open_source
from .token_disk import TokenDisk, forecast
from .units import Result, Unit, check_done
from .workers import run_units

__all__ = [
    "DEFAULT_LAYERS",
    "Config",
    "Execution",
    "Plan",
    "Result",
    "TokenDisk",
    "Unit",
    "check_done",
    "forecast",
    "open_source",
    "resolve",
    "run_units",
    "workers",
]

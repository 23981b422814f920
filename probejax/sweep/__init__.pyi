from . import cluster, execute, processes, workers
from .config import Config
from .execute import Execution
from .machines import machine
from .memory import at_once
from .outlook import Outlook, look
from .places import DEFAULT_LAYERS
from .plan import Plan, resolve
from .source import open_source
from .token_disk import TokenDisk, forecast
from .token_disk import plans as token_plans
from .units import Result, Unit, check_done
from .workers import by_task, run_units

__all__ = [
    "DEFAULT_LAYERS",
    "Config",
    "Execution",
    "Outlook",
    "Plan",
    "Result",
    "TokenDisk",
    "Unit",
    "at_once",
    "by_task",
    "check_done",
    "cluster",
    "execute",
    "forecast",
    "look",
    "machine",
    "open_source",
    "processes",
    "resolve",
    "run_units",
    "token_plans",
    "workers",
]

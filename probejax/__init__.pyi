from . import (
    activations,
    analysis,
    artifacts,
    auditing,
    devices,
    hosts,
    metrics,
    models,
    probes,
    rules,
    runs,
    saes,
    solvers,
    storage,
    sweep,
    tasks,
)
from .activations.language_model import load_model
from .auditing.report import audit
from .comparison import compare
from .probes.fit import fit, fit_lanes
from .probes.saved import load_probe, save
from .runs.folder import read
from .runs.start import run
from .saes.named import load_sae
from .saes.top import top_latents
from .sweep.config import Config

__all__ = [
    "Config",
    "activations",
    "analysis",
    "artifacts",
    "audit",
    "auditing",
    "compare",
    "devices",
    "fit",
    "fit_lanes",
    "hosts",
    "load_model",
    "load_probe",
    "load_sae",
    "metrics",
    "models",
    "probes",
    "read",
    "rules",
    "run",
    "runs",
    "saes",
    "save",
    "solvers",
    "storage",
    "sweep",
    "tasks",
    "top_latents",
]

__version__: str

from . import (
    activations,
    analysis,
    artifacts,
    devices,
    hosts,
    metrics,
    models,
    probes,
    rules,
    saes,
    solvers,
    storage,
    sweep,
    tasks,
)

__all__ = [
    "activations",
    "analysis",
    "artifacts",
    "devices",
    "hosts",
    "metrics",
    "models",
    "probes",
    "rules",
    "saes",
    "solvers",
    "storage",
    "sweep",
    "tasks",
]

__version__: str

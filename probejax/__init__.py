"""Honest, fast, accelerator-native probing of language models.

tasks -> models -> activations -> saes -> probes -> sweep -> analysis
"""

from probejax import (
    activations,
    analysis,
    artifacts,
    devices,
    metrics,
    models,
    probes,
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
    "metrics",
    "models",
    "probes",
    "saes",
    "solvers",
    "storage",
    "sweep",
    "tasks",
]

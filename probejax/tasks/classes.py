"""From the targets of a task file, as they are spelled, to labels 0 and 1."""

import decimal
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?", re.ASCII)
_MISSING = {"", "nan", "null", "none", "na", "n/a", "#n/a", "<na>"}
_SHOWN = 5  # classes in a message


def is_missing(target: str) -> bool:
    """Tells whether a target is empty or how spreadsheets and data frames spell a missing value."""
    return target.strip().casefold() in _MISSING


def encode(targets: Sequence[str]) -> tuple[Int[np.ndarray, " n"], tuple[str, str]]:
    """Returns int64 labels, 0 for the target that sorts first, 1 for the other, and both targets.

    If all are numbers they count by value (`1` and `1.0` are one class, `9` sorts before `10`), all
    else counts as it is spelled and sorts alphabetically.

    Raises:
        ValueError: there are not exactly two classes, or the two differ in case, spaces or the form
            of their letters alone.
    """
    value: dict[str, str | decimal.Decimal] = {target: target for target in targets}
    if all(_NUMBER.fullmatch(target.strip()) for target in value):
        value = {target: decimal.Decimal(target.strip()) for target in value}
    counts = Counter(value[target] for target in targets)
    spelled = {value[target]: target for target in reversed(value)}  # as it is spelled first
    classes = sorted(counts)
    alike = len({_plain(spelled[each]) for each in classes}) < len(classes)
    if len(classes) != 2 or alike:
        shown = ", ".join(f"{spelled[each]!r} x {counts[each]:,}" for each in classes[:_SHOWN])
        raise ValueError(
            f"has {len(classes)} class{'' if len(classes) == 1 else 'es'} in its target column "
            f"({shown}{', ...' if len(classes) > _SHOWN else ''}); expected exactly 2"
            + (", and some of these differ only in case or spaces: spell them alike" * alike)
        )
    labels = np.array([value[target] == classes[1] for target in targets], np.int64)
    return labels, (spelled[classes[0]].strip(), spelled[classes[1]].strip())


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()

"""What a finished unit keeps of its test rows: one file beside the unit's, checked when it is read.

The file is safetensors, so that reading it runs nothing. For each seed of the standard condition it
holds the probe's logit of every test row, 4 bytes; and a bit for each row of the task that says
whether it is a test row, and one for each test row that is its label. So row numbers are distinct
and in order by construction. A probe on latents adds its largest weights, and for each of these the
rows on which the latent is largest.
"""

from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors.numpy import load, save

from probejax import foreign
from probejax.stored_unit import Text

MOST_BYTES = 1 << 26
_FORMAT = "probejax scores 1"
_ABOUT = "probejax"  # the only key of the metadata: of several, the order would be random
_NONE = -1  # in place of a row, where a latent fires on fewer


class Latents(NamedTuple):
    """Latents that a probe weighs, the largest weight first.

    Attributes:
      numbers: [j] of them in the SAE.
      weights: [j] in the probe's logit.
      rows: [j, t] row numbers on which each is largest, of different prompts, the largest first; -1
        behind the last on which it fires.
      values: [j, t] how large it is there; 0 behind the last.
    """

    numbers: Int[np.ndarray, " j"]
    weights: Float[np.ndarray, " j"]
    rows: Int[np.ndarray, "j t"]
    values: Float[np.ndarray, "j t"]


class ScoredRows(NamedTuple):
    """The test rows of one draw and what a probe says of them.

    Attributes:
      seed: of the draw.
      rows: [m] row numbers of the task, rising, from 0.
      labels: [m] 0 or 1.
      logits: [m] float32; above 0 predicts label 1. Not finite where the probe's are not.
      latents: that the probe reads, if it is one on latents.
    """

    seed: int
    rows: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    logits: Float[np.ndarray, " m"]
    latents: Latents | None = None


class StoredScores(NamedTuple):
    """The test scores of a unit.

    Attributes:
      classes: what labels 0 and 1 are called.
      draws: one for each seed.
    """

    classes: tuple[str, str]
    draws: tuple[ScoredRows, ...]


class _About(msgspec.Struct):
    """Our text in the metadata."""

    format: str
    classes: tuple[Text, Text]
    seeds: list[int]


class _Header(msgspec.Struct):
    """The JSON before the tensors, as far as it is ours."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def encode(scores: StoredScores) -> bytes:
    """Returns the file of a unit's scores; the same scores give the same bytes."""
    tensors: dict[str, np.ndarray] = {}
    for draw in scores.draws:
        tested = np.zeros(draw.rows[-1] + 1 if len(draw.rows) else 0, bool)
        tested[draw.rows] = True
        own = {
            "tested": np.packbits(tested),
            "labels": np.packbits(draw.labels == 1),
            "logits": np.asarray(draw.logits, np.float32),
        }
        if draw.latents is not None:
            own["latents"], own["weights"], own["firing_rows"], own["firing"] = (
                np.asarray(array, kind)
                for array, kind in zip(
                    draw.latents, (np.int32, np.float32, np.int32, np.float32), strict=True
                )
            )
        tensors |= {f"{draw.seed}.{name}": np.ascontiguousarray(a) for name, a in own.items()}
    classes = (_text(scores.classes[0]), _text(scores.classes[1]))
    about = _About(_FORMAT, classes, [draw.seed for draw in scores.draws])
    return save(tensors, {_ABOUT: msgspec.json.encode(about).decode()})


def decode(data: bytes) -> StoredScores:
    """Returns the scores that a file holds.

    Raises:
      ValueError: it holds something else; other errors where its bytes are damaged.
    """
    tensors = load(data)
    header = foreign.decode_json(data[8 : 8 + int.from_bytes(data[:8], "little")], _Header)
    about = foreign.decode_json(header.metadata.get(_ABOUT, "{}"), _About)
    if about.format != _FORMAT:
        raise ValueError(f"its format is {about.format!r}, expected {_FORMAT!r}")
    return StoredScores(about.classes, tuple(_draw(tensors, seed) for seed in about.seeds))


def _draw(tensors: dict[str, np.ndarray], seed: int) -> ScoredRows:
    array = lambda name, kind, axes: _array(tensors, f"{seed}.{name}", kind, axes)
    tested, labels = (_bits(array(name, np.uint8, 1)) for name in ("tested", "labels"))
    logits = array("logits", np.float32, 1)
    count = np.count_nonzero(tested)
    if count != len(logits) or len(labels) != -(-count // 8) * 8:
        raise ValueError(f"{count} rows were tested, and {len(logits)} have a logit")
    found = ScoredRows(seed, np.flatnonzero(tested), labels[:count].astype(int), logits)
    if f"{seed}.latents" not in tensors:
        return found
    latents = Latents(
        array("latents", np.int32, 1),
        array("weights", np.float32, 1),
        array("firing_rows", np.int32, 2),
        array("firing", np.float32, 2),
    )
    count = len(latents.numbers)
    if not count == len(latents.weights) == len(latents.rows) == len(latents.values):
        raise ValueError("its latents and their weights differ in number")
    if latents.rows.shape != latents.values.shape or (latents.rows < _NONE).any():
        raise ValueError("the rows on which its latents fire are none")
    return found._replace(latents=latents)


def _array(tensors: dict[str, np.ndarray], name: str, kind: Any, axes: int) -> np.ndarray:
    found = tensors.get(name)
    if found is None or found.dtype != kind or found.ndim != axes:
        shown = "nothing" if found is None else f"{found.dtype}{found.shape}"
        raise ValueError(f"{name} is {shown}, expected {axes} axes of {np.dtype(kind)}")
    return found


def _bits(packed: np.ndarray) -> Bool[np.ndarray, " n"]:
    return np.unpackbits(packed).astype(bool)


def _text(name: str) -> str:
    """Returns the name of a class as the schema has it: on one line, and no more than 200 long."""
    return "".join(c if c.isprintable() else " " for c in name)[:200]

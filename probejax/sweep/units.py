"""Units: the smallest pieces of work that are saved."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probejax import foreign, probes, storage, tasks
from probejax.stored_scores import StoredScores

RECIPE = 6  # raise it when the numbers of a unit change, so that old units are not reused


class Unit(NamedTuple):
    """One task, source and method; its fields decide its numbers and its name."""

    task: str
    source: str
    method: str
    protocol: str
    model: str
    weights: str
    dtype: str
    max_length: int | None
    site: str
    sae_id: str
    sae_weights: str
    k: int | None
    ranking: str
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    task_files: str
    recipe: int
    bos: str = ""  # what was done, unless BOS is prepended because the model's convention is so
    chat: str = ""  # hash of the template that makes each prompt a turn of a chat
    position: str = ""  # of the token that is read, unless it is the last

    @property
    def name(self) -> str:
        """The name of its file."""
        return storage.unit_id(self.facts)

    @property
    def facts(self) -> dict[str, Any]:
        """Its fields as they are written, those with a default only if they say something."""
        silent = {name for name in self._field_defaults if not getattr(self, name)}
        return {name: value for name, value in self._asdict().items() if name not in silent}

    @property
    def label(self) -> str:
        """What a person calls it, and the name of the file of its probes without its ending."""
        parts = (self.task, self.source, self.method, self.site)
        return "__".join(foreign.file_name(part) for part in parts)


class Result(NamedTuple):
    """A finished unit.

    Attributes:
      payload: what must be reproducible.
      timing: what need not be.
      fitted: for every batch of lanes, which conditions they are and what was fitted.
      scores: of the test rows under standard conditions; None where the run has none.
    """

    payload: dict[str, Any]
    timing: dict[str, Any]
    fitted: list[tuple[tuple[int, ...], probes.Fit]]
    scores: StoredScores | None = None


def check_done(out: str, units: Sequence[Unit], done: Collection[str]) -> None:
    """Refuses results that this run would not make, because a table must not hold both.

    Raises:
      ConfigMismatch: there are units of other task files, weights or SAEs, or of another version.
    """
    if foreign := sorted(set(done) - {unit.name for unit in units}):
        raise storage.ConfigMismatch(
            f"{out} is of a run with {len(foreign)} units that this one would not make, such as "
            f"units/{foreign[0]}.json: the file of a task, the weights or probejax have changed "
            "since. Choose another --out, or delete those units to have them made anew."
        )


def columns(
    conditions: Sequence[tasks.Condition], fits: Mapping[str, np.ndarray]
) -> dict[str, list]:
    """Returns the fits of a unit as columns, in the order of its conditions.

    Numbers have eight significant digits, as float32 holds no more: so files are half as long.
    """
    table = {
        "regime": [c.regime for c in conditions],
        "level": [c.level for c in conditions],
        "seed": [c.seed for c in conditions],
        "num_train": [len(c.train) for c in conditions],
        "num_test": [len(c.test) for c in conditions],
    }
    for name, values in fits.items():
        table[name] = [int(v) if name == "code" else float(f"{v:.8g}") for v in values]
    return table

"""Probes in a file: all they need to score new activations, and where they come from.

The file is safetensors: the arrays of one probe or of one stack of them, and one JSON text with the
family, its settings, the origin and, for the probes of a sweep, what each was trained on. Probes of
an SAE bring the encoder columns of their latents along, so that the file suffices; not so where
latents compete (top-k architectures), for which the SAE itself is needed to score.

Loading runs no code from the file: it holds arrays and JSON, and the trees of xgboost are JSON too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from etils import epath
from jaxtyping import Array, Float
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from probejax import foreign, positions, sites, storage
from probejax.activations.language_model import load_model
from probejax.probes import arrays
from probejax.probes.families import OnLatents, Probe
from probejax.probes.families.probe import joined
from probejax.probes.scores import Fit
from probejax.rules import BOS_RULES, DTYPES, NO_BOS, PREPENDED
from probejax.saes.named import NamedSAE
from probejax.tasks.splits import Condition

FPR = 0.01
"""Share of the negative test rows that may lie above the saved threshold."""

_FORMAT = "probejax probes 2"
_FIRST = "probejax probes 1"  # what was written before probes were pytrees
_MOST = 1 << 32  # bytes of a file of probes
_BOS = {PREPENDED: "always", NO_BOS: "never"}  # what was done -> the rule that does it again
_ABOUT = "probejax"  # the only key of the metadata: of several, the order would be random


class Trained(msgspec.Struct, frozen=True):
    """What one probe of a sweep was trained on.

    Attributes:
      regime: as in `tasks.Condition`.
      level: likewise.
      seed: likewise.
      lane: its place in the stack.
      batch: the stack, in files of the first format.
    """

    regime: str
    level: float | None
    seed: int
    lane: int
    batch: int = 0


class _Header(msgspec.Struct):
    """The JSON before the tensors, as far as it is ours."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


class _About(msgspec.Struct):
    """Our text in the metadata."""

    format: str | None = None
    unit: dict[str, Any] = {}
    conditions: list[Trained] = []
    family: str = ""
    settings: dict[str, Any] = {}
    normalise: str = "none"


@dataclasses.dataclass(frozen=True, eq=False)
class SavedProbe:
    """A probe from a file, or the probes of one unit of a sweep, and their origin.

    Attributes:
      probe: a single probe, or a stack with one probe per condition.
      origin: what is known of it: model, site, task, method, ...
      conditions: what each probe of a sweep was trained on.
      thresholds: per condition, the smallest logit of a negative test row that at most 1 % of the
        negative test rows exceed; NaN without a negative test row. An alarm with a false-positive
        rate of 1 % goes off above it.
    """

    probe: Probe
    origin: dict[str, Any]
    conditions: tuple[Trained, ...] = ()
    thresholds: Float[np.ndarray, " c"] = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __call__(self, x: Any) -> Float[Array | np.ndarray, "*c n"]:
        """Returns logits of new activations, see `Probe`; of several probes one row for each."""
        return self.probe(x)

    def __getitem__(self, condition: int) -> "SavedProbe":
        """Returns the probe of one condition, or of one lane of a stack."""
        probe = self.probe[condition]
        if not self.conditions:
            return SavedProbe(probe, self.origin)
        conditions, thresholds = (self.conditions[condition],), self.thresholds[[condition]]
        return SavedProbe(probe, self.origin, conditions, thresholds)

    @property
    def classes(self) -> tuple[str, str] | None:
        """What labels 0 and 1 are called; None where the file does not say."""
        found = self.origin.get("classes")
        return tuple(found) if isinstance(found, list | tuple) and len(found) == 2 else None

    def __repr__(self) -> str:
        count = "" if self.probe.lanes is None else f"{self.probe.lanes:,} probes, "
        known = ("method", "task", "model", "site", "layer", "sae_id")
        facts = [f"{name} {self.origin[name]}" for name in known if self.origin.get(name)]
        facts += [f"positive: {self.classes[1]!r}"] if self.classes else []
        return f"SavedProbe({count}{', '.join([type(self.probe).__name__, *facts])})"

    def score(
        self, texts: Sequence[str], *, cache_dir: str | None = None
    ) -> Float[Array | np.ndarray, "*c n"]:
        """Returns logits of texts: runs the model that the file names up to its site.

        Args:
          texts: n strings.
          cache_dir: where fetched weights live, see `load_model`.

        Raises:
          ValueError: the file names no model or no site; the texts will not do.
          FileNotFoundError, ArtifactError: the model cannot be found or fetched.
        """
        model, site = self.origin.get("model"), self.origin.get("site", self.origin.get("layer"))
        if not model or site is None:
            raise ValueError(
                "the file does not say of which model and site the probe is; call it on "
                "activations, or save it with model= and site="
            )
        dtype, length = self.origin.get("dtype", "float32"), self.origin.get("max_length", 1024)
        place = "all" if self.probe.reads_tokens else str(self.origin.get("position") or "last")
        bos = _BOS.get(str(self.origin.get("bos")), "auto")
        how = {"bos": bos, "chat_template": bool(self.origin.get("chat"))}
        lm = load_model(str(model), dtype=dtype, cache_dir=cache_dir, **how)
        return self(lm.activations(texts, site, positions=place, max_length=length))

    def find(
        self, regime: str, level: float | int | None = None, seed: int | None = None
    ) -> "SavedProbe":
        """Returns the probe of the only condition that fits; None fits everything.

        Raises:
          ValueError: none fits, or several do.
        """
        found = [
            number
            for number, condition in enumerate(self.conditions)
            if condition.regime == regime
            and (level is None or condition.level == level)
            and (seed is None or condition.seed == seed)
        ]
        if len(found) != 1:
            there = sorted({(c.regime, c.level, c.seed) for c in self.conditions}, key=repr)
            raise ValueError(
                f"{len(found)} saved probes are of regime {regime!r}, level {level} and seed "
                f"{seed}; name one of {there}."
            )
        return self[found[0]]


def save(probe: Probe | Fit, path: epath.PathLike, **origin: Any) -> None:
    """Saves a probe, or a stack of them, in one file of numbers that runs nothing when it is read.

    Args:
      probe: from `fit` or `fit_lanes`, or its `probe`.
      path: of the file, which appears whole or not at all.
      **origin: what the file shall say about it, as text, numbers or lists of these. With `model`
        and `site` it can score texts, which it reads as its own were read if you say how: give
        `positions`, `bos`, `chat_template`, `dtype` and `max_length` as you gave them to
        `load_model` and `activations`.

    Raises:
      StorageError: the place is unwritable or full.
      ValueError: one of these is not what it can be, or no JSON.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> x = np.random.default_rng(0).normal(size=(60, 8))
      >>> px.save(px.fit(x, x[:, 0] > 0), "p.safetensors", task="sign")
      >>> px.load_probe("p.safetensors")
      SavedProbe(Linear, method logreg, task sign, positive: 'True')
    """
    if isinstance(probe, Fit):
        known = {"method": probe.method, "classes": [str(each) for each in probe.classes]}
        probe, origin = probe.probe, known | origin
    _write(path, probe, {"unit": _as_read(origin)})


def _as_read(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is said of a probe in the names and values of a unit's fields."""
    found = dict(origin)
    if found.get("site") is not None:
        found["site"] = str(sites.parse(found["site"]))
    if found.get("model") is not None:
        found["model"] = str(found["model"])
    place = found.pop("positions", found.get("position"))
    if place not in (None, positions.ALL):
        found["position"] = positions.parse(place)
    if "chat_template" in found:
        found["chat"] = bool(found.pop("chat_template"))
    done = {rule: name for name, rule in _BOS.items()}
    bos = found.pop("bos", None)
    if bos not in (None, "auto", *done, *_BOS):
        raise ValueError(f"bos is {bos!r}; choose from {', '.join(BOS_RULES)}.")
    if bos not in (None, "auto"):
        found["bos"] = done.get(bos, bos)
    if found.get("dtype", DTYPES[0]) not in DTYPES:
        raise ValueError(f"dtype is {found['dtype']!r}; choose from {', '.join(DTYPES)}.")
    for name, value in found.items():
        try:
            storage.encode_json({name: value})
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} is {value!r:.100}; give text, a number, or a list of these."
            ) from None
    return found


def write(
    path: epath.PathLike,
    unit: Mapping[str, Any],
    conditions: Sequence[Condition],
    batches: Sequence[tuple[Sequence[int], Fit]],
    x: Any,
    classes: Sequence[str],
) -> None:
    """Saves the final probes of a unit of a sweep, and their thresholds.

    Args:
      path: of the file, which appears whole or not at all.
      unit: its fields.
      conditions: of the unit.
      batches: for every batch, which conditions its lanes are and what was fitted.
      x: the features or tokens whose rows the conditions name.
      classes: what labels 0 and 1 are called.

    Raises:
      StorageError: the place is unwritable or full.
    """
    order = np.concatenate([np.asarray(which, int) for which, _ in batches])
    stack = joined([fit.probe for _, fit in batches])[np.argsort(order)]
    trained = [Trained(c.regime, c.level, c.seed, lane) for lane, c in enumerate(conditions)]
    most = max(len(condition.test) for condition in conditions)
    rows, mask = np.zeros((2, len(conditions), most), int)
    for lane, condition in enumerate(conditions):
        rows[lane, : len(condition.test)], mask[lane, : len(condition.test)] = condition.test, 1
    logits = np.asarray(stack.of_rows(stack.source(x), rows, mask.astype(bool)))
    thresholds = [
        _threshold(each[: len(condition.test)], condition.y_test)
        for each, condition in zip(logits, conditions, strict=True)
    ]
    about = {
        "unit": {**unit, "classes": list(classes)},
        "conditions": [msgspec.structs.asdict(each) for each in trained],
    }
    _write(path, stack, about, {"thresholds": np.array(thresholds, np.float32)})


def _write(path, probe: Probe, about: dict, more: Mapping[str, np.ndarray] | None = None) -> None:
    family, settings, found = arrays.of_probe(probe.kept())
    about = {"format": _FORMAT, **about, "family": family, "settings": settings}
    tensors = {
        name: np.asarray(array, order="C") for name, array in {**found, **(more or {})}.items()
    }
    storage.write_atomic(path, serialise(tensors, {_ABOUT: storage.encode_json(about)}))


def load_probe(path: epath.PathLike, sae: Any = None) -> SavedProbe:
    """Reads probes that `save` or a sweep with `--save_probes` wrote.

    Args:
      path: of the file.
      sae: the SAE whose latents the probes read, where the file could not hold what is needed: as
        for `fit`.

    Returns:
      The probe: called on activations it gives logits; `score(texts)` gives those of texts, where
      the file names model and site.

    Raises:
      FileNotFoundError: no such file.
      DamagedFile: the file is damaged, or holds something else.
      ValueError: the SAE has not the latents that the probes read.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> x = np.random.default_rng(0).normal(size=(60, 8))
      >>> px.save(px.fit(x, x[:, 0] > 0), "p.safetensors")
      >>> px.load_probe("p.safetensors")(x[:3]).shape
      (3,)
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file of probes {path}.")
    data = foreign.read_bytes(path, _MOST)
    with foreign.parsing(path, "if it is a file of probes, save them again"):
        tensors = parse(data)
        length = int.from_bytes(data[:8], "little")
        header = foreign.decode_json(data[8 : 8 + length], _Header)
        about = foreign.decode_json(header.metadata.get(_ABOUT, "{}"), _About)
        if about.format not in (_FORMAT, _FIRST):
            raise ValueError(f"its format is {about.format!r}, expected {_FORMAT!r}")
        thresholds = tensors.pop("thresholds", np.zeros(0, np.float32))
        if about.format == _FIRST:
            where = [(at.batch, at.lane) for at in about.conditions]
            probe = arrays.first_format(tensors, where, about.unit["method"], about.normalise)
        else:
            probe = arrays.to_probe(about.family, about.settings, tensors)
        count = 0 if probe.lanes is None or not about.conditions else probe.lanes
        if not len(about.conditions) == len(thresholds) == count:
            raise ValueError(
                f"{len(about.conditions)} conditions have {len(thresholds)} thresholds and "
                f"{probe.lanes} probes"
            )
    if sae is not None and isinstance(probe, OnLatents):
        sae = sae.sae if isinstance(sae, NamedSAE) else sae
        most, count = int(np.max(probe.latents)), getattr(sae, "d_sae", None)
        if count is not None and most >= count:
            raise ValueError(
                f"the probes of {path} read latent {most}, and this SAE has {count:,}; give the "
                "one that they were trained on"
            )
        probe = dataclasses.replace(probe, sae=sae)
    return SavedProbe(probe, about.unit, tuple(about.conditions), thresholds)


def _threshold(logits: np.ndarray, labels: np.ndarray) -> float:
    negative = np.sort(logits[labels == 0])  # NaN last, and so in the result
    if not len(negative) or np.isnan(negative[-1]):
        return float("nan")
    allowed = int(FPR * len(negative) + 1e-9)
    return float(negative[len(negative) - 1 - allowed])

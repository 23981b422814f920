"""Final probes in one safetensors file: all they need to score new activations, and their origin.

Tensors of batch i of lanes are called `<i>.<name>`, with the lanes as first axis. The metadata are
one JSON text: the unit, and for each condition its regime, level, seed, batch and lane. Probes of
an SAE bring the encoder columns of their latents along, so that the file suffices; not so where
latents compete (top-k architectures), for which the SAE itself is needed to score.

Loading runs no code from the file: it holds arrays and JSON, and the trees of xgboost are JSON too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import msgspec
import numpy as np
from etils import epath
from jaxtyping import Array, Float
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from probejax import foreign, saes, storage
from probejax.probes import knn, xgboost
from probejax.probes import sae as latent_probe
from probejax.probes.given import finite
from probejax.probes.methods import parse as method_of
from probejax.probes.scores import Fitted
from probejax.tasks.splits import Condition

FPR = 0.01
"""Share of the negative test rows that may lie above the saved threshold."""

_FORMAT = "probejax probes 1"
_MOST = 1 << 32  # bytes of a file of probes
_ABOUT = "probejax"  # the only key of the metadata: of several, the order would be random
_ENCODER = ("W_enc", "b_enc", "threshold", "b_dec", "center")


@dataclasses.dataclass(frozen=True)
class Saved:
    """The condition of one probe.

    Attributes:
      regime: as in `tasks.Condition`.
      level: likewise.
      seed: likewise.
      batch: the batch of lanes in which it was fitted.
      lane: its place there.
    """

    regime: str
    level: float | None
    seed: int
    batch: int
    lane: int


class _Header(msgspec.Struct):
    """The JSON before the tensors, as far as it is ours."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


class _About(msgspec.Struct):
    """Our text in the metadata."""

    format: str | None = None
    unit: dict[str, Any] = {}
    conditions: list[Saved] = []
    normalise: str = "none"


@dataclasses.dataclass(frozen=True)
class SavedProbes:
    """The final probes of one unit.

    Attributes:
      unit: the fields of the unit: task, model, layer, method, protocol, ...
      conditions: what each probe was trained on.
      thresholds: [conditions], in the units of `score`: the smallest score of a negative test row
        that at most 1 % of the negative test rows exceed; NaN without a negative test row.
      arrays: the tensors of the probes, by their names in the file.
      encoder: an SAE of the latents in `latents` only, or None.
      latents: indices in the full SAE of what `encoder` encodes, rising.
    """

    unit: dict[str, Any]
    conditions: tuple[Saved, ...]
    thresholds: Float[np.ndarray, " c"]
    arrays: dict[str, np.ndarray]
    encoder: saes.SAE | None = None
    latents: np.ndarray | None = None

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.unit["method"]

    def find(self, regime: str, level: float | int | None = None, seed: int | None = None) -> int:
        """Returns the number of the only condition that fits; None fits everything.

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
        return found[0]

    def score(
        self,
        features: Float[Array | np.ndarray, "n d_model"],
        condition: int = 0,
        sae: saes.Dictionary | None = None,
    ) -> Float[np.ndarray, " n"]:
        """Returns the logits of raw activations; positive predicts label 1, NaN is of bad ones.

        An alarm with a false-positive rate of 1 % goes off where the logit exceeds
        `thresholds[condition]`.

        Args:
          features: activations of the same model, layer and position as in training.
          condition: number of the probe, see `find`.
          sae: the SAE, where the file could not hold what is needed of it.

        Raises:
          ValueError: the width is wrong, or an SAE is needed and not given.
        """
        x = np.asarray(features, np.float32)
        if x.ndim != 2:
            raise ValueError(f"The activations are {x.shape}; expected one row per prompt.")
        return np.where(finite(x), self._logits(x, condition, sae), np.float32(np.nan))

    def _logits(self, x, condition: int, sae: saes.Dictionary | None) -> np.ndarray:
        at = self.conditions[condition]
        probe = {
            name.partition(".")[2]: array[at.lane]
            for name, array in self.arrays.items()
            if name.partition(".")[0] == str(at.batch)
        }
        if "latents" in probe:
            return self._on_latents(probe, x, sae)
        if "model" in probe:
            return xgboost.predict(probe["model"][: int(probe["size"])].tobytes(), x)
        if x.shape[1:] != probe["mean"].shape:
            raise ValueError(
                f"The activations are {x.shape[-1]} wide; the probes were trained on "
                f"{len(probe['mean'])}."
            )
        x = x - probe.pop("mean")
        if "w" in probe:
            return x @ probe["w"] + probe["b"]
        x = x / probe.pop("scale")
        if "vectors" in probe:
            return _vote(x, **probe)
        depth = sum(name.startswith("w") for name in probe)
        for layer in range(depth):
            x = x @ probe[f"w{layer}"].T + probe[f"b{layer}"]
            x = np.maximum(x, 0) if layer < depth - 1 else x
        return x[:, 0]

    def _on_latents(self, probe, x, sae) -> np.ndarray:
        latents = probe["latents"]
        if sae is not None:
            z = saes.encode_columns(sae, jnp.asarray(x), latents)
        elif self.encoder is not None and self.latents is not None:
            columns = np.searchsorted(self.latents, latents)
            z = saes.encode_columns(self.encoder, jnp.asarray(x), columns)
        else:
            raise ValueError(
                f"The latents of {self.unit.get('sae_id') or 'this SAE'} compete with each other, "
                "so that these probes need the SAE itself: pass it as sae=."
            )
        z = np.asarray(z)
        if method_of(self.method).binarised:
            z = (z > latent_probe.FIRES).astype(np.float32)
        return z @ probe["w"] + probe["b"]


def write(
    path: epath.PathLike,
    unit: Mapping[str, Any],
    conditions: Sequence[Condition],
    batches: Sequence[tuple[Sequence[int], Fitted]],
    features: Float[Array | np.ndarray, "N d_model"],
    sae: saes.Dictionary | None = None,
) -> None:
    """Saves the final probes of a unit, and their thresholds.

    Args:
      path: of the file, which appears whole or not at all.
      unit: its fields; `method` must be among them.
      conditions: of the unit.
      batches: for every batch, which conditions its lanes are and what was fitted.
      features: the matrix whose rows the conditions name.
      sae: whose latents the probes read, if they do.

    Raises:
      StorageError: the place is unwritable or full.
    """
    tensors: dict[str, np.ndarray] = {}
    places: dict[int, Saved] = {}
    for batch, (lanes, fitted) in enumerate(batches):
        for name, array in fitted.probe.items():
            tensors[f"{batch}.{name}"] = np.ascontiguousarray(array)
        for lane, index in enumerate(lanes):
            condition = conditions[index]
            places[index] = Saved(condition.regime, condition.level, condition.seed, batch, lane)
    saved = tuple(places[index] for index in range(len(conditions)))
    chosen = [array.reshape(-1) for name, array in tensors.items() if name.endswith(".latents")]
    latents = np.unique(np.concatenate(chosen)) if chosen else None
    encoder = None if sae is None or latents is None else _part(sae, latents)
    probes = SavedProbes(dict(unit), saved, np.zeros(0, np.float32), tensors, encoder, latents)
    features = np.asarray(features)
    thresholds = [
        _threshold(probes.score(features, number, sae)[condition.test], condition.y_test)
        for number, condition in enumerate(conditions)
    ]
    tensors = {**tensors, "thresholds": np.array(thresholds, np.float32)}
    about = {
        "format": _FORMAT,
        "unit": unit,
        "conditions": [dataclasses.asdict(each) for each in saved],
    }
    if encoder is not None and latents is not None:
        about["normalise"] = encoder.normalise
        tensors["sae.latents"] = latents
        for name in _ENCODER:
            if (array := getattr(encoder, name)) is not None:
                tensors[f"sae.{name}"] = np.ascontiguousarray(array, np.float32)
    storage.write_atomic(path, serialise(tensors, {_ABOUT: storage.encode_json(about)}))


def load(path: epath.PathLike) -> SavedProbes:
    """Reads probes that `write` saved.

    Raises:
      FileNotFoundError: no such file.
      DamagedFile: the file is damaged, or holds something else.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file of probes {path}.")
    data = foreign.read_bytes(path, _MOST)
    with foreign.parsing(path, "if it is a file of probes, save them again with --save_probes"):
        tensors = parse(data)
        length = int.from_bytes(data[:8], "little")
        header = foreign.decode_json(data[8 : 8 + length], _Header)
        about = foreign.decode_json(header.metadata.get(_ABOUT, "{}"), _About)
        if about.format != _FORMAT:
            raise ValueError(f"its format is {about.format!r}, expected {_FORMAT!r}")
        conditions = tuple(about.conditions)
        thresholds = tensors.pop("thresholds")
        sae, latents = None, tensors.pop("sae.latents", None)
        if latents is not None:
            found = {name: tensors.pop(f"sae.{name}", None) for name in _ENCODER}
            there = {
                name: array if array is None else jnp.asarray(array)
                for name, array in found.items()
            }
            sae = saes.SAE(W_dec=None, normalise=cast(Any, about.normalise), **cast(Any, there))
        _check(conditions, thresholds, tensors, about.unit["method"])
    return SavedProbes(about.unit, conditions, thresholds, tensors, sae, latents)


def _check(conditions, thresholds, tensors, method) -> None:
    if not isinstance(method, str):
        raise ValueError(f"the method is {method!r}")
    if thresholds.shape != (len(conditions),):
        raise ValueError(f"{len(conditions)} conditions have thresholds {thresholds.shape}")
    for at in conditions:
        arrays = [array for name, array in tensors.items() if name.startswith(f"{at.batch}.")]
        if not arrays or not all(0 <= at.lane < len(array) for array in arrays):
            raise ValueError(f"lane {at.lane} of batch {at.batch} is missing")


def _vote(x, vectors, labels, mask, k) -> np.ndarray:
    """Returns the logits of the k nearest vectors' labels; of equally near ones the first count."""
    vectors, positive = vectors[mask].astype(np.float64), labels[mask] == 1
    distance = (vectors * vectors).sum(axis=1) - 2 * x.astype(np.float64) @ vectors.T
    last = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    nearer, even = distance < last, distance == last
    rest = k - nearer.sum(axis=1, keepdims=True)
    near = nearer | (even & (np.cumsum(even, axis=1) <= rest))
    return knn.logits_of((near & positive).sum(axis=1) / k)


def _part(sae: saes.Dictionary, latents: np.ndarray) -> saes.SAE | None:
    """Returns an SAE of some latents alone, or None where others decide with them."""
    if not isinstance(sae, saes.SAE | saes.StoredSAE) or sae.keep.kind != "all":
        return None
    part = sae.columns(latents)
    return saes.SAE(
        W_enc=part.W_enc,
        b_enc=part.b_enc,
        W_dec=None,
        b_dec=cast(Any, sae.b_dec),
        threshold=part.threshold,
        center=cast(Any, sae.center),
        normalise=sae.normalise,
    )


def _threshold(logits: np.ndarray, labels: np.ndarray) -> float:
    negative = np.sort(logits[labels == 0])  # NaN last, and so in the result
    if not len(negative) or np.isnan(negative[-1]):
        return float("nan")
    allowed = int(FPR * len(negative) + 1e-9)
    return float(negative[len(negative) - 1 - allowed])

"""Probes as named arrays and settings, as a file holds them, and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from probejax.probes import methods
from probejax.probes.families import FAMILIES, Linear, Neighbours, Network, OnLatents, Probe, Trees
from probejax.probes.families.probe import joined
from probejax.probes.scale import Scale
from probejax.saes import SAE
from probejax.saes.part import Part

_ENCODER = ("W_enc", "b_enc", "threshold", "b_dec", "center")
_BY_NAME = {cls.__name__: cls for cls in FAMILIES}
_WHOLE = ("k", "size", "train", "latents", "y")  # arrays of whole numbers


def of_probe(probe: Probe) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Returns the family of a probe, its settings and its arrays by name."""
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, probe)):
        value = getattr(probe, field.name)
        if field.metadata.get("static"):
            settings[field.name] = value
        elif field.name == "layers":
            for number, (w, b) in enumerate(value):
                found |= {f"w{number}": w, f"b{number}": b}
        elif field.name == "sae":
            if value is not None:
                settings["normalise"] = value.sae.normalise
                found["sae.latents"] = value.latents
                of_sae = {f"sae.{name}": getattr(value.sae, name) for name in _ENCODER}
                found |= {name: array for name, array in of_sae.items() if array is not None}
        elif isinstance(value, Scale):
            found |= value._asdict()
        else:
            found[field.name] = value
    return type(probe).__name__, settings, {name: np.asarray(a) for name, a in found.items()}


def to_probe(family: str, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Probe:
    """Returns the probe of a family with these settings and arrays.

    Raises:
      ValueError: they do not make a probe.
    """
    if family not in _BY_NAME:
        raise ValueError(f"it holds probes of a family {family!r}; there are {', '.join(_BY_NAME)}")
    found: dict[str, Any] = dict(arrays)
    settings = dict(settings)
    cls = _BY_NAME[family]
    if cls is Network:
        depth = sum(name[0] == "w" for name in found)
        found = {
            "layers": tuple((found[f"w{i}"], found[f"b{i}"]) for i in range(depth)),
            "scale": Scale(found["mean"], found["scale"]),
        }
    if cls is OnLatents:
        normalise = settings.pop("normalise", "none")
        found = {"sae": _part(found, normalise)} | {
            name: array for name, array in found.items() if not name.startswith("sae.")
        }
    fields = dataclasses.fields(cls)
    expected = {field.name for field in fields if not field.metadata.get("static")}
    if set(found) != expected:
        raise ValueError(f"a {family} has {sorted(expected)}, and the file holds {sorted(found)}")
    wrong = set(settings) - {field.name for field in fields}
    if wrong:
        raise ValueError(f"a {family} has no setting {sorted(wrong)}")
    probe = cls(**cast(Any, found), **settings)
    _check(probe)
    return probe


def _part(found: Mapping[str, np.ndarray], normalise: str) -> Part | None:
    if "sae.latents" not in found:
        return None
    there = {name: found.get(f"sae.{name}") for name in _ENCODER}
    own = {name: None if array is None else jnp.asarray(array) for name, array in there.items()}
    sae = SAE(W_dec=None, normalise=cast(Any, normalise), **cast(Any, own))
    if not (len(found["sae.latents"]) == sae.d_sae == len(sae.b_enc) == len(sae.threshold)):
        raise ValueError(f"its SAE has {sae.d_sae} latents and {len(found['sae.latents'])} names")
    if sae.b_dec.shape != (sae.d_model,):
        raise ValueError(f"its SAE reads {sae.d_model} numbers and has b_dec {sae.b_dec.shape}")
    return Part(sae, found["sae.latents"])


def _check(probe: Probe) -> None:
    """Raises ValueError unless a probe, or all of a stack, can be called."""
    lanes = probe.lanes
    own = {
        name: array
        for name, array in of_probe(probe)[2].items()
        if not name.startswith("sae.") and name not in _shared(probe)
    }
    if lanes is not None and any(array.shape[:1] != (lanes,) for array in own.values()):
        raise ValueError(f"its arrays are not of {lanes} probes each")
    for name, array in own.items():
        if name in _WHOLE and array.dtype.kind not in "iu":
            raise ValueError(f"{name} holds {array.dtype}; expected whole numbers")
    if isinstance(probe, OnLatents) and isinstance(probe.sae, Part):
        if not np.isin(probe.latents, probe.sae.latents).all():
            raise ValueError("it lacks the encoder of a latent that a probe reads")
        if probe.latents.shape != probe.w.shape:
            raise ValueError(f"{probe.w.shape} weights are of {probe.latents.shape} latents")
    if isinstance(probe, Linear) and probe.w.shape[-1:] != probe.mean.shape:
        raise ValueError(f"{probe.w.shape} weights have a mean {probe.mean.shape}")
    if isinstance(probe, Neighbours):
        train, k = probe.train[probe.mask], np.asarray(probe.k)
        if train.size and not 0 <= train.min() <= train.max() < len(probe.x):
            raise ValueError("a training row does not exist")
        if (k < 1).any() or (k > probe.mask.sum(axis=-1)).any():
            raise ValueError("more neighbours vote than there are training rows")
    if isinstance(probe, Trees) and (probe.size > probe.model.shape[-1]).any():
        raise ValueError("a model ends past the end of its array")


def _shared(probe: Probe) -> set[str]:
    fields = dataclasses.fields(cast(Any, probe))
    return {field.name for field in fields if field.metadata.get("shared")}


def first_format(
    tensors: Mapping[str, np.ndarray],
    where: Sequence[tuple[int, int]],
    method: str,
    normalise: str,
) -> Probe:
    """Returns the stack of a file from before probes were pytrees, one probe per condition.

    There every batch of lanes had arrays of its own, called `<batch>.<name>`.

    Args:
      tensors: of the file, without the thresholds.
      where: the batch and the lane of each condition.
      method: the name of the method.
      normalise: of the SAE.

    Raises:
      ValueError: they do not make probes.
    """
    stacks, places, total = [], {}, 0
    for batch in sorted({batch for batch, _ in where}):
        cut = f"{batch}."
        own = {name[len(cut) :]: a for name, a in tensors.items() if name.startswith(cut)}
        if not own:
            raise ValueError(f"batch {batch} is missing")
        stack = _first(own, tensors, method, normalise)
        places[batch] = (total, stack.lanes)
        total += stack.lanes or 0
        stacks.append(stack)
    for batch, lane in where:
        if not 0 <= lane < places[batch][1]:
            raise ValueError(f"lane {lane} of batch {batch} is missing")
    together = joined(stacks) if not isinstance(stacks[0], Neighbours) else _beside(stacks)
    return together[np.array([places[batch][0] + lane for batch, lane in where])]


def _first(own: dict, tensors: Mapping[str, np.ndarray], method: str, normalise: str) -> Probe:
    if "latents" in own:
        sae = {name: array for name, array in tensors.items() if name.startswith("sae.")}
        settings = {"normalise": normalise, "binarised": methods.parse(method).binarised}
        return to_probe("OnLatents", settings, own | sae)
    if "model" in own:
        return to_probe("Trees", {}, own)
    if "vectors" in own:
        lanes, n, d = own["vectors"].shape
        x = own["vectors"] * own["scale"][:, None, :] + own["mean"][:, None, :]
        train = np.arange(lanes * n).reshape(lanes, n)
        fields = {"mask": own["mask"], "y": own["labels"], "scale": own["scale"], "k": own["k"]}
        return to_probe("Neighbours", {}, {**fields, "train": train, "x": x.reshape(-1, d)})
    if "scale" in own:
        return to_probe("Network", {}, own)
    return to_probe("Linear", {}, own | {"mean": own["mean"][0]})


def _beside(stacks: Sequence[Any]) -> Probe:
    """Returns one stack of several that have training rows of their own."""
    begins = np.cumsum([0, *(len(stack.x) for stack in stacks)])
    x = np.concatenate([np.asarray(stack.x) for stack in stacks])
    moved = [
        dataclasses.replace(stack, train=stack.train + begin, x=x)
        for stack, begin in zip(stacks, begins[:-1], strict=True)
    ]
    return joined(moved)

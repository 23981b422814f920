"""Fills a Transformer from the tensors of a checkpoint, leaf by leaf and shard by shard.

The loop runs over our parameters, never over the file, so a missing tensor cannot go unseen. Each
leaf is read straight into its shards: nothing holds a second copy of the model.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from probejax import devices
from probejax.models.config import ModelConfig
from probejax.models.layouts import HEAD, OurTensors
from probejax.models.transformer import Transformer

_EMBEDDING = "model.embed_tokens.weight"

# How each matrix is cut over the mesh axis "model": by heads, MLP width or vocabulary. A bias is
# cut as the outputs of its matrix.
_SPECS = {
    "embed_tokens": P("model"),
    "lm_head": P("model"),
    "q_proj": P("model"),
    "o_proj": P(None, "model"),
    "gate_proj": P("model"),
    "up_proj": P("model"),
    "down_proj": P(None, "model"),
}


def tensor_name(path: tuple[Any, ...]) -> str:
    """Returns the name of the tensor that fills a parameter: its path, under `model.` or alone."""
    name = ".".join(map(str, path))
    return name if name == HEAD else f"model.{name}"


def load(
    config: ModelConfig,
    tensors: OurTensors,
    *,
    n_layers: int | None = None,
    dtype: Any = jnp.float32,
    mesh: jax.sharding.Mesh | None = None,
) -> Transformer:
    """Builds a model and reads its weights.

    Args:
      config: the checkpoint's numbers.
      tensors: the checkpoint's tensors, under our names (`layouts.Named`).
      n_layers: blocks to hold; the tensors of later blocks are not read. None holds all.
      dtype: dtype of every parameter and so of the residual stream.
      mesh: where to put the weights, cut along its axis "model"; None means the default device.

    Raises:
      ValueError: tensors that are missing, unknown or of another shape, all of which are listed;
        a model that cannot be cut over the mesh.
    """
    if mesh is None:
        mesh = jax.sharding.Mesh(np.array(devices.own()[:1]), ("model",))
    if "model" in mesh.axis_names:
        check_mesh(config, mesh.shape["model"])
    _require_blocks(config, tensors)
    given = set(tensors.names())
    if config.tied and HEAD in given and not _same_head(tensors):
        config = dataclasses.replace(config, tied=False)  # as in transformers, the file decides
    make = lambda n: lambda: Transformer(config, n, dtype, head=config.tied or HEAD in given)
    names = lambda state: {tensor_name(path): leaf for path, leaf in nnx.to_flat_state(state)}
    graphdef, abstract = nnx.split(nnx.eval_shape(make(n_layers)))
    wanted = names(abstract)
    full = wanted if n_layers is None else names(nnx.state(nnx.eval_shape(make(None))))
    _check(config.name, wanted, full, tensors)
    filled = [
        (path, leaf.replace(_read(tensors, tensor_name(path), leaf, _sharding(mesh, path, leaf))))
        for path, leaf in nnx.to_flat_state(abstract)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _require_blocks(config: ModelConfig, tensors: OurTensors) -> None:
    """Raises before a model of very many blocks is laid out, if the checkpoint has not as many."""
    n_tensors = len(list(tensors.names()))
    if n_tensors < config.n_layers:
        raise ValueError(
            f"The checkpoint does not fit {config.name}: its {n_tensors} tensors cannot be "
            f"{config.n_layers} blocks."
        )


def _check(model: str, wanted: Mapping, full: Mapping, tensors: OurTensors) -> None:
    """Raises unless the checkpoint holds exactly this model."""
    given = set(tensors.names())
    missing, unused = sorted(wanted.keys() - given), sorted(given - full.keys() - {HEAD})
    if missing or unused:
        theirs = lambda names: _some([tensors.called(name) for name in names])
        raise ValueError(
            f"The checkpoint does not fit {model}: missing {theirs(missing)}; "
            f"unused {theirs(unused)}."
        )
    wrong = [
        f"{tensors.called(name)} is {tensors.shape(name)}, expected {leaf.shape}"
        for name, leaf in wanted.items()
        if _groups(leaf.shape, tensors.shape(name)) is None
    ]
    if wrong:
        raise ValueError(f"The checkpoint does not fit {model}: {_some(wrong)}.")


def _same_head(tensors: OurTensors, samples: int = 64) -> bool:
    """Tells whether the output head is the embedding, by some rows of both."""
    if tensors.shape(HEAD) != tensors.shape(_EMBEDDING):
        return False
    for row in np.linspace(0, tensors.shape(HEAD)[0] - 1, samples).astype(int):
        cuts = (slice(row, row + 1), slice(None))
        if not np.array_equal(tensors.read(HEAD, cuts), tensors.read(_EMBEDDING, cuts)):
            return False
    return True


def _some(items: list[str], most: int = 8) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "none") + rest


def check_mesh(config: ModelConfig, n_devices: int) -> None:
    """Raises ValueError unless a model can be cut over so many devices."""
    for count, what in ((config.n_heads, "query heads"), (config.d_mlp, "columns of its MLP")):
        if count % n_devices:
            raise ValueError(
                f"{config.name} has {count} {what}, which cannot be cut evenly over {n_devices} "
                "devices; take a number that divides them."
            )


def _sharding(mesh: jax.sharding.Mesh, path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    spec = _SPECS.get(str(path[-2]), P()) if "model" in mesh.axis_names else P()
    if path[-1] == "bias":
        spec = P(*spec[:1])
    cut = [size for size, axis in zip(leaf.shape, spec, strict=False) if axis]
    if any(size % mesh.shape["model"] for size in cut):  # a vocabulary; `check_mesh` saw the rest
        spec = P()
    return NamedSharding(mesh, spec)


def _groups(ours: tuple[int, ...], theirs: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """Returns which of our consecutive axes each file axis holds, or None if they do not fit."""
    groups, axis = [], 0
    for size in theirs:
        start = axis
        while axis < len(ours) and (axis == start or math.prod(ours[start:axis]) < size):
            axis += 1
        if math.prod(ours[start:axis]) != size:
            return None
        groups.append(ours[start:axis])
    return groups if axis == len(ours) else None


def _read(tensors: OurTensors, name: str, leaf, sharding: NamedSharding) -> jax.Array:
    """Reads one parameter into its shards; only the first axis of a group may be cut."""
    groups = _groups(leaf.shape, tensors.shape(name))
    assert groups is not None  # _check has seen it

    def block(index: Any) -> np.ndarray:  # one slice per axis of ours
        cuts, shape, axis = [], [], 0
        for first, *inner in groups:
            start, stop, _ = index[axis].indices(first)
            step = math.prod(inner)
            cuts.append(slice(start * step, stop * step))
            shape += [stop - start, *inner]
            axis += 1 + len(inner)
        return tensors.read(name, tuple(cuts)).reshape(shape).astype(leaf.dtype)

    return jax.make_array_from_callback(leaf.shape, sharding, block)

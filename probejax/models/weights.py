"""Fills a Transformer from the tensors of a checkpoint, leaf by leaf and shard by shard.

The loop runs over our parameters, never over the file, so a missing tensor cannot go unseen. Each
leaf is read straight into its shards: nothing holds a second copy of the model.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from probejax import devices
from probejax.models.config import GemmaConfig
from probejax.models.transformer import Transformer

HEAD = "lm_head.weight"  # what a checkpoint may hold besides: in every Gemma, the embedding again
_EMBEDDING = "model.embed_tokens.weight"

# How each parameter is cut over the mesh axis "model": by heads, MLP width or vocabulary.
_SPECS = {
    "embed_tokens": P("model"),
    "q_proj": P("model"),
    "o_proj": P(None, "model"),
    "gate_proj": P("model"),
    "up_proj": P("model"),
    "down_proj": P(None, "model"),
}


@runtime_checkable
class Tensors(Protocol):
    """The tensors of a checkpoint under their Hugging Face names, read on demand."""

    def names(self) -> Iterable[str]:
        """Returns the name of every tensor."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        ...

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads one block of a tensor."""
        ...


def tensor_name(path: tuple[Any, ...]) -> str:
    """Returns the checkpoint's name for a parameter of ours.

    Ours repeat the checkpoint's; only its `model.` prefix and the `.weight` of its linear layers
    are not part of ours.
    """
    name = "model." + ".".join(map(str, path))
    return name if name.endswith(".weight") else name + ".weight"


def load(
    config: GemmaConfig,
    tensors: Tensors,
    *,
    n_layers: int | None = None,
    dtype: Any = jnp.float32,
    mesh: jax.sharding.Mesh | None = None,
) -> Transformer:
    """Builds a model and reads its weights.

    Args:
      config: the checkpoint's numbers.
      tensors: the checkpoint's tensors.
      n_layers: blocks to hold; the tensors of later blocks are not read. None holds all.
      dtype: dtype of every parameter and so of the residual stream.
      mesh: where to put the weights, cut along its axis "model"; None means the default device.

    Raises:
      ValueError: tensors that are missing, unknown or of another shape; all are listed.
    """
    if mesh is None:
        mesh = jax.sharding.Mesh(np.array(devices.own()[:1]), ("model",))
    _require_blocks(config, tensors)
    make = lambda n: lambda: Transformer(config, n, dtype)
    names = lambda state: {tensor_name(path): leaf for path, leaf in nnx.to_flat_state(state)}
    graphdef, abstract = nnx.split(nnx.eval_shape(make(n_layers)))
    wanted = names(abstract)
    full = wanted if n_layers is None else names(nnx.state(nnx.eval_shape(make(None))))
    _check(config.name, wanted, full, tensors)
    filled = [
        (path, leaf.replace(_read(tensors, tensor_name(path), leaf, _sharding(mesh, path))))
        for path, leaf in nnx.to_flat_state(abstract)
    ]
    transformer = nnx.merge(graphdef, nnx.from_flat_state(filled))
    transformer.tied = transformer.norm is None or _tied(tensors)
    return transformer


def _require_blocks(config: GemmaConfig, tensors: Tensors) -> None:
    """Raises before a model of very many blocks is laid out, if the checkpoint has not as many."""
    n_tensors = len(list(tensors.names()))
    if n_tensors < config.n_layers:
        raise ValueError(
            f"The checkpoint does not fit {config.name}: its {n_tensors} tensors cannot be "
            f"{config.n_layers} blocks."
        )


def _check(model: str, wanted: Mapping, full: Mapping, tensors: Tensors) -> None:
    """Raises unless the checkpoint holds exactly this model."""
    given = set(tensors.names())
    missing, unused = sorted(wanted.keys() - given), sorted(given - full.keys() - {HEAD})
    if missing or unused:
        raise ValueError(
            f"The checkpoint does not fit {model}: missing {_some(missing)}; "
            f"unused {_some(unused)}."
        )
    wrong = [
        f"{name} is {tensors.shape(name)}, expected {leaf.shape}"
        for name, leaf in wanted.items()
        if _groups(leaf.shape, tensors.shape(name)) is None
    ]
    if wrong:
        raise ValueError(f"The checkpoint does not fit {model}: {_some(wrong)}.")


def _tied(tensors: Tensors, samples: int = 64) -> bool:
    """Tells whether the output head is the embedding, by some rows if the checkpoint holds both."""
    if HEAD not in tensors.names():
        return True
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


def _sharding(mesh: jax.sharding.Mesh, path: tuple[Any, ...]) -> NamedSharding:
    spec = _SPECS.get(str(path[-1]), P()) if "model" in mesh.axis_names else P()
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


def _read(tensors: Tensors, name: str, leaf, sharding: NamedSharding) -> jax.Array:
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


class Renamed:
    """Tensors under other names: `rename` maps a file's name to ours, or None to leave it out."""

    def __init__(self, tensors: Tensors, rename: Callable[[str], str | None]):
        """Raises ValueError if two tensors get the same name."""
        self._tensors = tensors
        self._source = {}
        for name in tensors.names():
            if (ours := rename(name)) in self._source:
                raise ValueError(
                    f"The checkpoint holds {self._source[ours]} and {name}, which are both {ours}; "
                    "delete the one that does not belong to the model."
                )
            if ours is not None:
                self._source[ours] = name

    def names(self) -> Iterable[str]:
        """Returns our names."""
        return self._source

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of the tensor that we call `name`."""
        return self._tensors.shape(self._source[name])

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads a block of the tensor that we call `name`."""
        return self._tensors.read(self._source[name], cuts)

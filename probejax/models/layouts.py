"""Where the files of a family keep our parameters: other names, fused, transposed, reordered.

Our names are those of Gemma's checkpoints, whose blocks have every norm. A layout says how a
family's files depart from them, and `Named` reads such files as if they did not: by cuts, so that
no second copy of a model comes to be.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from probejax.models.config import ModelConfig

HEAD = "lm_head.weight"
_QKV = tuple(f"self_attn.{x}_proj" for x in "qkv")
_TURNED = _QKV[:2]


@runtime_checkable
class Tensors(Protocol):
    """The tensors of a checkpoint, read on demand."""

    def names(self) -> Iterable[str]:
        """Returns the name of every tensor."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        ...

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads one block of a tensor."""
        ...


@runtime_checkable
class OurTensors(Tensors, Protocol):
    """Tensors under our names."""

    def called(self, name: str) -> str:
        """Returns what messages call a tensor: as its file does, or would if it had it."""
        ...


class Layout(NamedTuple):
    """How the files of a family name and order its tensors.

    Attributes:
      prefixes: what stands before a name, the usual one first; names without any are read too.
      block: what stands before the number of a block.
      outside: the name of a module outside the blocks -> ours.
      inside: the same of a block's modules, after its number.
      fused: the name of the module that holds queries, keys and values, if one does, and
        whether its rows are three stacks or, head by head, three times a head's width.
      transposed: modules whose matrices are [in, out].
      paired: whether rotary pairs are neighbours in the rows of queries and keys (llama.cpp).
      whole_gain: whether a norm's weight is kept as `1 + weight` (llama.cpp's Gemma).
      ignored: names of tensors that are no weights of the text model, as a pattern.
    """

    prefixes: tuple[str, ...]
    block: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    fused: tuple[str, Literal["stacked", "by head"]] | None = None
    transposed: frozenset[str] = frozenset()
    paired: bool = False
    whole_gain: bool = False
    ignored: str = r"$^"


class _Place(NamedTuple):
    """Where a tensor of ours lies: in which of the file's, and as which part of a fused one."""

    source: str
    module: str = ""
    transposed: bool = False
    part: int | None = None


class Named:
    """The tensors of a model's files under our names, in our order."""

    def __init__(self, tensors: Tensors, layout: Layout, config: ModelConfig):
        """Raises ValueError if two tensors have the same place; unknown ones keep their names."""
        self._tensors, self._layout = tensors, layout
        self._d_head = config.d_head
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        self._rows = [n * config.d_head for n in heads]
        self._places: dict[str, _Place] = {}
        for name in tensors.names():
            if re.search(layout.ignored, name):
                continue
            for ours, place in self._find(name).items():
                if ours in self._places:
                    raise ValueError(
                        f"The checkpoint holds {self._places[ours].source} and {name}, which are "
                        f"both {ours}; delete the one that does not belong to the model."
                    )
                self._places[ours] = place

    def _find(self, name: str) -> dict[str, _Place]:
        """Returns where the parts of the file's tensor belong."""
        bare = name
        for prefix in sorted(self._layout.prefixes, key=len, reverse=True):
            if name.startswith(prefix):
                bare = name.removeprefix(prefix)
                break
        block = re.match(rf"{re.escape(self._layout.block)}(\d+)\.", bare)
        module, dot, kind = bare[block.end() if block else 0 :].rpartition(".")
        if not dot or kind not in ("weight", "bias"):
            return {name: _Place(name)}
        where = f"model.layers.{block[1]}." if block else "model."
        turned = module in self._layout.transposed
        if block and self._layout.fused and module == self._layout.fused[0]:
            return {
                f"{where}{ours}.{kind}": _Place(name, ours, turned, part)
                for part, ours in enumerate(_QKV)
            }
        ours = (self._layout.inside if block else self._layout.outside).get(module)
        if ours is None:
            return {name: _Place(name)}
        where = "" if ours == "lm_head" else where
        return {f"{where}{ours}.{kind}": _Place(name, ours, turned)}

    def names(self) -> Iterable[str]:
        """Returns our names."""
        return self._places

    def called(self, name: str) -> str:
        """Returns what the files call, or would call, the tensor that we call `name`."""
        if name in self._places:
            return self._places[name].source
        module, _, kind = name.removeprefix("model.").rpartition(".")
        block = re.match(r"layers\.(\d+)\.", module)
        module = module[block.end() :] if block else module
        modules = self._layout.inside if block else self._layout.outside
        found = next((theirs for theirs, ours in modules.items() if ours == module), module)
        if block and self._layout.fused and module in _QKV:
            found = self._layout.fused[0]
        if module == "lm_head":
            return f"{found}.{kind}"
        number = f"{self._layout.block}{block[1]}." if block else ""
        return f"{self._layout.prefixes[0]}{number}{found}.{kind}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of the tensor that we call `name`."""
        place = self._places[name]
        shape = self._tensors.shape(place.source)
        if not shape:
            return shape
        rows, *rest = shape[::-1] if place.transposed else shape
        if place.part is not None and rows == sum(self._rows):
            rows = self._rows[place.part]
        return rows, *rest

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads a block of the tensor that we call `name`; queries, keys, values by whole heads."""
        place = self._places[name]
        first, *rest = cuts
        start, stop, _ = first.indices(self.shape(name)[0])
        if place.part is None:
            found = self._block(place, start, stop, rest)
        elif self._layout.fused and self._layout.fused[1] == "stacked":
            offset = sum(self._rows[: place.part])
            found = self._block(place, offset + start, offset + stop, rest)
        else:
            found = self._block(place, 3 * start, 3 * stop, rest)
            found = found.reshape(-1, 3, self._d_head, *found.shape[1:])[:, place.part]
            found = found.reshape(stop - start, *found.shape[2:])
        if self._layout.paired and place.module in _TURNED:
            pairs = found.reshape(-1, self._d_head // 2, 2, *found.shape[1:])
            found = pairs.swapaxes(1, 2).reshape(found.shape)
        if self._layout.whole_gain and name.endswith("norm.weight"):
            found = found - 1.0
        return found

    def _block(self, place: _Place, start: int, stop: int, rest: list[slice]) -> np.ndarray:
        cuts = (slice(start, stop), *rest)
        if place.transposed:
            return self._tensors.read(place.source, cuts[::-1]).T
        return self._tensors.read(place.source, cuts)

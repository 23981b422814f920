"""Reads the safetensors files of a Hugging Face model folder."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from safetensors import safe_open

from probejax.foreign import (
    DamagedFile,
    decode_json,
    file_name,
    open_regular,
    parsing,
    read_json,
    require_regular,
)
from probejax.models.config import ModelConfig
from probejax.models.layouts import Layout, Named
from probejax.models.quantised import require_floats

_ADVICE = "download it again"
_MOST_HEADER = 1 << 27  # bytes; the format allows no more than 100 MB


class _Index(msgspec.Struct):
    """`model.safetensors.index.json`: tensor -> the file that holds it."""

    weight_map: dict[str, str]


class _Entry(msgspec.Struct):
    """A tensor in a header, as far as we read it; the metadata have no place."""

    data_offsets: tuple[int, int] = (0, 0)


class Safetensors:
    """All tensors of a folder, in one file or in those that its index names."""

    def __init__(self, folder: Path):
        """Opens the files.

        Raises:
          FileNotFoundError: no weights, or a file that the index names is absent.
          ValueError: a file that is damaged or cut short.
        """
        self.folder = folder
        self._files = {}
        for path in files(folder):
            require_regular(path)
            with parsing(path, _ADVICE):
                file = safe_open(path, framework="numpy")
                names = file.keys()
            if twice := sorted(self._files.keys() & set(names)):
                raise DamagedFile(
                    f"{path} holds {twice[0]}, which another file of the folder holds as well; "
                    "download the folder again."
                )
            self._files |= dict.fromkeys(names, file)

    def names(self) -> Iterable[str]:
        """Returns the name of every tensor."""
        return self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape from the header."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def type(self, name: str) -> str:
        """Returns a tensor's type from the header, such as `F32` or `BF16`."""
        return str(self._files[name].get_slice(name).get_dtype())

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads one block; the rest of the tensor stays on the disk."""
        return self._files[name].get_slice(name)[cuts]


def files(folder: Path) -> list[Path]:
    """Returns the weight files of a model folder.

    Raises:
      FileNotFoundError: the folder holds no weights, or not all that its index names.
      DamagedFile: the index is no index, or names a file outside the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise FileNotFoundError(
            f"{folder} holds neither model.safetensors nor model.safetensors.index.json; "
            "--model wants a Hugging Face model folder."
        )
    named = sorted(set(read_json(index, _Index, _ADVICE).weight_map.values()))
    away = [n for n in named if file_name(n) != n or not n.endswith(".safetensors")]
    if away:
        raise DamagedFile(f"{index} names {away[0]!r}, which is no file of its folder; {_ADVICE}.")
    if not named:
        raise DamagedFile(f"{index} names no file; {_ADVICE}.")
    found = [folder / name for name in named]
    absent = [path.name for path in found if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(absent)}, which its index names; download them again."
        )
    return found


def places(path: Path) -> list[tuple[int, int]]:
    """Returns where each tensor of a file begins and how many bytes it has, in order.

    Raises:
      DamagedFile: the header is none, or names what lies outside the file.
    """
    with parsing(path, _ADVICE), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_MOST_HEADER, size - 8):
            raise ValueError(f"its header has {length:,} bytes")
        header = decode_json(file.read(length), dict[str, _Entry])
    ends = sorted(each.data_offsets for name, each in header.items() if name != "__metadata__")
    if any(not 0 <= start <= end <= size - 8 - length for start, end in ends):
        raise DamagedFile(f"{path} names a tensor outside the file; {_ADVICE}.")
    return [(8 + length + start, end - start) for start, end in ends]


def text_model(tensors: Safetensors, layout: Layout, config: ModelConfig) -> Named:
    """Returns the text model's tensors under our names.

    Raises:
      ValueError: the weights are quantised, or two tensors have the same place.
    """
    found = Named(tensors, layout, config)
    types = {name: tensors.type(name) for name in map(found.called, found.names())}
    require_floats(types, tensors.folder)
    return found

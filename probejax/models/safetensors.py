"""Reads the safetensors files of a Hugging Face model folder."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from safetensors import safe_open

from probejax.foreign import DamagedFile, file_name, parsing, read_json, require_regular
from probejax.models.config import ModelConfig
from probejax.models.layouts import Layout, Named
from probejax.models.quantised import require_floats

_ADVICE = "download it again"


class _Index(msgspec.Struct):
    """`model.safetensors.index.json`: tensor -> the file that holds it."""

    weight_map: dict[str, str]


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


def text_model(tensors: Safetensors, layout: Layout, config: ModelConfig) -> Named:
    """Returns the text model's tensors under our names.

    Raises:
      ValueError: the weights are quantised, or two tensors have the same place.
    """
    found = Named(tensors, layout, config)
    types = {name: tensors.type(name) for name in map(found.called, found.names())}
    require_floats(types, tensors.folder)
    return found

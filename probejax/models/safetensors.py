"""Reads the safetensors files of a Hugging Face model folder."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from probejax.models.weights import Renamed

_TEXT_MODEL = re.compile(r"^(?:language_model\.model|model\.language_model|language_model)\.")
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_")


class Safetensors:
    """All tensors of a folder, in one file or in those that its index names."""

    def __init__(self, folder: Path):
        """Opens the files.

        Raises:
          FileNotFoundError: no weights, or a file that the index names is absent.
          ValueError: a file that is damaged or cut short.
        """
        self._files = {}
        for path in files(folder):
            try:
                file = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path} is damaged or cut short ({error}); download it again."
                ) from error
            self._files |= {name: file for name in file.keys()}

    def names(self) -> Iterable[str]:
        """Returns the name of every tensor."""
        return self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape from the header."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Reads one block; the rest of the tensor stays on the disk."""
        return self._files[name].get_slice(name)[cuts]


def files(folder: Path) -> list[Path]:
    """Returns the weight files of a model folder.

    Raises:
      FileNotFoundError: the folder holds no weights, or not all that its index names.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise FileNotFoundError(
            f"{folder} holds neither model.safetensors nor model.safetensors.index.json; "
            "--model wants a Hugging Face model folder."
        )
    found = [
        folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))
    ]
    absent = [path.name for path in found if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(absent)}, which its index names; download them again."
        )
    return found


def text_model(tensors: Safetensors) -> Renamed:
    """Returns the text model's tensors under `model.`, whatever a vision checkpoint calls them.

    The output head is left out where it is stored: in every Gemma it equals the embedding.
    """

    def rename(name: str) -> str | None:
        if name.startswith(_NOT_TEXT) or name.endswith("lm_head.weight"):
            return None
        return _TEXT_MODEL.sub("model.", name)

    return Renamed(tensors, rename)

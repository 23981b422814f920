"""Reads GGUF files: the header, and quantised tensors."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from probejax.foreign import DamagedFile
from probejax.models.gguf_header import TensorInfo, parts, read_header

_NOT_TEXT = ("v.", "mm.")  # a vision tower and its projection


class Gguf:
    """A GGUF file, or the parts of one; each tensor is mapped and dequantised when it is read."""

    def __init__(self, path: Path):
        """Reads the headers.

        Raises:
          FileNotFoundError: there is no such file, or a part is missing.
          ValueError: a file that is no GGUF file, damaged or cut short; parts that do not belong
            together; weights of a type that has no values.
        """
        self._path = path
        self._tensors: dict[str, tuple[Path, TensorInfo]] = {}
        files = parts(path)
        for number, part in enumerate(files):
            header = read_header(part)
            _require_part(part, number, len(files), header.fields)
            if number == 0:
                self.fields = header.fields
            for name, info in header.tensors.items():
                if not name.startswith(_NOT_TEXT):
                    self._add(part, name, info)

    def _add(self, path: Path, name: str, info: TensorInfo) -> None:
        if name in self._tensors:
            raise DamagedFile(
                f"{path} holds {name}, which it or another part holds as well; download it again."
            )
        if not _has_values(info.kind):
            raise ValueError(
                f"{path} stores {name} as {info.kind.name}, which probejax cannot turn into "
                "values; use a file of another quantisation, such as Q8_0."
            )
        self._tensors[name] = (path, info)

    def names(self) -> Iterable[str]:
        """Returns the name of every tensor of the text model."""
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, in row-major order as Hugging Face stores it."""
        return self._tensors[name][1].shape

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Dequantises the rows asked for, then cuts the other axes."""
        path, tensor = self._tensors[name]
        rows = tensor.shape[0]
        data = np.memmap(path, np.uint8, "r", tensor.offset, (rows, tensor.n_bytes // rows))
        values = gguf.quants.dequantize(data[cuts[0]], tensor.kind)
        return values.reshape(-1, *tensor.shape[1:])[(slice(None), *cuts[1:])]


@functools.cache
def _has_values(kind: gguf.GGMLQuantizationType) -> bool:
    """Tells whether the `gguf` package can turn this type into values."""
    block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        gguf.quants.dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


def _require_part(path: Path, number: int, count: int, fields: dict[str, Any]) -> None:
    """Raises ValueError unless a file says of itself what its name says of it."""
    said = fields.get("split.no", 0), fields.get("split.count", 1)
    if said != (number, count):
        raise ValueError(
            f"{path} says split.no={said[0]!r} and split.count={said[1]!r} where its name means "
            f"{number} and {count}; keep the names that llama.cpp gives to parts, such as "
            "x-00001-of-00002.gguf, and all of them in one folder."
        )

"""Reads what `torch.save` wrote, without PyTorch and without running anything.

The file is an uncompressed zip: `<root>/data.pkl` is a pickle whose tensors point to the members
`<root>/data/<key>`. The pickle may name only what a dictionary of tensors needs; anything else is
refused. Tensors come back as places in the file, so that nothing is read before it is wanted.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from probejax.saes.formats.npz import data_offset
from probejax.saes.stored import FileArray

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}
_REFUSAL = "it is a pickle that wants {}, which is refused: expected tensors in dictionaries only"


def read(path: Path) -> Any:
    """Returns the saved object with a `FileArray` for every tensor; it is a dictionary mostly.

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, no zip of PyTorch's, or a pickle that wants something else than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no SAE file {path}.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            (pickled,) = [name for name in members if name.endswith("/data.pkl")]
            root = pickled.removesuffix("data.pkl")
            offsets = {
                name.removeprefix(f"{root}data/"): (data_offset(file, info), info.file_size)
                for name, info in members.items()
                if name.startswith(f"{root}data/") and info.compress_type == zipfile.ZIP_STORED
            }
            with archive.open(pickled) as stream:
                return _Tensors(stream, path, offsets).load()
    except Exception as error:  # a damaged pickle can raise anything, but it runs nothing
        raise ValueError(
            f"{path} cannot be read ({error}; {path.stat().st_size:,} bytes); expected what "
            "torch.save writes since PyTorch 1.6."
        ) from error


class _Tensors(pickle.Unpickler):
    """Builds tensors and dictionaries, and nothing else."""

    def __init__(self, stream, path: Path, offsets: dict[str, tuple[int, int]]):
        super().__init__(stream)
        self._path, self._offsets = path, offsets

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(_REFUSAL.format(f"{module}.{name}"))
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[np.dtype, int, int]:
        _, storage, key, *_ = pid
        return np.dtype(_STORAGES[storage]), *self._offsets[key]

    def _tensor(self, storage, first: int, shape: tuple, strides: tuple, *_) -> FileArray:
        dtype, offset, size = storage
        if min((first, *shape, *strides), default=0) < 0:
            raise ValueError("a tensor with a negative extent")
        last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and (last + 1) * dtype.itemsize > size:
            raise ValueError(f"a tensor of shape {shape} ends past the end of its storage")
        steps = tuple(step * dtype.itemsize for step in strides)
        return FileArray(self._path, offset + first * dtype.itemsize, dtype, shape, steps)

"""Reads what `torch.save` wrote, without PyTorch and without running anything.

The file is an uncompressed zip: `<root>/data.pkl` is a pickle whose tensors point to the members
`<root>/data/<key>`. Tensors come back as places in the file, so that nothing is read before it is
wanted.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from probejax import foreign
from probejax.saes.formats import torch_pickle, zip_file
from probejax.saes.stored import FileArray

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}


def read(path: Path) -> dict[Any, Any]:
    """Returns the saved dictionary with a `FileArray` for every tensor.

    Raises:
      OSError: as `open` does.
      DamagedFile: damaged, no zip of PyTorch's, or a pickle that wants something else than tensors.
    """
    advice = "download it again, or save it with torch.save of PyTorch 1.6 or later"
    with foreign.parsing(path, advice), zip_file.opened(path) as (file, members):
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it does not hold one data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if (order := members.get(f"{root}byteorder")) is not None:
            offset, length = zip_file.place(file, order)
            file.seek(offset)
            if file.read(length) != b"little":
                raise ValueError("its numbers are not in little-endian order")

        def build(
            storage: torch_pickle.Storage, first: int, shape: tuple[int, ...], strides: tuple
        ) -> FileArray:
            if storage.kind not in _STORAGES:
                raise torch_pickle.Refused(f"torch.{storage.kind}")
            place = zip_file.place(file, members[f"{root}data/{storage.key}"])
            return _tensor(path, np.dtype(_STORAGES[storage.kind]), *place, first, shape, strides)

        offset, length = zip_file.place(file, members[pickles[0]])
        file.seek(offset)
        try:
            found = torch_pickle.load(file.read(length), build)
        except torch_pickle.Refused as error:
            raise foreign.DamagedFile(
                f"{path} is a pickle that wants {error}, which is refused; expected tensors in "
                "dictionaries only, as torch.save(sae.state_dict(), ...) writes them."
            ) from None
    if not isinstance(found, dict):
        raise foreign.DamagedFile(
            f"{path} holds a {type(found).__name__}; expected a dictionary, as "
            "torch.save(sae.state_dict(), ...) writes it."
        )
    return found


def _tensor(
    path: Path,
    dtype: np.dtype,
    offset: int,
    length: int,
    first: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> FileArray:
    """Returns the place of a tensor in a storage of so many bytes."""
    if min((first, *shape, *strides), default=0) < 0:
        raise ValueError("a tensor with a negative extent")
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * dtype.itemsize > length:
        raise ValueError(f"a tensor of shape {shape} ends past the end of its storage")
    steps = tuple(step * dtype.itemsize for step in strides)
    return FileArray(path, offset + first * dtype.itemsize, dtype, shape, steps)

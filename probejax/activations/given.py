"""Activations that were made elsewhere: one vector per row, and its label, from files."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from probejax import foreign, inputs
from probejax.foreign import DamagedFile
from probejax.tasks.classes import Cell
from probejax.tasks.columns import At, label_of

_ENDINGS = (".npy", ".npz", ".safetensors")
_ADVICE = "write it again"
_MOST_UNPACKED = 1 << 37  # bytes of an npz
_CHUNK = 1 << 16  # rows that are looked at together


class Given(NamedTuple):
    """Vectors and labels.

    Attributes:
        name: what they are called in results: the name of the file without its ending.
        x: [N, d], any float; where it is large it stays on the disk.
        labels: N labels as they stand in the file.
        fingerprint: hash that changes when any of them does.
        state: of their files before they were read, see `state`.
    """

    name: str
    x: Float[np.ndarray, "N d"]
    labels: tuple[Cell, ...]
    fingerprint: str
    state: tuple[tuple[int, ...], ...]


def read(activations: str | Path, labels: str | Path | None = None) -> Given:
    """Reads vectors and their labels.

    Args:
        activations: x as `.npy`, with `labels` beside it; or `.npz` or `.safetensors` with `x`, and
            with `y` unless `labels` are given.
        labels: y as `.npy`.

    Raises:
        OSError: as `open` does.
        ValueError: the name does not say of what kind a file is.
        DamagedFile: a file is not what its name says, lacks an array, or holds one of another
            shape or type; NaN or infinity; or a label that is missing. Nothing is ever unpickled.
    """
    path, before = Path(activations), state(activations, labels)
    x = _array(path, "x", "--activations")
    if labels is None and path.suffix == ".npy":
        raise ValueError(
            f"--activations={path} has no labels in it: give --labels=y.npy, or one .npz or "
            ".safetensors file with x and y."
        )
    source = path if labels is None else Path(labels)
    y = _array(source, "y", "--labels")
    _check(x, path)
    return Given(path.stem, x, _labels(y, source, len(x)), _fingerprint(x, y), before)


def state(activations: str | Path, labels: str | Path | None = None) -> tuple[tuple[int, ...], ...]:
    """Returns what changes when one of the files is written anew, see `foreign.state`."""
    return tuple(foreign.state(Path(path)) for path in (activations, labels) if path is not None)


def _array(path: Path, name: str, flag: str) -> np.ndarray:
    """Returns one array of a file."""
    if path.suffix not in _ENDINGS:
        raise ValueError(f"{flag}={path}: its name must end in one of {', '.join(_ENDINGS)}.")
    foreign.require_regular(path)
    with foreign.parsing(path, _ADVICE), _without_objects(path, name):
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            # Of a damaged file NumPy would leave open what it has opened itself.
            with foreign.open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
                size = sum(each.file_size for each in arrays.zip.infolist())
                if size > _MOST_UNPACKED:
                    raise ValueError(f"it unpacks to {size:,} bytes")
                _require(name, list(arrays), path)
                return arrays[name]
        with safe_open(path, framework="numpy") as arrays:
            _require(name, list(arrays.keys()), path)
            return arrays.get_tensor(name)


@contextlib.contextmanager
def _without_objects(path: Path, name: str) -> Iterator[None]:
    """Says of an array of Python objects, as pandas gives for text, what to write in its place."""
    try:
        yield
    except ValueError as error:
        if "Python objects in dtype" not in str(error) and "Object arrays" not in str(error):
            raise
        kind = "np.float32" if name == "x" else "str"
        raise DamagedFile(
            f"{path} holds Python objects, which are never unpickled; save {name}.astype({kind}) "
            "in their place."
        ) from None


def _require(name: str, there: list[str], path: Path) -> None:
    if name not in there:
        raise DamagedFile(f"{path} has no array {name!r}, only {', '.join(map(repr, there))}.")


def _check(x: np.ndarray, path: Path) -> None:
    floats = x.dtype.kind == "f" or x.dtype == ml_dtypes.bfloat16
    if x.ndim != 2 or 0 in x.shape or not floats:
        raise DamagedFile(
            f"{path} holds {x.dtype} {list(x.shape)}; expected floats [N, d], one vector per row."
        )
    for start in range(0, len(x), _CHUNK):
        with np.errstate(over="ignore"):
            part = np.asarray(x[start : start + _CHUNK]).astype(np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            row = start + int(np.flatnonzero(~finite)[0])
            raise DamagedFile(
                f"{path} holds NaN, infinity or what float32 cannot hold in row {row} (from 0); "
                "every number must be finite."
            )

    if x.dtype.itemsize > 4:
        try:
            inputs.require_kept(x, f"vectors in {path}")
        except ValueError as error:
            raise DamagedFile(str(error)) from None


def _labels(y: np.ndarray, path: Path, n: int) -> tuple[Cell, ...]:
    if y.shape != (n,) or y.dtype.kind not in "biufU":
        raise DamagedFile(
            f"{path} holds {y.dtype} {list(y.shape)} as labels; expected [{n}], one label for each "
            "row of x: numbers, booleans or text."
        )
    cells = y.tolist()
    return tuple(label_of(cell, At(path, "row", i), "y", cells[0]) for i, cell in enumerate(cells))


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape};".encode())
        for start in range(0, len(array), _CHUNK):
            digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).view(np.uint8).data)
    return digest.hexdigest()[:16]

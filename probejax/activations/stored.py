"""One list of prompts at one site, as it lies on the disk, and the checks before it is believed.

<folder>/x.npy          [distinct rows, d_model], in the model's dtype (bfloat16 as uint16)
        /rows.npz       prompt -> its rows in x, and its hash
        /manifest.json  what they are, written last: without it the rest does not count
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import ml_dtypes
import msgspec
import numpy as np

from probejax import foreign, storage
from probejax.activations import npz
from probejax.foreign import DamagedFile
from probejax.sites import Site

FORMAT = 2  # raise it when the meaning of the stored numbers changes

_MOST_ROWS = 1 << 30  # bytes of rows.npz, some 50 a prompt
_CHUNK = 1 << 26  # bytes of x that are looked at together
_ADVICE = "delete that folder and run again"
_seen: set[tuple[str, int, int, int]] = set()  # files of which all numbers are known to be finite


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored: the fields of a `Recipe`, and by what the rest is checked."""

    format: int
    site: str | None = None
    layer: int | None = None  # of residuals from before there were other sites; -1: the embedding
    prompts: int
    shape: tuple[int, int]
    rows: str  # SHA-256 of rows.npz
    model: str
    fingerprint: str
    dtype: Literal["float32", "bfloat16"]
    max_length: int
    positions: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    bos: Literal["prepended", "none"] = "prepended"
    chat: str = ""

    def holds(self, site: Site, recipe: Mapping[str, Any]) -> bool:
        """Tells whether these are activations of this site, made by this recipe."""
        fields = msgspec.structs.asdict(self)
        here = self.site == str(site) or (site.is_residual and self.layer == site.blocks - 1)
        return here and {"format": FORMAT, **recipe}.items() <= fields.items()


def complete(folder: Path) -> bool:
    """Tells whether activations are in a folder; `read` tells whether they are whole."""
    return (folder / "manifest.json").exists()


def write(
    folder: Path,
    chunks: Iterable[np.ndarray],
    rows: int,
    arrays: dict[str, np.ndarray],
    site: Site,
    recipe: Mapping[str, Any],
) -> None:
    """Writes a list of prompts; it counts when its manifest is there.

    Args:
      folder: where to.
      chunks: the rows, piece by piece, as `storable` returns them.
      rows: how many there are in all.
      arrays: `starts`, `counts` and `digests`, a line per prompt.
      site: where the model was read.
      recipe: the fields of a `Recipe`.

    Raises:
      StorageError: the cache cannot be written.
    """
    shape = _write_rows(folder / "x.npy", chunks, rows)
    content = npz.to_bytes(arrays)
    storage.write_atomic(folder / "rows.npz", content, "--cache_dir")
    manifest = Manifest(
        format=FORMAT,
        site=str(site),
        prompts=len(arrays["starts"]),
        shape=shape,
        rows=hashlib.sha256(content).hexdigest(),
        **recipe,
    )
    text = json.dumps(msgspec.to_builtins(manifest), indent=1)
    storage.write_atomic(folder / "manifest.json", text, "--cache_dir")


def _write_rows(path: Path, chunks: Iterable[np.ndarray], rows: int) -> tuple[int, int]:
    """Streams pieces into one npy file that appears whole; returns its shape."""
    shape = (rows, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.writing(path) as file:
            for chunk in chunks:
                if not shape[1]:
                    shape = (rows, int(chunk.shape[1]))
                    header = {"descr": chunk.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(chunk).data)
    except DamagedFile:
        raise
    except OSError as error:
        raise storage.StorageError(
            f"Cannot write {path}: {error.strerror}. Free some space or choose another "
            "--cache_dir; the finished batches are kept, and the same command resumes."
        ) from error
    return shape


def storable(rows: np.ndarray) -> np.ndarray:
    """Returns the rows in a dtype that the npy format knows; bfloat16 travels as uint16."""
    return rows.view(np.uint16) if rows.dtype == ml_dtypes.bfloat16 else rows


def read_manifest(folder: Path) -> Manifest:
    """Returns what a folder says it holds.

    Raises:
      OSError: there is no manifest.
      DamagedFile: it is none.
    """
    return foreign.read_json(folder / "manifest.json", Manifest, _ADVICE, most=1 << 20)


def read(folder: Path, manifest: Manifest, *names: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Opens a list of prompts after checking shape, dtype, counts and, once, every number.

    Args:
      folder: where it lies.
      manifest: of that folder.
      names: arrays of rows.npz.

    Returns:
      x [rows, d_model], memory-mapped, and the arrays.

    Raises:
      OSError: a file is missing.
      DamagedFile: a file is not what the manifest says, or x holds NaN or infinity.
    """
    with foreign.parsing(folder, _ADVICE):
        content = foreign.read_bytes(folder / "rows.npz", _MOST_ROWS)
        if hashlib.sha256(content).hexdigest() != manifest.rows:
            raise ValueError("rows.npz is another file than the manifest says")
        starts, counts, *arrays = npz.parse(io.BytesIO(content), "starts", "counts", *names)
        path = folder / "x.npy"
        foreign.require_regular(path)
        x = np.load(path, mmap_mode="r", allow_pickle=False)
        dtype = np.uint16 if manifest.dtype == "bfloat16" else np.float32
        if (x.shape, x.dtype) != (manifest.shape, dtype):
            raise ValueError(
                f"x.npy is {x.dtype} {x.shape}, the manifest says {np.dtype(dtype)} "
                f"{manifest.shape}"
            )
        if len(starts) != manifest.prompts or len(counts) != manifest.prompts:
            raise ValueError(f"rows.npz has {len(starts)} prompts, not {manifest.prompts}")
        if len(starts) and (min(starts) < 0 or min(counts) < 1 or max(starts + counts) > len(x)):
            raise ValueError("rows.npz names rows that x.npy does not have")
        x = x.view(ml_dtypes.bfloat16) if manifest.dtype == "bfloat16" else x
        _check_finite(path, x)
    return x, [starts, counts, *arrays]


def _check_finite(path: Path, x: np.ndarray) -> None:
    """Raises ValueError if a number is NaN or infinite; looks once at each state of a file."""
    about = path.stat()
    state = (str(path), about.st_ino, about.st_size, about.st_mtime_ns)
    if state in _seen:
        return
    step = max(1, _CHUNK // max(1, x.shape[1] * x.itemsize))
    for start in range(0, len(x), step):
        if not np.isfinite(x[start : start + step].astype(np.float32)).all():
            raise ValueError("x.npy holds NaN or infinity")
    _seen.add(state)

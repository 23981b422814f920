"""Gemma Scope's `params.npz`: reading it memory-mapped, and writing it.

Layout (arXiv 2408.05147 and the repositories `google/gemma-scope-*`): an uncompressed zip of five
`.npy` members, named as the arrays of `SAE`. Because the members are stored, not deflated, they can
be mapped in place: opening an SAE of any width costs no memory.
"""

import io
import tokenize
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from probejax.saes.sae import SAE

_MEMBERS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_DAMAGE = (  # what zipfile and numpy raise on damaged headers
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    EOFError,
    OSError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
)


def load(path: str | Path) -> SAE:
    """Reads an SAE; its arrays become float32 on the default device.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is cut short, damaged, or not an SAE in this layout.
    """
    arrays = memory_map(path)
    return SAE(**{name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()})


def memory_map(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the five arrays as read-only maps of the file, in the file's dtype.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is cut short, damaged, or not an SAE in this layout.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no SAE file {path}; --sae wants a Gemma Scope params.npz."
        )
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                found = {
                    name: _map(path, file, info)
                    for info in archive.infolist()
                    if (name := _canonical(info.filename)) in _MEMBERS
                }
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is damaged or cut short ({error}; {path.stat().st_size:,} bytes); "
                "download it again."
            ) from error
    _check(path, found)
    return {name: found[name] for name in _MEMBERS}


def _canonical(member: str) -> str:
    """Returns `W_enc` for `W_enc.npy` and for the lower-case `w_enc.npy` of some releases."""
    name = member.removesuffix(".npy")
    return "W" + name[1:] if name in ("w_enc", "w_dec") else name


def _map(path: Path, file, info: zipfile.ZipInfo) -> np.ndarray:
    """Maps one stored member in place."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, so it cannot be memory-mapped")
    file.seek(info.header_offset)
    header = file.read(30)  # local file header: the lengths of name and extra field end it
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    file.seek(info.header_offset + 30 + name + extra)
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are never unpickled")
    if dtype.kind != "f":
        raise ValueError(f"{info.filename} is of dtype {dtype}; expected floating-point numbers")
    if file.tell() + dtype.itemsize * int(np.prod(shape)) > path.stat().st_size:
        raise ValueError(f"{info.filename} of shape {shape} ends past the end of the file")
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order=order)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    missing = [name for name in _MEMBERS if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; a Gemma Scope params.npz holds "
            f"{', '.join(_MEMBERS)}."
        )
    shape = arrays["W_enc"].shape
    if len(shape) != 2:
        raise ValueError(f"{path} is not an SAE: W_enc is {shape}, expected (d_model, d_sae).")
    d_model, d_sae = shape
    expected = {
        "W_enc": (d_model, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_model),
        "b_dec": (d_model,),
        "threshold": (d_sae,),
    }
    wrong = [
        f"{n} is {arrays[n].shape}, expected {s}"
        for n, s in expected.items()
        if arrays[n].shape != s
    ]
    if wrong:
        raise ValueError(f"{path} is not an SAE: {'; '.join(wrong)}.")


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the content of a `params.npz` with these arrays, in the dtypes they have."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(arrays[name]) for name in _MEMBERS})
    return buffer.getvalue()

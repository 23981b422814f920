"""An SAE left in its file: blocks of latents are read when they are wanted.

Nothing stays mapped between two blocks, so memory is that of one block, whatever the width.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float

from probejax.saes.sae import SAE, Encoder, Normalise, in_words, there
from probejax.saes.winners import ALL, Keep

_FLOATS = tuple(map(np.dtype, (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)))
_MOST_AXES = 8
_BLOCK = 1 << 26  # bytes of float32 that are read at a time where a whole matrix is looked at


@dataclasses.dataclass(frozen=True)
class FileArray:
    """An array inside a file; an index reads that part as float32.

    Attributes:
      path: the file.
      offset: where its first byte is.
      dtype: as stored.
      shape: as seen; with `strides` (in bytes), which allow a transposed or sliced view.
    """

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        """Raises ValueError where the array does not lie inside the file."""
        if min((*self.shape, *self.strides, self.offset)) < 0 or len(self.shape) > _MOST_AXES:
            raise ValueError(f"its header is impossible (shape {self.shape})")
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        end = self.offset + last + self.dtype.itemsize if 0 not in self.shape else self.offset
        size = self.path.stat().st_size
        if end > size or max(self.shape, default=0) > size:
            raise ValueError(
                f"an array of shape {self.shape} ends past the end of the file ({size:,} bytes)"
            )
        if math.prod(self.shape) > size:  # strides of zero repeat what is there
            raise ValueError(f"an array of shape {self.shape} in a file of {size:,} bytes")

    @classmethod
    def contiguous(
        cls, path: Path, offset: int, dtype: Any, shape: tuple[int, ...], fortran: bool = False
    ) -> "FileArray":
        """Describes an array whose elements stand one after the other."""
        dtype = np.dtype(dtype)
        order = shape if fortran else shape[::-1]
        steps = [dtype.itemsize]
        for size in order[:-1]:
            steps.append(steps[-1] * size)
        strides = tuple(steps if fortran else steps[::-1])[: len(shape)]
        return cls(path, offset, dtype, tuple(shape), strides)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, each counted once for every place where it is seen."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def T(self) -> "FileArray":
        """The array with its axes in reverse order."""
        return dataclasses.replace(self, shape=self.shape[::-1], strides=self.strides[::-1])

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads a part into memory."""
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)[index]
        mapped = np.memmap(self.path, np.uint8, "r", self.offset)
        view = np.ndarray(self.shape, self.dtype, mapped, 0, self.strides)
        with np.errstate(all="ignore"):  # what is too large becomes infinite, see require_finite
            return np.array(view[index], np.float32)

    def columns(self, start: int, stop: int | None) -> np.ndarray:
        """Reads neighbouring columns of a matrix.

        Where they are pieces of long rows these are read one by one: a map would bring 64 KiB or
        more of each row into memory for every piece.
        """
        start, stop, _ = slice(start, stop).indices(self.shape[1])
        size = self.dtype.itemsize
        if self.strides[1] != size or self.strides[0] != size * self.shape[1]:
            return self[:, start:stop]
        pieces = np.empty((self.shape[0], size * (stop - start)), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for row, piece in enumerate(pieces):
                file.seek(self.offset + self.strides[0] * row + size * start)
                if file.readinto(piece.data) != len(piece):
                    raise ValueError(f"{self.path} has become shorter while it was read.")
        with np.errstate(all="ignore"):
            return pieces.view(self.dtype).astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True, repr=False)
class StoredSAE:
    """An SAE whose matrices are in a file; fields as in `SAE`, those of one axis in memory.

    Attributes:
      encoder_gain: [d_sae], factors of the columns of the stored `W_enc`; None for ones.
      decoder_gain: [d_sae], factors of the rows of the stored `W_dec`; None for ones.
    """

    W_enc: FileArray
    b_enc: np.ndarray
    W_dec: FileArray | None
    b_dec: np.ndarray
    threshold: np.ndarray
    center: np.ndarray | None = None
    weight: np.ndarray | None = None
    encoder_gain: np.ndarray | None = None
    decoder_gain: np.ndarray | None = None
    keep: Keep = ALL
    normalise: Normalise = "none"

    def __repr__(self) -> str:
        """Says on one line what it is."""
        return in_words(self, self.W_enc.path)

    @property
    def d_model(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    def encoder(self, start: int = 0, stop: int | None = None) -> Encoder:
        """Reads what computes the latents start..stop-1."""
        return self._encoder(self.W_enc.columns(start, stop), slice(start, stop))

    def columns(self, latents) -> Encoder:
        """Reads what computes some latents, in the order of their indices given."""
        latents, step = np.asarray(latents), block_of(self.d_model)
        W_enc = np.empty((self.d_model, len(latents)), np.float32)
        for start in range(0, self.d_sae, step):  # neighbours share pages of the file
            inside = np.flatnonzero((latents >= start) & (latents < start + step))
            if len(inside):
                here = self.W_enc.columns(start, start + step)
                W_enc[:, inside] = here[:, latents[inside] - start]
        return self._encoder(W_enc, latents)

    def _encoder(self, W_enc: np.ndarray, index: Any) -> Encoder:
        if self.encoder_gain is not None:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                W_enc *= self.encoder_gain[index]
        require_finite(self.W_enc.path, "W_enc", W_enc)
        weight = None if self.weight is None else jax.device_put(self.weight[index])
        b_enc, threshold = jax.device_put(self.b_enc[index]), jnp.asarray(self.threshold[index])
        return Encoder(jax.device_put(W_enc), b_enc, threshold, weight)

    def decoder(self, start: int, stop: int) -> Float[Array, "b d_model"]:
        """Reads the decoder rows of the latents start..stop-1."""
        rows = there(self.W_dec)[start:stop]
        if self.decoder_gain is not None:
            with np.errstate(all="ignore"):
                rows *= self.decoder_gain[start:stop, None]
        require_finite(self.W_enc.path, "W_dec", rows)
        return jax.device_put(rows)

    def load(self) -> SAE:
        """Reads everything."""
        encoder = self.encoder()
        return SAE(
            W_enc=encoder.W_enc,
            b_enc=encoder.b_enc,
            W_dec=None if self.W_dec is None else self.decoder(0, self.d_sae),
            b_dec=jax.device_put(self.b_dec),
            threshold=encoder.threshold,
            center=None if self.center is None else jax.device_put(self.center),
            weight=encoder.weight,
            keep=self.keep,
            normalise=self.normalise,
        )

    @classmethod
    def build(
        cls,
        path: Path,
        W_enc: FileArray,
        b_enc: np.ndarray,
        W_dec: FileArray | None,
        b_dec: np.ndarray,
        threshold: np.ndarray | None = None,
        *,
        keep: Keep = ALL,
        normalise: Normalise = "none",
        **optional: np.ndarray | None,
    ) -> "StoredSAE":
        """Returns a checked SAE, its vectors in float32; without a threshold, a ReLU.

        Args:
          path: the file, for messages.
          W_enc: as the field of that name, like those that follow.
          b_enc: likewise.
          W_dec: likewise.
          b_dec: likewise.
          threshold: likewise.
          keep: likewise.
          normalise: likewise.
          **optional: `center`, `weight`, `encoder_gain`, `decoder_gain`.

        Raises:
          ValueError: the file does not hold an SAE; all that is wrong is named.
        """
        single = lambda vector: np.asarray(vector, np.float32)
        sae = cls(
            W_enc,
            single(b_enc),
            W_dec,
            single(b_dec),
            single(np.zeros_like(b_enc) if threshold is None else threshold),
            keep=keep,
            normalise=normalise,
            **{k: v if v is None else single(v) for k, v in optional.items()},
        )
        sae._check(path)
        return sae

    def _check(self, path: Path) -> None:
        sizes(path, self.W_enc)
        for name in ("b_enc", "b_dec", "center", "weight", "encoder_gain"):
            if (vector := getattr(self, name)) is not None:
                require_finite(path, name, vector)
        never = np.isposinf(self.threshold)  # of a latent whose decoder row is zero
        require_finite(path, "threshold", np.where(never, 0, self.threshold))
        d_model, d_sae = self.W_enc.shape
        expected = {"b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        expected |= {"threshold": (d_sae,), "center": (d_model,), "weight": (d_sae,)}
        wrong = [
            f"{name} is {found.shape}, expected {shape}"
            for name, shape in expected.items()
            if (found := getattr(self, name)) is not None and found.shape != shape
        ]
        if wrong:
            raise ValueError(f"{path} is not an SAE: {'; '.join(wrong)}.")
        if self.keep.kind != "all" and not 0 < self.keep.k <= d_sae:
            raise ValueError(
                f"{path} keeps k={self.keep.k} latents per row, but holds {d_sae}; k must be "
                "between 1 and that."
            )
        if self.keep.kind == "group" and d_sae % self.keep.k:
            raise ValueError(
                f"{path} has {d_sae} latents, which k={self.keep.k} groups cannot share."
            )


def sizes(path: Path, W_enc: FileArray, W_dec: FileArray | None = None) -> tuple[int, int]:
    """Returns d_model and d_sae.

    Raises:
      ValueError: these are no matrices of numbers, or not of one SAE.
    """
    for name, matrix in (("W_enc", W_enc), ("W_dec", W_dec)):
        if matrix is not None and matrix.dtype.newbyteorder("=") not in _FLOATS:
            raise ValueError(
                f"{path} is not an SAE: {name} is of dtype {matrix.dtype}, expected floating-point "
                "numbers."
            )
    if len(W_enc.shape) != 2 or 0 in W_enc.shape:
        raise ValueError(
            f"{path} is not an SAE: W_enc is {W_enc.shape}, expected (d_model, d_sae)."
        )
    if W_dec is not None and W_dec.shape != W_enc.shape[::-1]:
        raise ValueError(
            f"{path} is not an SAE: W_dec is {W_dec.shape}, expected {W_enc.shape[::-1]}."
        )
    return W_enc.shape[0], W_enc.shape[1]


def require_finite(path: Path, name: str, values: np.ndarray) -> None:
    """Checks numbers of an SAE.

    Raises:
      ValueError: some are not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"{path} holds NaN or infinite numbers in {name}; download it again, or choose an "
            "earlier checkpoint if its training diverged."
        )


def block_of(d_model: int) -> int:
    """Returns how many latents to read at a time: those of 64 MiB, at least 128."""
    return max(_BLOCK // (4 * d_model), 128)


def row_norms(matrix: FileArray) -> np.ndarray:
    """Returns the Euclidean norm of every row, read in blocks; float64."""
    step = block_of(matrix.shape[1])
    squares = [
        np.einsum("md,md->m", rows, rows, dtype=np.float64)
        for rows in (matrix[i : i + step] for i in range(0, matrix.shape[0], step))
    ]
    norms = np.sqrt(np.concatenate(squares))
    require_finite(matrix.path, "W_dec", norms)
    return norms

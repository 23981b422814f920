"""Activations on the disk: harvested once per task, layer and recipe, in resumable parts.

    <cache>/activations/<key>/x.npy          [distinct rows, d_model], in the model's dtype
                             /rows.npz       prompt -> its rows in x, and its hash
                             /manifest.json  written last: without it the rest does not count
    <cache>/activations/<key>.parts/         the batches of an unfinished harvest, and what was
                                             known from other lists of prompts when it began

The key hashes everything that changes the numbers, and nothing else.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from tqdm import tqdm

from probejax import storage
from probejax.activations import forward, npz, shared
from probejax.artifacts import cache_dir as artifacts_cache_dir
from probejax.models import tokens as tokenizers
from probejax.models.checkpoint import LanguageModel

FORMAT = 1  # raise it when the meaning of the stored numbers changes


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What, besides the prompts and the layer, changes the activations.

    Attributes:
      model: name of the checkpoint.
      fingerprint: hash of its weights.
      dtype: `float32` or `bfloat16`.
      max_length: tokens kept of a prompt, BOS included; longer prompts lose their beginning.
      positions: `last` token of each prompt, or `all`.
    """

    model: str
    fingerprint: str
    dtype: str = "float32"
    max_length: int = 1024
    positions: forward.Positions = "last"


@dataclasses.dataclass(frozen=True)
class Activations:
    """The residual stream of a list of prompts at one layer.

    Attributes:
      x: [rows, d_model], memory-mapped, in the dtype of the recipe; equal prompts share rows.
      starts: int [n_prompts], first row of each prompt.
      counts: int [n_prompts], its number of rows (1 when only the last token was kept).
    """

    x: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def last(self) -> np.ndarray:
        """Returns float32 [n_prompts, d_model]: the last row of each prompt."""
        return self.x[self.starts + self.counts - 1].astype(np.float32)


def key(recipe: Recipe, layer: int, prompts: Sequence[str]) -> str:
    """Returns the name under which these activations are kept."""
    digest = hashlib.sha256()
    fields = {"format": FORMAT, "bos": "prepended", "layer": layer, **dataclasses.asdict(recipe)}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for prompt in prompts:
        data = prompt.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]


def harvest(
    prompts: Sequence[str],
    layers: Sequence[int],
    recipe: Recipe,
    model: Callable[[], LanguageModel],
    *,
    cache_dir: str | Path | None = None,
    label: str = "",
    batch_tokens: int = forward.BATCH_TOKENS,
) -> dict[int, Activations]:
    """Returns the activations of prompts, from the cache or by running the model.

    A harvest that is killed and started again redoes at most one batch. The last token of a prompt
    that the cache holds for another list is copied from there: it equals a new run up to rounding,
    because what else is in a batch changes the order of sums.

    Args:
      prompts: texts.
      layers: zero-based blocks, -1 for the embedding.
      recipe: what else decides the numbers; part of the key.
      model: gives the loaded model; called only if something is not in the cache.
      cache_dir: the cache, see `probejax.artifacts.cache_dir`.
      label: what the progress bar says.
      batch_tokens: tokens of one batch, padding included.

    Raises:
      StorageError: the cache cannot be written.
      ValueError: the activations hold NaN or infinity, or a cached file is damaged.
    """
    folders = {layer: _folder(recipe, layer, prompts, cache_dir) for layer in layers}
    missing = tuple(layer for layer, folder in folders.items() if not _complete(folder))
    if missing:
        _run(
            prompts,
            {layer: folders[layer] for layer in missing},
            recipe,
            model(),
            label,
            batch_tokens,
        )
    return {layer: _open(folder) for layer, folder in folders.items()}


def is_cached(
    recipe: Recipe, layer: int, prompts: Sequence[str], *, cache_dir: str | Path | None = None
) -> bool:
    """Tells whether these activations are in the cache."""
    return _complete(_folder(recipe, layer, prompts, cache_dir))


def discard(
    prompts: Sequence[str],
    layers: Sequence[int],
    recipe: Recipe,
    *,
    cache_dir: str | Path | None = None,
) -> None:
    """Deletes these activations from the cache, and the batches of an unfinished harvest.

    Killed half way, it leaves nothing that would count: the manifest goes first.
    """
    for layer in layers:
        folder = _folder(recipe, layer, prompts, cache_dir)
        (folder / "manifest.json").unlink(missing_ok=True)
        for each in (folder, folder.with_suffix(".parts")):
            shutil.rmtree(each, ignore_errors=True)


def _folder(recipe, layer, prompts, cache_dir) -> Path:
    return Path(artifacts_cache_dir(cache_dir)) / "activations" / key(recipe, layer, prompts)


def _complete(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


class _Piece(NamedTuple):
    """A file of rows that a list consists of: prompts `prompts` [p], `counts` [p] rows of each."""

    path: Path
    prompts: np.ndarray
    counts: np.ndarray


def _run(prompts, folders, recipe, model: LanguageModel, label: str, batch_tokens: int) -> None:
    """Runs the model over the distinct new prompts and stores every layer of `folders`."""
    distinct = list(dict.fromkeys(prompts))
    layers = tuple(sorted(folders))
    # All layers of a batch lie in one file, so a batch is there or not.
    parts = folders[layers[0]].with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    stem = "_".join(map(str, layers))
    known = _known(parts / f"{stem}.known.npz", distinct, layers, recipe)
    new = np.setdiff1d(np.arange(len(distinct)), known.prompts)
    ids = tokenizers.encode(model.tokenizer, [distinct[i] for i in new], recipe.max_length)
    batches = forward.batches(ids, batch_tokens)
    # Another set of known prompts makes other batches.
    stem += f".{batch_tokens}.{zlib.crc32(known.prompts.tobytes()):08x}"
    every = recipe.positions == "all"
    pieces = [
        _Piece(
            parts / f"{stem}.{i:06d}.npz",
            new[batch.prompts],
            batch.lengths if every else np.ones_like(batch.lengths),
        )
        for i, batch in enumerate(batches)
    ]
    todo = [i for i, piece in enumerate(pieces) if not piece.path.exists()]
    done = sum(int(batches[i].lengths.sum()) for i in set(range(len(batches))) - set(todo))
    total = sum(len(t) for t in ids)
    bar = tqdm(
        total=total, initial=done, unit="tok", unit_scale=True, desc=label or "harvest", leave=False
    )
    stream = forward.run(model.transformer, [batches[i] for i in todo], layers, recipe.positions)
    with bar:
        for i, part in zip(todo, stream, strict=True):
            for layer, rows in part.rows.items():
                if not np.isfinite(rows.astype(np.float32)).all():
                    raise ValueError(
                        f"The activations of {label or 'these prompts'} at layer {layer} hold NaN "
                        f"or infinity with --dtype={recipe.dtype}; the weights may be damaged."
                    )
            arrays = {str(layer): _storable(rows) for layer, rows in part.rows.items()}
            storage.write_atomic(pieces[i].path, npz.to_bytes(arrays))
            bar.update(part.tokens)
    filled = [known, *pieces] if len(known.prompts) else pieces
    try:
        for layer in layers:
            _join(folders[layer], filled, layer, prompts, distinct, recipe)
    except storage.StorageError:
        # Another process may have finished the same harvest, and cleared the batches away.
        if not all(_complete(folder) for folder in folders.values()):
            raise
    for piece in (known, *pieces):
        piece.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        parts.rmdir()  # unless batches of other layers lie there


def _known(path: Path, distinct: list[str], layers: tuple[int, ...], recipe: Recipe) -> _Piece:
    """Returns the prompts that other lists know: looked up once, so that a harvest can resume.

    Only where one row is kept of each prompt: all tokens of a task are too many to copy, and
    seldom stay on the disk for the next task.
    """
    if recipe.positions == "all":
        return _Piece(path, np.zeros(0, np.int64), np.zeros(0, np.int64))
    if not path.exists():
        root = path.parent.parent
        prompts, rows = shared.known(root, dataclasses.asdict(recipe), layers, distinct)
        arrays = {str(layer): x for layer, x in rows.items()}
        storage.write_atomic(path, npz.to_bytes({"prompts": prompts, **arrays}))
    prompts = _read(path, "prompts")
    return _Piece(path, prompts, np.ones_like(prompts))


def _read(path: Path, name: str) -> np.ndarray:
    """Returns an array of a file in `.parts`."""
    try:
        return npz.read(path, name)[0]
    except ValueError as error:
        raise ValueError(
            f"The unfinished harvest {path} is damaged ({error}); delete that file and run again."
        ) from error


def _join(folder: Path, pieces: Sequence[_Piece], layer, prompts, distinct, recipe) -> None:
    """Writes one layer's rows into a single file, and the manifest after it."""
    counts = np.zeros(len(distinct), np.int64)
    starts = np.zeros(len(distinct), np.int64)
    at = 0
    for piece in pieces:
        starts[piece.prompts] = at + np.cumsum(piece.counts) - piece.counts
        counts[piece.prompts] = piece.counts
        at += int(piece.counts.sum())
    number = {prompt: i for i, prompt in enumerate(distinct)}
    which = np.array([number[prompt] for prompt in prompts])
    folder.mkdir(parents=True, exist_ok=True)
    shape = _write_rows(folder / "x.npy", (_read(p.path, str(layer)) for p in pieces), at)
    arrays = {"starts": starts[which], "counts": counts[which], "digests": shared.digests(prompts)}
    storage.write_atomic(folder / "rows.npz", npz.to_bytes(arrays))
    manifest = {
        "layer": layer,
        "prompts": len(prompts),
        "shape": shape,
        **dataclasses.asdict(recipe),
    }
    storage.write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1))


def _write_rows(path: Path, chunks: Iterator[np.ndarray], rows: int) -> list[int]:
    """Streams chunks of rows into one npy file that appears whole; returns its shape."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            shape = []
            for chunk in chunks:
                if not shape:
                    shape = [rows, *chunk.shape[1:]]
                    header = {
                        "descr": chunk.dtype.str,
                        "fortran_order": False,
                        "shape": tuple(shape),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(chunk).data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise storage.StorageError(
            f"Cannot write {path}: {error.strerror}. Free some space or choose another "
            "--cache_dir; the finished batches are kept, and the same command resumes."
        ) from error
    return shape


def _storable(rows: np.ndarray) -> np.ndarray:
    """Returns the rows in a dtype that the npy format knows; bfloat16 travels as uint16."""
    return rows.view(np.uint16) if rows.dtype == ml_dtypes.bfloat16 else rows


def _open(folder: Path) -> Activations:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        x = np.load(folder / "x.npy", mmap_mode="r")
        found = Activations(x, *npz.read(folder / "rows.npz", "starts", "counts"))
        if list(x.shape) != manifest["shape"]:
            raise ValueError(f"x.npy is {x.shape}, the manifest says {manifest['shape']}")
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise ValueError(
            f"The cached activations in {folder} are damaged ({error}); delete that folder and run "
            "again."
        ) from error
    if manifest["dtype"] == "bfloat16":
        return dataclasses.replace(found, x=x.view(jnp.bfloat16))
    return found

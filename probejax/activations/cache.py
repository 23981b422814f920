"""Activations on the disk: harvested once per task, site and recipe, in resumable parts.

    <cache>/activations/<key>/              the finished list of prompts, see `stored`
    <cache>/activations/<key>.parts/        the batches of an unfinished harvest, and what was
                                            known from other lists of prompts when it began

The key hashes everything that changes the numbers, and nothing else.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from probejax import storage
from probejax.activations import forward, npz, shared, stored
from probejax.activations.ragged import Activations
from probejax.activations.reading import read, require_tokens
from probejax.activations.stored import FORMAT
from probejax.artifacts import cache_dir as artifacts_cache_dir
from probejax.foreign import DamagedFile
from probejax.models import chat
from probejax.models.checkpoint import LoadedModel
from probejax.positions import ALL, LAST
from probejax.rules import PREPENDED
from probejax.sites import Site

_LONGEST = 150  # characters of a file's name that say of which sites it is


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What, besides the prompts and the site, changes the activations.

    Attributes:
      model: name of the checkpoint.
      fingerprint: hash of its weights.
      dtype: `float32` or `bfloat16`.
      max_length: tokens kept of a prompt, BOS included; longer prompts lose their beginning.
      positions: `last` token of each prompt, `all`, or another of `probejax.positions`.
      bos: `prepended` to each prompt, or `none`.
      chat: hash of the template that makes each prompt a turn of a chat; empty without one.
    """

    model: str
    fingerprint: str
    dtype: str = "float32"
    max_length: int = 1024
    positions: str = LAST
    bos: str = PREPENDED
    chat: str = ""


def key(recipe: Recipe, site: Site, prompts: Sequence[str]) -> str:
    """Returns the name under which these activations are kept."""
    digest = hashlib.sha256()
    where: dict[str, str | int] = {"site": str(site)}
    if site.is_residual:  # as before there were other sites: what was harvested then still counts
        where = {"layer": site.blocks - 1}
    fields = {"format": FORMAT, **where, **dataclasses.asdict(recipe)}
    if not recipe.chat:  # as before there were templates
        del fields["chat"]
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for prompt in prompts:
        data = prompt.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]


def harvest(
    prompts: Sequence[str],
    sites: Sequence[Site],
    recipe: Recipe,
    model: Callable[[], LoadedModel],
    *,
    cache_dir: str | Path | None = None,
    label: str = "",
    batch_tokens: int = forward.BATCH_TOKENS,
) -> dict[Site, Activations]:
    """Returns the activations of prompts, from the cache or by running the model.

    A harvest that is killed and started again redoes at most one batch. The last token of a prompt
    that the cache holds for another list is copied from there: it equals a new run up to rounding,
    because what else is in a batch changes the order of sums. Files that are damaged are named on
    stderr and made anew.

    Args:
      prompts: texts.
      sites: where the model is read.
      recipe: what else decides the numbers; part of the key.
      model: gives the loaded model; called only if something is not in the cache.
      cache_dir: the cache, see `probejax.artifacts.cache_dir`.
      label: what the progress bar says.
      batch_tokens: tokens of one batch, padding included.

    Raises:
      StorageError: the cache cannot be written.
      ValueError: the model gives NaN or infinity.
      DamagedFile: what was just written is damaged, as on a failing disk.
    """
    folders = {site: _folder(recipe, site, prompts, cache_dir) for site in sites}
    found = {}
    for site, folder in folders.items():
        try:
            if stored.complete(folder):
                found[site] = _open(folder, site, recipe, len(prompts))
        except DamagedFile as error:
            _say(error)
            _remove(folder)
    missing = {site: folder for site, folder in folders.items() if site not in found}
    if missing:
        _run(prompts, missing, recipe, model(), label, batch_tokens)
    for site, folder in missing.items():
        found[site] = _open(folder, site, recipe, len(prompts))
    return {site: found[site] for site in sites}


def _say(error: DamagedFile) -> None:
    what = str(error).rpartition(";")[0] or str(error)
    sys.stderr.write(f"{what}; it is made anew.\n")


def _open(folder: Path, site: Site, recipe: Recipe, prompts: int) -> Activations:
    """Opens what must be the activations of these prompts.

    Raises:
      DamagedFile: it is not.
    """
    try:
        manifest = stored.read_manifest(folder)
        if not manifest.holds(site, dataclasses.asdict(recipe)) or manifest.prompts != prompts:
            raise DamagedFile(f"{folder} says that it holds something else; delete that folder.")
        x, (starts, counts) = stored.read(folder, manifest)
    except FileNotFoundError as error:
        raise DamagedFile(f"{folder} lacks {Path(error.filename).name}; run again.") from error
    return Activations(x, starts, counts, recipe.bos == PREPENDED)


def is_cached(
    recipe: Recipe, site: Site, prompts: Sequence[str], *, cache_dir: str | Path | None = None
) -> bool:
    """Tells whether these activations are in the cache."""
    return stored.complete(_folder(recipe, site, prompts, cache_dir))


def discard(
    prompts: Sequence[str],
    sites: Sequence[Site],
    recipe: Recipe,
    *,
    cache_dir: str | Path | None = None,
) -> None:
    """Deletes these activations from the cache, and the batches of an unfinished harvest.

    Killed half way, it leaves nothing that would count: the manifest goes first.
    """
    for site in sites:
        folder = _folder(recipe, site, prompts, cache_dir)
        _remove(folder)
        shutil.rmtree(folder.with_suffix(".parts"), ignore_errors=True)


def _remove(folder: Path) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _folder(recipe, site, prompts, cache_dir) -> Path:
    return Path(artifacts_cache_dir(cache_dir)) / "activations" / key(recipe, site, prompts)


class _Piece(NamedTuple):
    """A file of rows that a list consists of: prompts `prompts` [p], `counts` [p] rows of each."""

    path: Path
    prompts: np.ndarray
    counts: np.ndarray


def _run(prompts, folders, recipe, model: LoadedModel, label: str, batch_tokens: int) -> None:
    """Runs the model over the distinct new prompts and stores every site of `folders`."""
    distinct = list(dict.fromkeys(prompts))
    sites = tuple(sorted(folders))
    # All sites of a batch lie in one file, so a batch is there or not.
    parts = folders[sites[0]].with_suffix(".parts")
    stem = _stem(sites)
    known = _known(parts / f"{stem}.known.npz", distinct, sites, recipe)
    new = np.setdiff1d(np.arange(len(distinct)), known.prompts)
    bos, template = _around(recipe, model)
    require_tokens(prompts, bos, template, label or "the list")
    ids, places, _ = read(
        [distinct[i] for i in new],
        model.tokenizer,
        model.config,
        bos=bos,
        template=template,
        position=recipe.positions,
        max_length=recipe.max_length,
    )
    batches = forward.batches(ids, batch_tokens)
    # Another set of known prompts makes other batches.
    stem += f".{batch_tokens}.{zlib.crc32(known.prompts.tobytes()):08x}"
    every = recipe.positions == ALL
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
    stream = forward.run(
        model.transformer, [batches[i] for i in todo], sites, recipe.positions, places
    )
    with bar:
        for i, part in zip(todo, stream, strict=True):
            for site, rows in part.rows.items():
                if not np.isfinite(rows.astype(np.float32)).all():
                    raise ValueError(
                        f"The activations of {label or 'these prompts'} at {site} hold NaN "
                        f"or infinity with --dtype={recipe.dtype}; the weights may be damaged."
                    )
            arrays = {str(site): stored.storable(rows) for site, rows in part.rows.items()}
            storage.write_atomic(pieces[i].path, npz.to_bytes(arrays), "--cache_dir")
            bar.update(part.tokens)
    filled = [known, *pieces] if len(known.prompts) else pieces
    try:
        for site in sites:
            _join(folders[site], filled, site, prompts, distinct, recipe)
    except storage.StorageError:
        # Another process may have finished the same harvest, and cleared the batches away.
        if not all(stored.complete(folder) for folder in folders.values()):
            raise
    for piece in (known, *pieces):
        piece.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        parts.rmdir()  # unless batches of other sites lie there


def _stem(sites: Sequence[Site]) -> str:
    """Returns how the names of batches begin: with their sites, or a hash of so many."""
    stem = "_".join(map(str, sites))
    return stem if len(stem) <= _LONGEST else hashlib.sha256(stem.encode()).hexdigest()[:24]


def _around(recipe: Recipe, model: LoadedModel) -> tuple[str | None, str | None]:
    """Returns BOS and chat template as a recipe has them, once it is known that the model has."""
    if recipe.bos == PREPENDED and model.bos is None:
        raise ValueError(f"{model.config.name} has no BOS token to put before each prompt.")
    if recipe.chat and chat.digest(model.chat_template) != recipe.chat:
        raise ValueError(f"{model.config.name} has not the chat template that was asked for.")
    bos = model.bos if recipe.bos == PREPENDED else None
    return bos, model.chat_template if recipe.chat else None


def _known(path: Path, distinct: list[str], sites: tuple[Site, ...], recipe: Recipe) -> _Piece:
    """Returns the prompts that other lists know: looked up once, so that a harvest can resume.

    Only where one row is kept of each prompt: all tokens of a task are too many to copy, and
    seldom stay on the disk for the next task.
    """
    if recipe.positions == ALL:
        return _Piece(path, np.zeros(0, np.int64), np.zeros(0, np.int64))
    if not path.exists():
        root = path.parent.parent
        prompts, rows = shared.known(root, dataclasses.asdict(recipe), sites, distinct)
        arrays = {str(site): x for site, x in rows.items()}
        storage.write_atomic(path, npz.to_bytes({"prompts": prompts, **arrays}), "--cache_dir")
    prompts = _read(path, "prompts")
    return _Piece(path, prompts, np.ones_like(prompts))


def _read(path: Path, name: str) -> np.ndarray:
    """Returns an array of a file in `.parts`.

    Raises:
      DamagedFile: it is damaged, and has been deleted: the next run makes it anew.
    """
    try:
        return npz.read(path, name)[0]
    except DamagedFile as error:
        path.unlink(missing_ok=True)
        what = str(error).rpartition(";")[0]
        raise DamagedFile(f"{what}; it is deleted, run again to make it anew.") from error


def _join(folder: Path, pieces: Sequence[_Piece], site, prompts, distinct, recipe) -> None:
    """Writes one site's rows into a single file, and what says which are whose."""
    counts = np.zeros(len(distinct), np.int64)
    starts = np.zeros(len(distinct), np.int64)
    at = 0
    for piece in pieces:
        starts[piece.prompts] = at + np.cumsum(piece.counts) - piece.counts
        counts[piece.prompts] = piece.counts
        at += int(piece.counts.sum())
    number = {prompt: i for i, prompt in enumerate(distinct)}
    which = np.array([number[prompt] for prompt in prompts])
    arrays = {"starts": starts[which], "counts": counts[which], "digests": shared.digests(prompts)}
    chunks = (_read(piece.path, str(site)) for piece in pieces)
    stored.write(folder, chunks, at, arrays, site, dataclasses.asdict(recipe))

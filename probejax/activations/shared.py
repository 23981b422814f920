"""Prompts that several tasks have in common: the model reads each of them once.

Every finished list of prompts keeps a hash of each prompt beside its rows. A new list takes from
the others, of the same recipe and site, the rows of the prompts it shares with them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from probejax.activations import stored
from probejax.foreign import DamagedFile
from probejax.sites import Site

DIGEST_BYTES = 32


def digests(prompts: Sequence[str]) -> np.ndarray:
    """Returns bytes [n_prompts]: a hash of each prompt, 128 bits in hexadecimal."""
    return np.array(
        [
            hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
            for prompt in prompts
        ],
        dtype=f"S{DIGEST_BYTES}",
    )


def known(
    root: Path, recipe: dict[str, Any], sites: Sequence[Site], prompts: Sequence[str]
) -> tuple[Int[np.ndarray, " known"], dict[Site, np.ndarray]]:
    """Returns which prompts other lists hold at all these sites, and their rows.

    Args:
      root: the folder of all activations.
      recipe: the fields of a `Recipe` that keeps the last token of each prompt.
      sites: where the model was read.
      prompts: different texts.

    Returns:
      The places of the known prompts, rising, and site -> [known, d_model] as stored.
    """
    wanted = digests(prompts)
    found: dict[Site, dict[int, np.ndarray]] = {site: {} for site in sites}
    for site, rows in found.items():
        for theirs, x, starts in _lists(root, recipe, site):
            _, mine, there = np.intersect1d(wanted, theirs, return_indices=True)
            pairs = zip(mine, starts[there], strict=True)
            rows |= {place: x[at] for place, at in pairs if place not in rows}
    places = np.array(sorted(set.intersection(*(set(rows) for rows in found.values()))), int)
    if not len(places):
        return places, {}
    return places, {site: np.stack([rows[i] for i in places]) for site, rows in found.items()}


def _lists(
    root: Path, recipe: dict, site: Site
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields hashes, rows and first rows of every list with this recipe and site."""
    for path in sorted(root.glob("*/manifest.json")):
        try:
            manifest = stored.read_manifest(path.parent)
            if not manifest.holds(site, recipe):
                continue
            x, (starts, _, theirs) = stored.read(path.parent, manifest, "digests")
        except (OSError, DamagedFile):
            continue  # just deleted, of an earlier version, or damaged: no help, and no harm
        yield theirs, stored.storable(x), starts

"""Why there is no SAE at a place on the disk, and what to do."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from probejax import foreign
from probejax.saes import formats

_LISTED = 3  # SAEs that a message names
_LOOKED_AT = 1000  # folders, at most


def explain(path: Path) -> str:
    """Returns a sentence about a place that exists and at which `formats.detect` finds no SAE.

    Raises:
      DamagedFile: it is neither a folder nor a regular file.
    """
    if not path.is_dir():
        foreign.require_regular(path)
    if sentence := _without_settings(path):
        return sentence
    below = list(itertools.islice(_below(path), _LISTED))
    if below:
        return f"{path} is no SAE itself but holds some; give one, such as {', '.join(below)}."
    if path.is_dir() and not any(path.iterdir()):
        return f"{path} is empty; give the folder or the file of an SAE."
    return f"{path} holds no SAE in a known format: {', '.join(formats.FORMATS)}."


def _without_settings(path: Path) -> str | None:
    """Returns a sentence if there are weights whose settings are missing."""
    missing: dict[Path, list[str]] = {}
    for each in formats.FORMATS.values():
        if each.config is None or not each.needs_config:
            continue
        here = [path] if path.match(each.weights) else sorted(path.glob(each.weights))
        for weights in here[:1]:
            config = weights.parents[each.weights.count("/")] / each.config
            if not config.exists():
                missing.setdefault(weights, []).append(f"{config} ({each.name})")
    for weights, configs in missing.items():
        return (
            f"{weights} cannot be read without its settings, {' or '.join(configs)}; put that file "
            "there, from where the weights came."
        )
    return None


def _below(path: Path) -> Iterator[str]:
    """Yields SAEs in a folder and in the folders below it."""
    for folder, folders, files in itertools.islice(os.walk(path), _LOOKED_AT):
        if Path(folder) != path and formats.detect(Path(folder)):
            folders.clear()
            yield folder
            continue
        folders.sort()
        places = (Path(folder) / name for name in sorted(files))
        yield from (str(place) for place in places if place.is_file() and formats.detect(place))

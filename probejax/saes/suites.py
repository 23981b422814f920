"""Suites: SAEs that are compared with each other, and when their architectures appeared."""

import os
from pathlib import Path
from typing import NamedTuple

from probejax import artifacts
from probejax.saes import formats


class Series(NamedTuple):
    """SAEs of one architecture that differ in their L0 only.

    Attributes:
      architecture: its name.
      released: ISO date of the architecture's publication.
      folder: owner, repository and folder of the SAEs, short of the last number.
      numbers: the last numbers.
    """

    architecture: str
    released: str
    folder: str
    numbers: range


_SAEBENCH = (
    "canrager/saebench_gemma-2-2b_width-2pow14_date-0107/"
    "gemma-2-2b_{}_width-2pow14_date-0107/resid_post_layer_12/trainer_"
)
_OLD_RELU = "adamkarvonen/temp/old_relu_google_gemma-2-2b_standard/resid_post_layer_12/trainer_"
_FIRST = range(6)
SUITES = {
    # The 48 SAEs of figure 12 of arXiv 2502.16681; dates are those of its table 2.
    "saebench-gemma-2-2b": (
        Series("relu", "2023-10-04", _OLD_RELU, _FIRST),
        Series("relu_new", "2024-04-26", _SAEBENCH.format("standard_new"), _FIRST),
        Series("gated", "2024-05-01", _SAEBENCH.format("gated"), _FIRST),
        Series("topk", "2024-06-06", _SAEBENCH.format("top_k"), _FIRST),
        Series("jumprelu", "2024-07-19", _SAEBENCH.format("jump_relu"), _FIRST),
        # Its numbers run on from those of top_k.
        Series("batchtopk", "2024-07-19", _SAEBENCH.format("batch_top_k"), range(6, 12)),
        Series("p_anneal", "2024-07-31", _SAEBENCH.format("p_anneal"), _FIRST),
        Series("matryoshka", "2024-12-19", _SAEBENCH.format("matryoshka_batch_top_k"), _FIRST),
    ),
}


def resolve(suite: str) -> tuple[str, ...]:
    """Returns the SAEs of a suite, each as `saes.find` takes it.

    Args:
      suite: one of `SUITES`, or a folder in which SAEs of any known format lie at any depth.

    Raises:
      FileNotFoundError: neither; the message lists the suites.
      ValueError: the folder, or a folder in it beside SAEs, holds no SAE in a known format.
    """
    if suite in SUITES:
        series = SUITES[suite]
        return tuple(f"{each.folder}{number}" for each in series for number in each.numbers)
    root = artifacts.local_path(suite)
    if not os.path.isdir(root):
        if artifacts.is_path(suite):
            raise FileNotFoundError(f"--sae_suite={suite}: {artifacts.no_such_path(suite)}")
        raise FileNotFoundError(
            f"--sae_suite={suite} is neither a folder nor one of {', '.join(SUITES)}"
            f"{artifacts.did_you_mean(suite, SUITES) or '.'}"
        )
    found = _inside(root)
    if not found:
        raise _unknown(root)
    return tuple(map(str, found))


def _inside(folder: Path) -> list[Path]:
    """Returns the SAEs in a folder, sorted; a folder that is one is not looked into."""
    if formats.detect(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    below = {path: _inside(path) for path in inside if path.is_dir()}
    files = [path for path in inside if path.is_file() and formats.detect(path)]
    found = sorted([*files, *(sae for saes in below.values() for sae in saes)])
    empty = [path for path, saes in below.items() if not saes]
    if found and empty:
        raise _unknown(empty[0])
    return found


def _unknown(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} holds no SAE in a known format ({', '.join(formats.FORMATS)}), so the suite is "
        "not whole; finish its training, or move it away."
    )


def series_of(path: str) -> Series | None:
    """Returns the series to which the SAE at a path belongs, None if it is in no known suite."""
    for each in (each for suite in SUITES.values() for each in suite):
        # The cache of the Hub has other names above the SAE's own folder.
        _, _, own = each.folder.split("/", 2)
        if any(f"{own}{number}/" in f"{path}/" for number in each.numbers):
            return each
    return None

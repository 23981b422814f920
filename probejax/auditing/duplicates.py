"""Prompts that come again, equal or nearly so, and whether their labels agree."""

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table

LIMIT = 0.8  # share of the shingles of two texts together that both have (Jaccard)
_SHINGLE = 5  # characters
_HASHES = 64
_END = 2000  # characters of a text that are read


class Pair(NamedTuple):
    """Two rows whose prompts are alike: `likeness` is 1 where they are equal."""

    first: int
    second: int
    likeness: float


def duplicates(data: Dataset, *, seed: int = 0) -> Finding:
    """Finds equal and nearly equal prompts.

    Args:
      data: the dataset; equal rows of activations are one prompt, too, and without texts no others
        are found.
      seed: of the hashes and the permutation.

    Raises:
      ValueError: datasketch is not installed.
    """
    rows = np.unique(data.same, return_index=True)[1]  # the first of each prompt
    near = [] if data.texts is None else list(near_pairs([data.texts[i] for i in rows], seed))
    pairs = [*_equal(data), *(Pair(int(rows[p.first]), int(rows[p.second]), p[2]) for p in near)]
    table = pd.DataFrame(
        {
            "first": [p.first for p in pairs],
            "second": [p.second for p in pairs],
            "likeness": [p.likeness for p in pairs],
            "label": [data.labels[p.first] for p in pairs],
            "other_label": [data.labels[p.second] for p in pairs],
            "conflict": [bool(data.y[p.first] != data.y[p.second]) for p in pairs],
            "text": [data.text(p.first) for p in pairs],
            "other_text": [
                data.text(p.second) if data.text(p.second) != data.text(p.first) else ""
                for p in pairs
            ],
        }
    )
    table = table.sort_values(["conflict", "likeness"], ascending=False, kind="stable")
    shuffled = np.random.RandomState(seed).permutation(data.y)  # of rows, not of prompts
    copies, same = len(data.y) - len(rows), len(near)
    conflicts = lambda y: float(sum(y[p.first] != y[p.second] for p in pairs))
    how = f"at least {LIMIT:.0%} of their {_SHINGLE}-character pieces".replace("%", " %")
    return Finding(
        "duplicates",
        "Duplicates and leaks",
        "Equal prompts, by text or by activations, and different ones that have "
        f"{how} in common, found by MinHash and then counted exactly. A split that does not keep "
        "them together tests on what it was trained on. Of a prompt that comes more than twice, "
        "each copy is paired with the first. How many there are does not depend on labels; how "
        "many conflict does.",
        (
            Claim("rows whose prompt stands above them already", copies, copies, 0),
            Claim("pairs of nearly equal prompts", same, same, 0),
            Claim("pairs whose labels conflict", conflicts(data.y), conflicts(shuffled), 0),
        ),
        (Table("duplicates", "Pairs, those that conflict first", table.reset_index(drop=True)),),
        () if data.texts is not None else ("Without texts only equal activations are found.",),
    )


def _equal(data: Dataset) -> Iterator[Pair]:
    first: dict[int, int] = {}
    for row, number in enumerate(data.same.tolist()):
        if first.setdefault(number, row) != row:
            yield Pair(first[number], row, 1.0)


def near_pairs(texts: list[str], seed: int = 0) -> Iterator[Pair]:
    """Yields pairs of different texts that share at least `LIMIT` of their pieces.

    Args:
      texts: different ones; of each the end is read, in small letters, spaces made one.
      seed: of the hashes.
    """
    lsh = _datasketch().MinHashLSH(threshold=LIMIT, num_perm=_HASHES)
    hashed = _datasketch().MinHash.generator(
        ([piece.encode() for piece in _pieces(text)] for text in texts),
        num_perm=_HASHES,
        seed=seed + 1,
    )
    for row, sketch in enumerate(hashed):
        for other in sorted(lsh.query(sketch)):
            own, theirs = _pieces(texts[row]), _pieces(texts[other])
            likeness = len(own & theirs) / len(own | theirs)
            if likeness >= LIMIT:
                yield Pair(other, row, min(likeness, 1 - 1e-9))
        lsh.insert(row, sketch)


def _pieces(text: str) -> frozenset[str]:
    plain = " ".join(text[-_END:].casefold().split())
    return frozenset(plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1)))


def _datasketch() -> Any:
    try:
        return importlib.import_module("datasketch")
    except ModuleNotFoundError:
        raise ValueError("an audit needs datasketch: pip install 'probejax[audit]'") from None

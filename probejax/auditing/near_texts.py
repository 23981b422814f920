"""Texts that are nearly equal: found by MinHash, counted exactly, and put into clusters."""

import importlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer

LIMIT = 0.8  # share of the pieces of two texts together that both have (Jaccard)
PIECE = 5  # characters
_BANDS, _ROWS = 16, 4  # two texts at the limit share a band of hashes in all but 0.02 % of cases
END = 1000  # characters that are read of a long text's beginning, and of its end


class Near(NamedTuple):
    """What is nearly equal to each of n different texts.

    Attributes:
      cluster: [n] a number for each text, the same for those that are nearly equal or that others,
        each nearly equal to the next, lead to.
      nearest: [n] the text that has most in common with it; -1 where none is nearly equal.
      likeness: [n] how much that is, less than 1; 0 where there is none.
    """

    cluster: Int[np.ndarray, " n"]
    nearest: Int[np.ndarray, " n"]
    likeness: Float[np.ndarray, " n"]


def near(texts: list[str], seed: int = 0) -> Near:
    """Finds texts that share at least `LIMIT` of their pieces.

    Every text is held against all that may be near it, at once; what is kept of that is one
    neighbour and one cluster each. So a template that 5,000 prompts share ends in seconds, where
    its 12 million pairs would take hours to count and to write.

    Args:
      texts: different ones; of long ones both ends are read, in small letters, spaces made one.
      seed: of the hashes.

    Raises:
      ValueError: datasketch is not installed.
    """
    n = len(texts)
    found = Near(np.arange(n), np.full(n, -1), np.zeros(n))
    if n < 2:
        return found
    how: dict[str, Any] = {"analyzer": _pieces, "dtype": np.int32}
    has: Any = CountVectorizer(**how).fit_transform(texts)
    sizes = np.diff(has.indptr)
    has, weight = _merged(has, seed)
    mark = np.zeros(len(weight), np.int64)
    hashes = _BANDS * _ROWS
    index = _datasketch().MinHashLSH(num_perm=hashes, params=(_BANDS, _ROWS))
    sketches = _datasketch().MinHash.generator(
        ([piece.encode() for piece in _pieces(text)] for text in texts),
        num_perm=hashes,
        seed=seed + 1,
    )
    for row, sketch in enumerate(sketches):
        others = np.sort(np.array(index.query(sketch), int))
        index.insert(row, sketch)
        own = has.indices[has.indptr[row] : has.indptr[row + 1]]
        mark[own] = weight[own]
        both = has[others] @ mark
        mark[own] = 0
        likeness = np.minimum(both / (sizes[row] + sizes[others] - both), 1 - 1e-9)
        _join(found, row, others[likeness >= LIMIT], likeness[likeness >= LIMIT])
    return found


def _merged(has: Any, seed: int) -> tuple[Any, Int[np.ndarray, " p"]]:
    """Returns the pieces that stand in the same texts as one, and how many each of these is.

    Such are all pieces of a template, and all that a text has alone.
    """
    number = np.random.default_rng(seed).integers(1 << 62, size=has.shape[0])
    _, first, weight = np.unique(has.T @ number, return_index=True, return_counts=True)
    return has[:, first], weight


def _join(found: Near, row: int, others: np.ndarray, likeness: np.ndarray) -> None:
    """Puts a row into the cluster of others, which becomes one, and compares it with each."""
    if not len(others):
        return
    clusters = np.unique(found.cluster[others])
    if len(clusters) > 1:
        found.cluster[np.isin(found.cluster, clusters)] = clusters[0]
    found.cluster[row] = clusters[0]
    best = int(np.argmax(likeness))
    found.nearest[row], found.likeness[row] = others[best], likeness[best]
    nearer = likeness > found.likeness[others]
    found.nearest[others[nearer]] = row
    found.likeness[others[nearer]] = likeness[nearer]


def _pieces(text: str) -> frozenset[str]:
    text = text if len(text) <= 2 * END else f"{text[:END]} {text[-END:]}"
    plain = " ".join(text.casefold().split())
    return frozenset(plain[i : i + PIECE] for i in range(max(1, len(plain) - PIECE + 1)))


def _datasketch() -> Any:
    try:
        return importlib.import_module("datasketch")
    except ModuleNotFoundError:
        raise ValueError("an audit needs datasketch: pip install 'probejax[audit]'") from None

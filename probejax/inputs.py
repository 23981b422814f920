"""What is counted or fitted, checked before it is: labels are 0 or 1, row numbers exist.

Arrays of any kind will do; JAX is not imported for it.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

_SHOWN = 5  # values in a message
_COLUMNS = 256  # that are looked at together
_LOST = 0.05  # of a column's spread, that rounding may be
_NOISE = 1e-12  # of a column's size, below which a spread is float64's own rounding


def matrix(x: Any, what: str = "activations") -> Any:
    """Returns one float32 row per prompt, where the array was: on the host, or with JAX.

    Args:
        x: [n, d] numbers, as a NumPy, JAX or torch array of any float or integer dtype, a DataFrame
            or lists.
        what: they are, for the message.

    Raises:
        ValueError: it is no matrix of numbers, or float32 cannot hold what a column tells.
    """
    if hasattr(x, "detach"):  # torch, which need not be imported for it
        x = x.detach().to("cpu")
        x = x.numpy() if str(x.dtype) == "torch.float64" else x.float().numpy()
    if hasattr(x, "tocsr"):  # SciPy's
        raise ValueError(f"the {what} are a sparse matrix; give a dense one: x.toarray()")
    _refuse_masked(x, what)
    if not all(hasattr(x, name) for name in ("astype", "dtype", "ndim")):  # a DataFrame, or lists
        x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"the {what} are {x.shape}; expected one row per prompt, [rows, width]")
    if not x.shape[1]:
        raise ValueError(f"the {what} have no column: {x.shape}; expected [rows, width]")
    if x.dtype.kind not in "fiuV" or x.dtype.names:  # V: bfloat16 and its like
        raise ValueError(f"the {what} are {x.dtype}; expected numbers")
    if x.dtype.itemsize > 4:
        require_kept(np.asarray(x), what)
    return x.astype(np.float32)


def require_kept(x: Num[np.ndarray, "n d"], what: str) -> None:
    """Raises ValueError where float32 drowns a column's variation in rounding, or overflows."""
    for begin in range(0, x.shape[1] if len(x) else 0, _COLUMNS):
        own = np.s_[:, begin : begin + _COLUMNS]
        wide = x[own].astype(np.float64)
        finite = np.all(np.isfinite(wide), axis=0, keepdims=True)
        wide = np.where(finite, wide, 0)
        with np.errstate(over="ignore"):
            kept = wide.astype(np.float32).astype(np.float64)
        over = ~np.all(np.isfinite(kept), axis=0)
        spread, size = wide.std(axis=0), np.abs(wide).max(axis=0)
        with np.errstate(invalid="ignore"):
            lost = (kept - wide).std(axis=0) > _LOST * spread
        lost &= spread > _NOISE * size
        if (over | lost).any():
            column = int(np.argmax(over | lost))
            why = "numbers too large for" if over[column] else "differences too small for"
            raise ValueError(
                f"column {begin + column} of the {what} holds {why} float32, beside a mean of "
                f"{wide[:, column].mean():.3g}; take off its mean and divide by its spread first"
            )


def texts(given: Iterable[Any], count: int, what: str = "texts") -> tuple[str, ...]:
    """Returns one text per row.

    Args:
        given: strings, in a list, an array or a Series.
        count: how many rows there are.
        what: they are, for the message.

    Raises:
        ValueError: there are more or fewer, one is no string, or holds half of a character, which
            no file can.
    """
    if isinstance(given, str):
        raise ValueError(f"the {what} are one string, {given!r:.50}; expected one per row")
    found = tuple(given)
    if len(found) != count:
        raise ValueError(f"there are {len(found):,} {what} and {count:,} labels; expected one per "
                         "row")  # fmt: skip
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"{what}[{row}] is {text!r:.50}; expected a string")
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"{what}[{row}] holds half of a character (a lone surrogate), which no file of "
                "text can: decode it anew from its bytes, or replace that"
            )
    return found


def two_classes(y: Any) -> tuple[Int[np.ndarray, "*shape"], tuple[Any, Any]]:
    """Returns labels as zeros and ones, and the two values that these stand for.

    Args:
        y: two different values of any kind, in a NumPy, JAX or torch array or a list; the larger
            in sort order becomes 1.

    Raises:
        ValueError: there are not two values, they are of several types, or a label is missing (NaN,
            None).
    """
    if hasattr(y, "detach"):
        y = y.detach().to("cpu").numpy()
    _refuse_masked(y, "labels")
    given = np.asarray(y, dtype=None if hasattr(y, "dtype") else object)  # a list's as they are
    if (missing := np.flatnonzero(_missing(given))).size:
        others = f", as are {missing.size - 1:,} others" if missing.size > 1 else ""
        raise ValueError(
            f"label {missing[0]} is missing (NaN or None){others}; leave these rows out"
        )
    y = np.asarray(y)
    if y.dtype.kind not in "biufUSO":
        raise ValueError(f"the labels are {y.dtype}; expected numbers, booleans or text")
    mixed = y.dtype.kind in "US" and not all(isinstance(each, str | bytes) for each in given.flat)
    try:
        values, places = np.unique(y, return_inverse=True)
    except TypeError:
        mixed = True
    if mixed:
        raise ValueError("the labels are of several types; give numbers or text alone")
    if len(values) != 2:
        shown = ", ".join(repr(value) for value in values[:_SHOWN].tolist())
        shown += ", ..." if len(values) > _SHOWN else ""
        raise ValueError(
            f"the labels have {len(values)} different values ({shown}); a probe tells two classes "
            "apart: give exactly two, for example y == one_of_them"
        )
    low, high = values.tolist()
    return places.reshape(y.shape).astype(np.int32), (low, high)


def _refuse_masked(array: Any, what: str) -> None:
    """Refuses a masked array, whose mask NumPy drops where it becomes an array of numbers."""
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(
            f"the {what} are a masked array; leave masked rows out, and give a plain one"
        )


def _missing(labels: np.ndarray) -> Bool[np.ndarray, "*shape"]:
    """Returns which labels are NaN, None or pandas' NA."""

    def absent(label) -> bool:
        try:
            return label is None or bool(label != label)
        except TypeError:  # NA is neither true nor false
            return True

    if labels.dtype.kind == "O":
        return np.array([absent(label) for label in labels.flat], bool).reshape(labels.shape)
    return np.isnan(labels) if labels.dtype.kind == "f" else np.zeros(labels.shape, bool)


def labelled(
    x: Any, y: Any
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"], tuple[Any, Any]]:
    """Returns finite activations and one label for each, zeros and ones, with what these mean.

    Args:
        x: [n, d] as for `matrix`.
        y: n labels, as for `two_classes`.

    Raises:
        ValueError: they do not fit each other, or an activation is not finite.
    """
    features, (labels, values) = np.asarray(matrix(x)), two_classes(y)
    if labels.shape != (len(features),):
        raise ValueError(
            f"x has {len(features):,} rows and y is {labels.shape}; expected one label each"
        )
    if not (finite := np.isfinite(features).all(axis=1)).all():
        raise ValueError(f"row {np.flatnonzero(~finite)[0]} of x holds NaN or infinity")
    return features, labels, values


def binary(
    labels: Shaped[Any, "*shape"],
    mask: Bool[np.ndarray, "*shape"] | None = None,
    what: str = "labels",
) -> Int[np.ndarray, "*shape"]:
    """Returns labels as whole numbers on the host; where they do not count they are 0.

    Args:
        labels: zeros and ones of any type.
        mask: which of them count; by default all.
        what: they are, for the message.

    Raises:
        ValueError: one that counts is anything else.
    """
    labels = np.asarray(labels)
    counts = np.ones(labels.shape, bool) if mask is None else mask
    wrong = ~((labels == 0) | (labels == 1)) & counts
    if wrong.any():
        found = sorted(set(labels[counts].tolist()), key=str)
        shown = ", ".join(map(repr, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
        raise ValueError(
            f"the {what} are {shown}, and only 0 and 1 will do; the first that is neither is at "
            f"{_first(wrong)}"
        )
    return np.where(counts, labels, 0).astype(labels.dtype if labels.dtype.kind == "i" else int)


def lanes(
    mask: Shaped[Any, "..."], labels: Shaped[Any, "..."]
) -> tuple[Bool[np.ndarray, "*shape"], Int[np.ndarray, "*shape"]]:
    """Returns a mask and the labels of what it counts, on the host.

    Raises:
        ValueError: their shapes differ, or one holds anything but zeros and ones.
    """
    if np.shape(mask) != np.shape(labels):
        raise ValueError(f"the mask is {np.shape(mask)} and the labels are {np.shape(labels)}")
    mask = binary(mask, what="values of a mask").astype(bool)
    return mask, binary(labels, mask)


def within(
    rows: Shaped[Any, "..."],
    mask: Bool[np.ndarray, "..."],
    count: int,
    what: str = "features",
) -> Int[np.ndarray, "..."]:
    """Returns row numbers on the host; where they do not count they are 0.

    Args:
        rows: numbers from 0 on.
        mask: which of them count.
        count: how many rows there are.
        what: has these rows, for the message.

    Raises:
        ValueError: one that counts is no whole number, or not that of a row; or the shapes differ.
    """
    rows = np.asarray(rows)
    if rows.shape != mask.shape or rows.dtype.kind not in "iu":
        raise ValueError(
            f"the row numbers are {rows.dtype}{rows.shape}; expected whole numbers {mask.shape}"
        )
    wrong = ((rows < 0) | (rows >= count)) & mask
    if wrong.any():
        raise ValueError(
            f"row number {rows[wrong][0]} at {_first(wrong)} does not exist: the {what} have "
            f"{count:,} rows, from 0 on"
        )
    return np.where(mask, rows, 0).astype(rows.dtype)


def _first(wrong: np.ndarray) -> int | tuple[int, ...]:
    at = np.argwhere(wrong)[0].tolist()
    return at[0] if len(at) == 1 else tuple(at)

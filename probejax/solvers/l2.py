"""L2 logistic regression, thousands of problems at once, each with a duality gap.

A lane is one problem:

    minimise  0.5 |w|^2 + C sum_i log(1 + exp(-t_i (x_i.w + b))),   t_i = +-1,  b unpenalised.

Lanes take rows of one feature matrix. `l2_float64` solves them where float64 is native; elsewhere
`rotated` does with float32 loops, and leaves to the host's `l2_float64` what these cannot certify.
Both prepare the rows in their own way, which lanes share.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import inputs
from probejax.solvers import arithmetic, codes, l2_float64, rotated
from probejax.solvers.codes import Solution
from probejax.solvers.l2_float64 import Lanes, Limits
from probejax.solvers.lanes import checked

_STAGES = 10  # of a path to a single strength
_DECADES = 10 / 9  # between two of them
_STRONGEST = 1e-5  # C at which it begins
_ROUGH = 1.0  # relative gap that will do on the way


class Shared(NamedTuple):
    """Features that lanes take rows of, and what their solver made of these.

    Attributes:
        x: [N, d].
        prepared: inner products of the rows in use, or coordinates in which float32 will do.
    """

    x: Float[np.ndarray, "N d"]
    prepared: l2_float64.Products | rotated.Coordinates


def share(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
) -> Shared:
    """Prepares features for calls whose lanes take n of these rows: what they share is done once.

    Args:
        x: the features, best roughly centred.
        rows: indices into x.
        mask: True where `rows` is a real row.

    Raises:
        ValueError: a real row does not exist.
    """
    x, mask = np.asarray(x), np.asarray(mask, bool)
    rows = _rows(rows, mask, len(x))
    in_float32 = arithmetic.chosen() == "float32"
    prepare = rotated.coordinates if in_float32 else l2_float64.products
    return Shared(x, prepare(x, rows, mask))


def solve_path(
    x: Float[Array | np.ndarray, "N d"] | Shared,
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " P"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at every strength in C.

    Args:
        x: the features all lanes take rows of, best roughly centred; or what `share` made of them.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths, in any order.
        tolerance: relative duality gap at which a lane has converged.
        max_trips: limit of Newton steps per strength.
        batch: lanes solved together; None chooses by the size of their systems.

    Returns:
        A solution with axes [L, P, ...].

    Raises:
        ValueError: a real row does not exist, a label of one is neither 0 nor 1, a strength is not
            positive and finite, or shapes differ.
    """
    order = np.argsort(np.asarray(C), kind="stable")
    strengths = np.tile(np.asarray(C, np.float64)[order], (len(rows), 1))
    limits = Limits((tolerance,) * len(order), max_trips, batch, slice(None), folds=True)
    shared, lanes = _prepared(x, rows, mask, y, C)
    path = _solved(shared, lanes, strengths, limits)
    return jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], path)


def solve(
    x: Float[Array | np.ndarray, "N d"] | Shared,
    rows: Int[Array | np.ndarray, "L n"],
    mask: Bool[Array | np.ndarray, "L n"],
    y: Int[Array | np.ndarray, "L n"],
    C: Float[Array | np.ndarray, " L"],
    *,
    tolerance: float = 1e-6,
    max_trips: int = 60,
    batch: int | None = None,
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`.

    It walks there on a path of a few decades each, whose earlier stages need not be exact.
    """
    C = np.asarray(C, np.float64)
    strengths = np.minimum(C, _STRONGEST)[:, None] * np.ones(_STAGES)
    strengths = np.maximum(C[:, None] * 10.0 ** (_DECADES * np.arange(1 - _STAGES, 1)), strengths)
    tolerances = (_ROUGH,) * (_STAGES - 1) + (tolerance,)
    order = np.argsort(C, kind="stable")  # lanes of one batch have paths of one length
    back = np.argsort(order)
    shared, lanes = _prepared(x, rows, mask, y, C)
    lanes = Lanes(*(array[order] for array in lanes))
    limits = Limits(tolerances, max_trips, batch, slice(_STAGES - 1, None), folds=False)
    path = _solved(shared, lanes, strengths[order], limits)
    return jax.tree.map(lambda leaf: leaf[back, 0], path)


def _prepared(x, rows, mask, y, C) -> tuple[Shared, Lanes]:
    """Returns what lanes share, and the lanes as arrays of the host, where they are sorted."""
    mask, y = checked(mask, y, C, np.shape(rows))
    shared = x if isinstance(x, Shared) else share(x, rows, mask)
    return shared, Lanes(_rows(rows, mask, len(shared.x)), mask, y)


def _rows(rows, mask, count: int) -> Int[np.ndarray, "L n"]:
    """Returns row numbers that exist, also where they do not count.

    So a fold's line of rows is its lane's, and what was made of that serves both.
    """
    checked = inputs.within(rows, mask, count)
    rows = np.asarray(rows)
    return np.where((rows >= 0) & (rows < count), rows, 0).astype(checked.dtype)


def _solved(shared: Shared, lanes: Lanes, strengths, limits: Limits) -> Solution:
    """Solves all lanes, and tells of each strength that is kept whether its gap will do."""
    x, prepared = shared
    if isinstance(prepared, l2_float64.Products):
        found = l2_float64.solve(x, prepared, lanes, strengths, limits)
    else:
        found = _in_float32(x, prepared, lanes, strengths, limits)
    enough = np.array(limits.tolerances[limits.keep])
    done = np.where(found.gap <= enough, codes.CONVERGED, codes.MAX_TRIPS)
    code = np.where(found.code == codes.CONVERGED, done, found.code)
    return found._replace(code=code.astype(np.int32))


def _in_float32(x, turned: rotated.Coordinates, lanes: Lanes, strengths, limits: Limits):
    """Solves lanes with float32 loops; those that this will not carry, in float64 on the host."""
    rows = zip(lanes.rows, lanes.mask, strict=True)
    new = [lane for lane, own in enumerate(rows) if not rotated.holds(turned, *own)]
    turned = turned | rotated.coordinates(x, lanes.rows[new], lanes.mask[new])
    found, left = rotated.solve(x, turned, lanes, strengths, limits.tolerances, limits.keep)
    if len(left):
        rest = Lanes(*(part[left] for part in lanes))
        with arithmetic.on_host():
            products = l2_float64.products(x, rest.rows, rest.mask)
            better = l2_float64.solve(x, products, rest, strengths[left], limits)
        jax.tree.map(lambda leaf, new: leaf.__setitem__(left, new), found, better)
    return found

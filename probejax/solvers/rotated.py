"""L2 logistic regression with no float64 in the loops: float32 proposes, the host judges.

The problem is that of `l2`. Rows are rotated, once for all lanes that share them, into coordinates
whose scales lie apart, which leaves the problem as it is: into the principal axes of the features,
or, where a lane has fewer rows than columns, into those of a pivoted Cholesky factor of its rows'
inner products. There `rotated_newton` walks along the paths in float32.

The host computes the gradient and the certificate of what was found, in float64 and of the features
as given. What is not good enough goes back with that gradient, and at the end to `l2`'s float64,
which is counted.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import lapack, solve_triangular
from scipy.special import expit, xlog1py, xlogy

from probejax import sizes
from probejax.solvers import arithmetic, codes, rotated_newton, tables
from probejax.solvers.codes import Solution
from probejax.solvers.engine import each
from probejax.solvers.rotated_newton import Base
from probejax.solvers.spread import over_lanes

_ROUNDS = 12  # of refinement
_STEPS = 20  # at one strength in one round
_ENOUGH = 0.1  # of the tolerance: half the squared gradient, the rest is for rounding w to float32
_NEAR = 1e-2  # relative gap of a point worth to go on from
_ON_THE_WAY = 1e-3  # one that will do at strengths that are only passed
_RANK = 1e-13  # of the largest pivot, below which rows add no direction
_TINY = 1e-300


class Turned(NamedTuple):
    """Rows in coordinates of their own.

    Attributes:
        a: float64, the rows; those that no lane uses are zero.
        place: [N], which of them is a row of the features, -1 where none is.
        mean: [d], what was subtracted from the features.
        back: maps weights in these coordinates to weights of features.
    """

    a: Float[np.ndarray, "U r"]
    place: Int[np.ndarray, " N"]
    mean: Float[np.ndarray, " d"]
    back: Callable[[np.ndarray], np.ndarray]


Coordinates = dict[bytes, Turned]
"""Of every line of row numbers; the key is the line's bytes."""


def coordinates(
    x: Float[np.ndarray, "N d"], rows: Int[np.ndarray, "L n"], mask: Bool[np.ndarray, "L n"]
) -> Coordinates:
    """Rotates the rows that lanes take, each line of rows once."""
    n, d = rows.shape[1], x.shape[1]
    if not len(rows):
        return {}
    if d < n:
        axes = _in_axes(x, np.unique(rows[mask]))
        return {line.tobytes(): axes for line in rows}
    used: dict[bytes, list[int]] = {}
    for lane, line in enumerate(rows):
        used.setdefault(line.tobytes(), []).append(lane)
    return {
        key: _in_rows(x, np.unique(rows[lanes[0]][mask[lanes].any(axis=0)]), n)
        for key, lanes in used.items()
    }


def holds(turned: Coordinates, line: Int[np.ndarray, " n"], mask: Bool[np.ndarray, " n"]) -> bool:
    """Says whether a line of rows has coordinates, and all of its rows that count."""
    found = turned.get(line.tobytes())
    return found is not None and bool((found.place[line[mask]] >= 0).all())


def _in_axes(x, used) -> Turned:
    """Turns rows into the principal axes of all that are used, the largest first."""
    centred, mean, place = _chosen(x, used)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1]
    return Turned(centred @ axes, place, mean, lambda u: u @ axes.T)


def _in_rows(x, used, size: int) -> Turned:
    """Turns rows into the coordinates of a pivoted Cholesky factor of their inner products.

    With L L' the products of the rows in the order of their pivots and L1 the square top of L,
    the weights are those of the pivot rows: w = X1' inv(L1)' u, and |w| = |u|.
    """
    centred, mean, place = _chosen(x, used)
    gram = centred @ centred.T
    limit = _RANK * max(np.diagonal(gram).max(initial=0), _TINY)
    factor, pivots, rank, _ = lapack.dpstrf(gram, tol=limit, lower=1)  # pyright: ignore[reportAttributeAccessIssue]
    order = pivots - 1
    lower = np.tril(factor)[:, :rank]
    a = np.zeros((len(used), size))
    a[order, :rank] = lower
    top, first = lower[:rank], centred[order[:rank]]

    def back(u):
        own = solve_triangular(top.T, u[..., :rank].T, lower=False)
        return own.T @ first

    return Turned(a, place, mean, back)


def _chosen(x, used):
    """Returns the rows in use, float64 and centred; their mean; and where each row went."""
    own = x[used].astype(np.float64)
    usable = np.isfinite(own).all(axis=1)
    own = np.where(usable[:, None], own, 0)
    mean = own.sum(axis=0) / max(usable.sum(), 1)
    place = np.full(len(x), -1)
    place[used] = np.arange(len(used))
    return np.where(usable[:, None], own - mean, 0), mean, place


class _Lane(NamedTuple):
    """One lane on the host, in float64."""

    x: np.ndarray  # [n, d], features as given; 0 on rows that do not count
    a: np.ndarray  # [n, r], the same rows turned
    place: np.ndarray  # [n], where `turned` has them
    t: np.ndarray  # [n], labels +-1; 0 on rows that do not count
    strengths: np.ndarray  # [P]
    code: int  # that it has unless it can be fitted
    turned: Turned


class _Found(NamedTuple):
    """The best points known for the strengths of a lane."""

    u: np.ndarray  # [P, r]
    b: np.ndarray  # [P]
    margins: np.ndarray  # [P, n], there
    value: np.ndarray  # [P], of the objective there
    bound: np.ndarray  # [P], which no point goes below
    solution: Solution  # as the caller gets it


def solve(
    x: Float[np.ndarray, "N d"],
    turned: Coordinates,
    lanes: tuple[np.ndarray, np.ndarray, np.ndarray],
    strengths: Float[np.ndarray, "L P"],
    tolerances: tuple[float, ...],
    keep: slice,
) -> tuple[Solution, Int[np.ndarray, " R"]]:
    """Walks every lane along its strengths, and certifies those to keep.

    Args:
        x: the features.
        turned: their coordinates, of all rows in the lanes.
        lanes: rows [L, n], mask and labels in {0, 1}.
        strengths: of each lane, rising.
        tolerances: relative duality gap that will do at each.
        keep: the strengths to certify.

    Returns:
        Solutions [L, K] at the strengths to keep, and the lanes that need another solver: there
        the gap is larger.
    """
    on_host = [_lane(x, turned, *each_) for each_ in zip(*lanes, strengths, strict=True)]
    n, d = lanes[0].shape[1], x.shape[1]
    width = sizes.width(n * min(n, d))
    limits = (np.array(tolerances, np.float32) * _ENOUGH, _STEPS)
    table, numbers = _stacked(on_host)
    load = lambda numbers, *others: (tables.rows(table, numbers), *others)
    t, low = (
        np.stack([getattr(lane, name) for lane in on_host]).astype(np.float32)
        for name in ("t", "strengths")
    )
    u, b, trips = each(_walk, (numbers, t, low), width, limits, load=load)
    found = [_judged(*each_) for each_ in zip(on_host, u, b, trips, strict=True)]
    kept = np.zeros(strengths.shape, bool)
    kept[:, keep] = True
    enough = np.where(kept, np.array(tolerances), _ON_THE_WAY)
    tried = np.zeros(strengths.shape, bool)  # from the solution at the strength before
    for round_ in range(_ROUNDS + 1):
        gaps = np.stack([each_.solution.gap for each_ in found])
        todo = gaps > enough
        before = np.pad(todo, ((0, 0), (1, 0)))[:, :-1]
        begin = todo & ~before & ~tried & (gaps > _NEAR)  # a path's start is a point on it
        begin[:, 0] = False
        todo &= begin | ~before | (gaps <= _NEAR)
        left = np.flatnonzero(todo.any(axis=1))
        if not len(left) or round_ == _ROUNDS:
            break
        tried |= begin
        started = [_started(on_host[lane], found[lane], begin[lane]) for lane in left]
        bases = Base(*map(np.stack, zip(*(base for _, _, base in started), strict=True)))
        bases = jax.tree.map(lambda leaf: leaf.astype(np.float32), bases)
        some = (numbers[left], t[left], low[left], bases, _following(todo[left]))
        moves = each(_refine, some, width, limits, load=load)
        for lane, (u, b, _), *move in zip(left, started, *moves, strict=True):
            found[lane] = _moved(on_host[lane], found[lane], begin[lane], u, b, *move)
    todo = kept & (np.stack([each_.solution.gap for each_ in found]) > np.array(tolerances))
    left = np.flatnonzero(todo.any(axis=1))
    arithmetic.count(int(kept.sum()), int(todo.sum()))
    whole = zip(*(each_.solution for each_ in found), strict=True)
    types = (np.float32, np.float32, np.float32, np.float32, np.int32, np.int32)
    leaves = [np.stack(leaf)[:, keep].astype(kind) for leaf, kind in zip(whole, types, strict=True)]
    return Solution(*leaves), left


@over_lanes(shared=("limits",))
def _walk(a, t, strengths, limits):
    walk = functools.partial(rotated_newton.walk, limits=limits)
    return jax.vmap(walk)(_counting(a, t), t, strengths)


@over_lanes(shared=("limits",))
def _refine(a, t, strengths, bases, following, limits):
    refine = functools.partial(rotated_newton.refine, limits=limits)
    return jax.vmap(refine)(_counting(a, t), t, strengths, bases, following)


def _counting(a, t):
    """Returns rows of which those that do not count are zero."""
    return jnp.where(t[:, :, None] != 0, a, 0)


def _stacked(lanes: Sequence[_Lane]) -> tuple[np.ndarray, np.ndarray]:
    """Returns all coordinates that lanes use, float32, one after the other; and the lanes' rows."""
    every = {id(lane.turned): lane.turned for lane in lanes}
    ends = np.cumsum([len(turned.a) for turned in every.values()])
    begins = dict(zip(every, [0, *ends[:-1]], strict=True))
    table = np.concatenate([turned.a.astype(np.float32) for turned in every.values()])
    numbers = [np.maximum(lane.place, 0) + begins[id(lane.turned)] for lane in lanes]
    return table, np.stack(numbers)


def _following(todo: Bool[np.ndarray, "L P"]) -> Int[np.ndarray, "L P1"]:
    """Returns the first place to do at or after each; the number of places where there is none."""
    count = todo.shape[1]
    places = np.where(todo, np.arange(count), count)
    places = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    return np.pad(places, ((0, 0), (0, 1)), constant_values=count).astype(np.int32)


def _lane(x, turned: Coordinates, rows, mask, y, strengths) -> _Lane:
    own, axes = x[rows].astype(np.float64), turned[rows.tobytes()]
    t = np.where(mask, 2.0 * y - 1.0, 0.0)
    if not np.isfinite(own[mask]).all():
        code = codes.NON_FINITE
    else:
        code = codes.CONVERGED if (t > 0).any() and (t < 0).any() else codes.DEGENERATE
    t = t if code == codes.CONVERGED else np.zeros_like(t)
    counts = t[:, None] != 0
    place = axes.place[rows]
    own, a = np.where(counts, own, 0), np.where(counts, axes.a[place], 0)
    return _Lane(own, a, place, t, strengths, code, axes)


def _started(lane: _Lane, found: _Found, begin) -> tuple[np.ndarray, np.ndarray, Base]:
    """Returns points to refine and their bases: what was found, or that of the strength before."""
    at = np.arange(len(begin)) - begin
    u, b, margins = found.u[at], found.b[at], found.margins[at]
    return u, b, _base(lane, u, margins)


def _moved(lane: _Lane, found: _Found, begin, u, b, du, db, steps) -> _Found:
    """Returns what refinement made of points, where that is better or a new beginning."""
    new = _judged(lane, u + du, b + db, found.solution.trips + steps, found.bound)
    lower = (new.value < found.value) | (new.solution.gap < found.solution.gap)
    better = np.isfinite(new.value) & (lower | begin)
    pick = lambda new, old: np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return jax.tree.map(pick, new, found)._replace(bound=new.bound)


def _judged(lane: _Lane, u, b, trips, bound: np.ndarray | float = -np.inf) -> _Found:
    """Returns points (u, b), one for each strength, judged in float64.

    The dual point is that of `small_logreg`: C sigmoid(-margin), made to balance between labels.
    The gap is a sum of terms that are never negative, so that rounding cannot hide it.
    """
    t, C = lane.t, lane.strengths
    counts = t != 0
    u, b = np.asarray(u, np.float64), np.asarray(b, np.float64)
    sound = np.isfinite(u).all(axis=1) & np.isfinite(b)
    u, b = np.where(sound[:, None], u, 0), np.where(sound, b, 0)
    w = lane.turned.back(u)
    w_b = b - w @ lane.turned.mean  # as it goes with features that are not centred
    margins = t * (w @ lane.x.T + w_b[:, None])
    losses = _losses(margins, counts)
    value = 0.5 * (w * w).sum(axis=1) + C * losses
    wrong = np.where(counts, expit(-margins), 0)
    up, down = (wrong @ (t == sign) for sign in (1, -1))
    least = np.minimum(up, down)
    kept = (least[:, None] / np.maximum(side, _TINY)[:, None] for side in (up, down))
    q = wrong * np.where(t > 0, *kept)
    rows = np.logaddexp(0, -margins) + q * margins + xlogy(q, q) + xlog1py(1 - q, -q)
    rows = np.where(counts, np.maximum(rows, 0), 0).sum(axis=1)
    apart = w - (C[:, None] * t * q) @ lane.x
    bound = np.maximum(bound, value - (0.5 * (apart * apart).sum(axis=1) + C * rows))

    low = w.astype(np.float32)
    low_b = (w_b + (w - low) @ lane.turned.mean).astype(np.float32)
    there = t * (low.astype(np.float64) @ lane.x.T + low_b[:, None])
    final = 0.5 * (low.astype(np.float64) ** 2).sum(axis=1) + C * _losses(there, counts)
    usable = lane.code == codes.CONVERGED
    gap = np.where(usable, (final - bound) / np.maximum(final, _TINY), np.nan)
    code = np.where(np.isfinite(gap) | (not usable), lane.code, codes.NON_FINITE)
    solution = Solution(low, low_b, final, gap, code, np.asarray(trips))
    return _Found(u, b, margins, value, bound, solution)


def _base(lane: _Lane, u, margins) -> Base:
    """Returns the objective and its gradient at points with these margins, one per strength."""
    t, C = lane.t, lane.strengths
    pull = C[:, None] * t * expit(-margins)
    value = 0.5 * (u * u).sum(axis=1) + C * _losses(margins, t != 0)
    return Base(margins, u - pull @ lane.a, -pull.sum(axis=1), value)


def _losses(margins, counts):
    return np.where(counts, np.logaddexp(0, -margins), 0).sum(axis=1)

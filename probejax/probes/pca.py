"""L2 logistic regression on principal components, their number chosen on the folds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from probejax import devices
from probejax.probes import given, scale, scores
from probejax.probes.closed_form import codes_of
from probejax.probes.logreg import centred, linear
from probejax.probes.rows import Rows
from probejax.solvers import codes, small_logreg, tables
from probejax.solvers.engine import once

_MOST = 100  # components at most, as the study has it
_CANDIDATES = 10  # numbers of components at most
_NARROW = 16  # columns that the fits of up to so many components are given
_ROWS, _SETS = 2048, 16  # whose components are found together, at most
_RANK = 1e-6  # of the largest variance; below it float32 knows no direction
_TOLERANCE, _TINY = 1e-6, 1e-30
C = 1.0  # scikit-learn's default, which the study leaves


class _Basis(NamedTuple):
    """Principal components of S sets of rows: those of row x are ((x - mean) / scale) @ vectors."""

    rows: np.ndarray | Array  # [S, n, K], components of all rows of the set
    mean: np.ndarray | Array  # [S, d]
    scale: np.ndarray | Array  # [S, d]
    vectors: np.ndarray | Array  # [S, d, K], by falling variance; zero beyond the rank


def fit(
    features: Float[Array | np.ndarray, "N d"], rows: Rows, protocol: scores.Protocol = "paper"
) -> scores.Fit:
    """Fits one probe per lane: standard scaler, components, and L2 logistic regression with C = 1.

    The components are exact; the study's come from a randomised method that is not seeded. The gap
    is that of the weights as they act on features, what their basis is rounded by included. Of
    numbers of components that validate equally well the smallest is chosen, and up to three rows
    are fitted on all that they have.

    Args:
      features: one row per prompt, shared by all lanes.
      rows: the lanes.
      protocol: whose rules; under `strict` every fold has a scaler and components of its own.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    known, centre, usable = centred(features)
    train, mask, y = rows.train, rows.train_mask, rows.y_train
    folds, sizes = scores.folds(rows, protocol), mask.sum(axis=1)
    grids = np.array([_grid(size, known.shape[1]) for size in sizes.tolist()])
    sets = (np.concatenate([train, train[folds.lane]]), np.concatenate([mask, folds.seen]))
    of_lanes, of_folds = _split(_bases(known, *sets), len(train))

    def path(folds):
        return _search(of_folds.rows, folds, y, grids[folds.lane])

    def refit(number):
        exact = _components(known, train, of_lanes)
        solution = small_logreg.solve(exact, mask, y, C, leading=number)
        code = codes_of(usable, train, mask, y)
        code = np.where(code == codes.CONVERGED, solution.code, code)
        w, b = _in_features(solution.w, solution.b, of_lanes)
        good = code <= codes.MAX_TRIPS
        w, b = np.where(good[:, None], w, 0), np.where(good, b, 0)
        gap = np.where(good, _gap_in_features(known, rows, w, b, solution), np.nan)
        late = (code == codes.CONVERGED) & ~(gap <= _TOLERANCE)
        return linear(w, b, centre), gap, np.where(late, codes.MAX_TRIPS, code)

    most = np.minimum(sizes, min(known.shape[1], _MOST))
    return scores.search_and_refit(features, rows, protocol, grids, path, refit, most)


def _split(basis: _Basis, count: int) -> tuple[_Basis, _Basis]:
    """Returns the first so many bases, and the others."""
    return _Basis(*(part[:count] for part in basis)), _Basis(*(part[count:] for part in basis))


def _grid(size: int, width: int) -> Int[np.ndarray, " P"]:
    """Returns the study's numbers of components, the last repeated where there are fewer.

    Of vectors that are less than a hundred wide, narrower than any of the study's, the last is all
    of them: rounding down would leave one out.
    """
    most = min(size, width, _MOST)
    grid = np.unique(np.logspace(0, np.log2(most), _CANDIDATES, base=2).astype(int))
    if most == width < _MOST:
        grid[-1] = width
    return np.pad(grid, (0, _CANDIDATES - len(grid)), mode="edge")


def _bases(x, rows, seen) -> _Basis:
    """Finds the components of every set of rows, once where sets are equal."""
    count = min(rows.shape[1], x.shape[1], _MOST)
    width = min(max(1, _ROWS // rows.shape[1]), _SETS)
    load = lambda rows, seen: (tables.rows(x, rows), seen)
    found, kind = once(_find, (rows, seen), width, count, load=load, threads=devices.cores())
    return _Basis(*(leaf[kind] for leaf in found))


def _find(own, seen, count) -> _Basis:
    """Finds components through the smaller of both products of the standardised rows.

    The host finds the axes of the products: compilers make a page of an eigendecomposition for an
    accelerator, which would do one set after the other.
    """
    z, learnt, products = _standardised(own, seen)
    axes = [_axes(each_, count) for each_ in np.asarray(products)]
    vectors, components = _in_columns(z, seen, *map(np.stack, zip(*axes, strict=True)))
    return _Basis(components, learnt.mean, learnt.scale, vectors)


@jax.jit
@jax.vmap
def _standardised(own, seen):
    z, learnt = scale.standardise(own, seen)
    known = jnp.where(seen[:, None], z, 0)
    products = _times(known, known.T) if len(z) <= z.shape[1] else _times(known.T, known)
    return z, learnt, products


def _axes(products: Float[np.ndarray, "m m"], count: int):
    """Returns the largest eigenvalues, falling, and their vectors."""
    m = len(products)
    if not np.isfinite(products).all():
        return np.full(count, np.nan, np.float32), np.full((m, count), np.nan, np.float32)
    if 2 * count < m:
        values, vectors = scipy.linalg.eigh(products, subset_by_index=(m - count, m - 1))
    else:
        values, vectors = np.linalg.eigh(products)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


@jax.jit
@jax.vmap
def _in_columns(z, seen, variance, vectors):
    """Returns the vectors whose products with columns are components, and these of every row."""
    if len(z) <= z.shape[1]:
        vectors = _times(jnp.where(seen[:, None], z, 0).T, vectors)
        size = jnp.sqrt((vectors * vectors).sum(axis=0))
        vectors = vectors / jnp.where(size > 0, size, 1)[None, :]
    else:
        size = jnp.sqrt(jnp.maximum(variance, 0))
    real = size * size > _RANK * size[0] ** 2
    vectors = jnp.where(real[None, :], vectors, 0)
    return vectors, _times(z, vectors)


def _search(z, folds: scores.Folds, y, numbers) -> Float[np.ndarray, "Q P n"]:
    """Returns the logits of fits on more and more leading components, each from the last."""
    lanes, n, most = z.shape
    w, b = np.zeros((lanes, 0), np.float32), np.zeros(lanes, np.float32)
    logits = np.zeros((lanes, _CANDIDATES, n), np.float32)
    for i, number in enumerate(numbers.T):
        if i and np.array_equal(number, numbers[:, i - 1]):
            logits[:, i] = logits[:, i - 1]
            continue
        width = _NARROW if max(number) <= _NARROW < most else most
        start = (np.pad(w, ((0, 0), (0, width - w.shape[1]))), b)
        own = (z[:, :, :width], folds.train, y[folds.lane])
        w, b, logits[:, i] = small_logreg.approach(*own, C, start, leading=number)
    return logits


def _components(x, rows, basis: _Basis) -> Float[np.ndarray, "L n K"]:
    """Returns the components of every lane's rows, not rounded before the last step."""
    _, mean, scale, vectors = (np.asarray(part, np.float64) for part in basis)
    z = [((x[rows[i]] - mean[i]) / scale[i]) @ vectors[i] for i in range(len(rows))]
    return np.stack(z).astype(np.float32)


def _in_features(w, b, basis: _Basis):
    """Returns the weights and intercepts as they act on features."""
    mean, scale, vectors, w, b = (np.asarray(part, np.float64) for part in (*basis[1:], w, b))
    w = ((vectors[:, :, : w.shape[1]] @ w[:, :, None])[:, :, 0] / scale).astype(np.float32)
    return w, (b - (w * mean).sum(axis=1)).astype(np.float32)


def _gap_in_features(x, rows: Rows, w, b, solution) -> Float[np.ndarray, " L"]:
    """Returns the relative gaps of probes as they act on features.

    Args:
      x: the features.
      rows: the lanes.
      w: weights of features.
      b: intercepts beside them.
      solution: the same probes on components, with the objective and its bound there.
    """
    gaps = np.asarray(solution.gap, np.float64).copy()
    for lane, real in enumerate(rows.train_mask):
        own, t = x[rows.train[lane][real]].astype(np.float64), 2.0 * rows.y_train[lane][real] - 1.0
        losses = np.logaddexp(0, -t * (own @ w[lane] + b[lane])).sum()
        value = 0.5 * (np.asarray(solution.w[lane], np.float64) ** 2).sum() + C * losses
        bound = solution.objective[lane] * (1 - gaps[lane])
        gaps[lane] = max(gaps[lane], (value - bound) / max(value, _TINY))
    return gaps


def _times(a, b):
    return jnp.matmul(a, b, precision="highest")

"""Ridge regression on labels +-1, many problems at once, each with a bound on its error.

A lane is one problem:

    minimise  0.5 |w|^2 + 0.5 C sum_i (t_i - x_i.w - b)^2,   t_i = +-1,  b unpenalised.

That is scikit-learn's RidgeClassifier with alpha = 1 / C. Centred, it is a linear system: in the
space of features X' X + I / C, in that of samples X X' + I / C; the smaller decides. The host finds
its eigenvectors, once for all strengths and for all lanes that have the same rows. A factor for
each strength would be no faster, and breaks down where C times the features squared outgrows the
precision; eigenvectors show which directions are there at all.

With r_i = t_i - x_i.w - b, any a whose sum is zero is a point of the dual, and the objective lies
at most 0.5 |w - X' a|^2 + 0.5 C |r - a / C|^2 above its minimum (the Fenchel gap of squares; Boyd
and Vandenberghe 2004, section 5.1). The better of two such points counts: a = C r, and in the space
of samples the solution itself. That is taken in float64, and what rounding to float32 costs is
measured.
"""

import functools

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Float, Int

from probejax import inputs
from probejax.solvers import codes, engine
from probejax.solvers.codes import Solution
from probejax.solvers.lanes import checked

_TOLERANCE = 1e-6
_EPS = float(np.finfo(np.float64).eps)


def solve_path(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[np.ndarray, "L n"],
    mask: Bool[np.ndarray, "L n"],
    y: Int[np.ndarray, "L n"],
    C: Float[np.ndarray, " P"],
) -> Solution:
    """Solves every lane at every strength.

    Args:
        x: the features all lanes take rows of, best roughly centred.
        rows: indices into x; padding may hold any index.
        mask: True where `rows` is a real row.
        y: labels in {0, 1}.
        C: inverse regularisation strengths.

    Returns:
        A solution with axes [L, P, ...]; no trips are counted.

    Raises:
        ValueError: a real row does not exist, a label of one is neither 0 nor 1, a strength is not
            positive and finite, or shapes differ.
    """
    mask, y = checked(mask, y, C, np.shape(rows))
    rows = inputs.within(rows, mask, len(x))
    return _solve(x, rows, mask, y, np.tile(np.asarray(C, np.float64), (len(rows), 1)))


def solve(
    x: Float[Array | np.ndarray, "N d"],
    rows: Int[np.ndarray, "L n"],
    mask: Bool[np.ndarray, "L n"],
    y: Int[np.ndarray, "L n"],
    C: Float[np.ndarray, " L"],
) -> Solution:
    """Solves every lane at its own C; arguments as for `solve_path`."""
    mask, y = checked(mask, y, C, np.shape(rows))
    rows = inputs.within(rows, mask, len(x))
    found = _solve(x, rows, mask, y, np.asarray(C, np.float64)[:, None])
    return jax.tree.map(lambda leaf: leaf[:, 0], found)


def _solve(x, rows, mask, y, C) -> Solution:
    x, lanes, parts = np.asarray(x, np.float32), [], []
    for group in engine.distinct(rows, mask):
        line, real = rows[group[0]], mask[group[0]]
        system = _System(x[line[real]].astype(np.float64))
        lanes += group
        parts += [system.at(y[lane][real], C[lane]) for lane in group]
    back = np.argsort(lanes)
    return jax.tree.map(lambda *leaves: np.stack(leaves)[back], *parts)


class _System:
    """A set of rows, and the directions in which they differ."""

    def __init__(self, own: Float[np.ndarray, "n d"]):
        self.finite = bool(np.isfinite(own).all())
        own = own if self.finite else np.zeros_like(own)
        self.mean = own.mean(axis=0)
        self.z = own - self.mean
        self.of_samples = len(own) <= own.shape[1]

    @functools.cached_property
    def products(self) -> Float[np.ndarray, "m m"]:
        return self.z @ self.z.T if self.of_samples else self.z.T @ self.z

    @functools.cached_property
    def directions(self) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "m r"]]:
        """Eigenvalues and eigenvectors, of those that rounding does not make."""
        values, vectors = scipy.linalg.eigh(self.products)
        real = values > len(values) * _EPS * values[-1]
        return values[real], vectors[:, real]

    def at(self, y: Int[np.ndarray, " n"], C: Float[np.ndarray, " P"]) -> Solution:
        """Returns the solutions for one line of labels at P strengths."""
        z, d = self.z, self.z.shape[1]
        if not self.finite or y.min() == y.max():
            code = codes.DEGENERATE if self.finite else codes.NON_FINITE
            none = np.zeros(len(C), np.float32)
            w, gap = np.zeros((len(C), d), np.float32), np.full(len(C), np.nan, np.float32)
            return Solution(w, none, none, gap, np.full(len(C), code, np.int32), none.astype(int))
        t = 2.0 * y - 1.0
        middle, c = t.mean(), C[:, None]
        right = t - middle if self.of_samples else (t - middle) @ z
        values, vectors = self.directions
        solved = lambda side: (side @ vectors / (values + 1 / c)) @ vectors.T
        u = solved(right)
        u = u + solved(right - u @ self.products - u / c)  # what rounding left
        w = u @ z if self.of_samples else u

        value, rest = self._objective(t - middle, w, c)
        above = _above(z, w, rest, c, c * rest)
        if self.of_samples:
            above = np.minimum(above, _above(z, w, rest, c, u - u.mean(axis=1, keepdims=True)))
        low = w.astype(np.float32)
        best = middle - low.astype(np.float64) @ self.mean
        b = best.astype(np.float32)
        final, _ = self._objective(t - middle, low.astype(np.float64), c)
        final = final + 0.5 * C * len(t) * (b - best) ** 2
        gap = np.maximum(final - (value - above), 0) / final
        sound = np.isfinite(low).all(axis=1) & np.isfinite(b) & np.isfinite(gap)
        code = np.where(gap <= _TOLERANCE, codes.CONVERGED, codes.MAX_TRIPS)
        return Solution(
            w=np.where(sound[:, None], low, 0),
            b=np.where(sound, b, 0).astype(np.float32),
            objective=np.where(sound, final, 0).astype(np.float32),
            gap=np.where(sound, gap, np.nan).astype(np.float32),
            code=np.where(sound, code, codes.NON_FINITE).astype(np.int32),
            trips=np.zeros(len(C), int),
        )

    def _objective(self, t, w, c):
        """Returns the objective at weights [P, d] under the best intercept, and the residuals."""
        rest = t[None, :] - w @ self.z.T
        return 0.5 * (w * w).sum(axis=1) + 0.5 * c[:, 0] * (rest * rest).sum(axis=1), rest


def _above(z, w, rest, c, a) -> Float[np.ndarray, " P"]:
    """Returns how far the objective may lie above its minimum, by points a of the dual [P, n]."""
    apart, rest = w - a @ z, rest - a / c
    return 0.5 * (apart * apart).sum(axis=1) + 0.5 * c[:, 0] * (rest * rest).sum(axis=1)

"""L1 logistic regression on principal components of every position, side by side."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.activations.ragged import Activations, at
from probejax.probes import given, scores
from probejax.probes.families import ByPosition
from probejax.probes.logreg import DEFAULT_C, STRENGTHS
from probejax.probes.rows import Rows
from probejax.solvers import l1
from probejax.solvers.engine import distinct

COMPONENTS = 20  # of a position, the study's
_SPARE = 12  # directions beside them that the iteration carries along
_ITERATIONS = 30
_MULTIPLE = 64  # columns come in multiples of it, so that few shapes compile


class Basis(NamedTuple):
    """Principal components of P positions.

    Attributes:
      positions: which.
      mean: of the rows that have the position.
      vectors: orthonormal, by falling variance; 0 where a position has fewer.
    """

    positions: Int[np.ndarray, " P"]
    mean: Float[np.ndarray, "P d"]
    vectors: Float[np.ndarray, "P d c"]


def fit(
    tokens: Activations,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    components: int = COMPONENTS,
    bos: bool = False,
) -> scores.Fit:
    """Fits one probe per lane (`concat` baseline of arXiv 2502.16681).

    A position's components are those of the prompts that reach it, and a prompt that does not has
    their mean, 0, there; the study lets rows of zeros take part. The components of a lane come from
    all its training rows under `paper`, from those of the fold under `strict`. Search and refit
    as in `logreg`, with an L1 penalty.

    Args:
      tokens: of all prompts that `rows` means.
      rows: the lanes. Long prompts make thousands of columns, which takes minutes per lane.
      protocol: whose rules.
      components: of a position, at most.
      bos: whether that of BOS, the same in all prompts, counts.

    Raises:
      ValueError: the tokens or the rows will not do, see `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    first = 1 if tokens.bos and not bos else 0
    lanes, folds = len(rows.train), scores.folds(rows, protocol)
    lane = np.concatenate([np.arange(lanes), folds.lane])
    seen = np.concatenate([rows.train_mask, folds.seen])
    final: list[tuple[Basis, np.ndarray]] = [()] * lanes  # type: ignore[list-item]

    def path(folds):
        logits: list[np.ndarray] = [np.zeros(0)] * len(folds.lane)
        for group in distinct(rows.train[lane], seen):
            train, known = rows.train[lane[group[0]]], seen[group[0]]
            basis = components_of(tokens, train[known], components, first)
            z = project(tokens, train, basis)
            for member in (m for m in group if m >= lanes):
                logits[member - lanes] = _search(z, folds, member - lanes, rows)
            for member in (m for m in group if m < lanes):
                final[member] = (basis, z)
        return np.stack(logits).astype(np.float32)

    def refit(C):
        gap, code, parts = np.zeros(lanes), np.zeros(lanes, int), []
        for lane, (basis, z) in enumerate(final):
            own = (z, rows.train_mask[lane], rows.y_train[lane], C[lane])
            one = l1.solve(*(jnp.asarray(each)[None] for each in own))
            gap[lane], code[lane] = float(one.gap[0]), int(one.code[0])
            parts.append((basis, np.asarray(one.w)[0], float(one.b[0])))
        return _per_position(parts, tokens.d_model), gap, code

    return scores.search_and_refit(tokens, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def _search(z: np.ndarray, folds: scores.Folds, fold: int, rows: Rows) -> np.ndarray:
    """Returns a fold's logits at every strength, [P, n]."""
    y = rows.y_train[folds.lane[fold]]
    train = jnp.asarray(folds.train[fold])[None]
    path = l1.solve_path(jnp.asarray(z)[None], train, jnp.asarray(y)[None], jnp.asarray(STRENGTHS))
    return np.asarray(path.w)[0] @ z.T + np.asarray(path.b)[0][:, None]


def _per_position(probes, d: int) -> ByPosition:
    """Returns the probes as weights per position, which need no components."""
    longest = max((int(basis.positions.max(initial=0)) for basis, _, _ in probes), default=0) + 1
    w = np.zeros((len(probes), longest, d), np.float32)
    mean, b = np.zeros_like(w), np.zeros(len(probes), np.float32)
    for lane, (basis, weights, bias) in enumerate(probes):
        count, _, c = basis.vectors.shape
        cut = weights[: count * c].reshape(count, c)
        w[lane, basis.positions] = np.einsum("pdc,pc->pd", basis.vectors, cut)
        mean[lane, basis.positions] = basis.mean
        b[lane] = bias
    return ByPosition(w, b, mean)


def components_of(
    tokens: Activations, prompts: Int[np.ndarray, " n"], components: int, first: int
) -> Basis:
    """Returns the components of every position, from `first` on, that a prompt reaches."""
    longest = int(tokens.counts[prompts].max(initial=0))
    positions = np.arange(first, longest)
    shape = (len(positions), tokens.d_model)
    mean, vectors = np.zeros(shape, np.float32), np.zeros((*shape, components), np.float32)
    for i, position in enumerate(positions):
        x, there = at(tokens, prompts, position)
        mean[i], vectors[i] = _components(x, there, components)
    return Basis(positions, mean, vectors)


def project(
    tokens: Activations, prompts: Int[np.ndarray, " n"], basis: Basis
) -> Float[np.ndarray, "n w"]:
    """Returns the components of prompts, position after position; 0 where a prompt has ended."""
    count, _, c = basis.vectors.shape
    width = -(-max(count * c, 1) // _MULTIPLE) * _MULTIPLE
    found = np.zeros((len(prompts), width), np.float32)
    for i, position in enumerate(basis.positions):
        x, there = at(tokens, prompts, position)
        z = (x - basis.mean[i]) @ basis.vectors[i]
        found[:, i * c : (i + 1) * c] = np.where(there[:, None], z, 0)
    return found


@functools.partial(jax.jit, static_argnames="components")
def _components(
    x: Float[Array, "n d"], there: Bool[Array, " n"], components: int
) -> tuple[Float[Array, " d"], Float[Array, "d c"]]:
    """Returns mean and leading components, by subspace iteration."""
    count = there.sum()
    mean = x.sum(axis=0) / jnp.maximum(count, 1)
    z = jnp.where(there[:, None], x - mean[None, :], 0)
    times = functools.partial(jnp.matmul, precision="highest")
    width = min(components + _SPARE, *x.shape)
    start = jax.random.normal(jax.random.key(0), (x.shape[1], width))
    turn = lambda _, v: jnp.linalg.qr(times(z.T, times(z, v)))[0]
    v = jax.lax.fori_loop(0, _ITERATIONS, turn, jnp.linalg.qr(start)[0])
    small = times(z, v)
    variance, turned = jnp.linalg.eigh(times(small.T, small))
    v = times(v, turned[:, ::-1])[:, :components]
    size = variance[::-1][:components]
    real = (size > 1e-6 * jnp.maximum(size[0], 1e-30)) & (jnp.arange(len(size)) < count - 1)
    v = jnp.where(real[None, :], v, 0)
    return mean, jnp.pad(v, [(0, 0), (0, components - v.shape[1])])

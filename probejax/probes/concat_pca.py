"""L1 logistic regression on principal components of every position, side by side."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax.probes import given, scores
from probejax.probes.logreg import DEFAULT_C, STRENGTHS
from probejax.probes.rows import Rows
from probejax.probes.sharing import distinct
from probejax.probes.tokens import Tokens
from probejax.solvers import l1

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
    tokens: Tokens,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    components: int = COMPONENTS,
    bos: bool = False,
) -> scores.Fitted:
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
      bos: whether position 0, the same in all prompts, counts.

    Raises:
      ValueError: the tokens or the rows will not do, see `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    folds = scores.folds(rows, protocol)
    lanes = len(rows.train)
    lane = np.concatenate([np.arange(lanes), folds.lane])
    seen = np.concatenate([rows.train_mask, folds.seen])
    first = 0 if bos else 1
    logits: list[np.ndarray] = [np.zeros(0)] * len(folds.lane)
    final: list[tuple] = [()] * lanes
    groups = distinct(rows.train[lane], seen)
    for group in groups:
        train, known = np.asarray(rows.train)[lane[group[0]]], seen[group[0]]
        basis = components_of(tokens, train[known], components, first)
        z = project(tokens, train, basis)
        for member in (m for m in group if m >= lanes):
            logits[member - lanes] = _search(z, folds, member - lanes, rows)
        for member in (m for m in group if m < lanes):
            final[member] = (basis, z)
    val_auc, best = scores.choose(np.stack(logits).astype(np.float32), folds, rows)
    C = np.where(scores.searched(rows), STRENGTHS[best], DEFAULT_C)
    return _finished(tokens, rows, protocol, final, val_auc, C)


def _search(z: np.ndarray, folds: scores.Folds, fold: int, rows: Rows) -> np.ndarray:
    """Returns a fold's logits at every strength, [P, n]."""
    y = rows.y_train[folds.lane[fold]]
    train = jnp.asarray(folds.train[fold])[None]
    path = l1.solve_path(jnp.asarray(z)[None], train, jnp.asarray(y)[None], jnp.asarray(STRENGTHS))
    return np.asarray(path.w)[0] @ z.T + np.asarray(path.b)[0][:, None]


def _finished(tokens, rows: Rows, protocol, final, val_auc, C) -> scores.Fitted:
    lanes = len(C)
    on_train, on_test = (np.zeros(m.shape, np.float32) for m in (rows.train_mask, rows.test_mask))
    gap, code, probes = np.zeros(lanes), np.zeros(lanes, int), []
    for lane, (basis, z) in enumerate(final):
        one = l1.solve(
            jnp.asarray(z)[None],
            jnp.asarray(rows.train_mask[lane])[None],
            jnp.asarray(rows.y_train[lane])[None],
            jnp.asarray(C[lane : lane + 1]),
        )
        w, b = np.asarray(one.w)[0], float(one.b[0])
        gap[lane], code[lane] = float(one.gap[0]), int(one.code[0])
        mask = rows.test_mask[lane]
        on_train[lane] = z @ w + b
        on_test[lane][mask] = project(tokens, np.asarray(rows.test)[lane][mask], basis) @ w + b
        probes.append((basis, w, b))
    result = scores.finish(
        rows,
        protocol,
        val_auc=val_auc,
        train_logits=on_train,
        test_logits=on_test,
        hyperparameter=C,
        gap=gap,
        code=code,
    )
    return scores.Fitted(result, _per_position(probes, tokens.d_model))


def _per_position(probes, d: int) -> dict[str, np.ndarray]:
    """Returns the probes as weights per position, [L, T, d], which need no components."""
    longest = max((int(basis.positions.max(initial=0)) for basis, _, _ in probes), default=0) + 1
    w = np.zeros((len(probes), longest, d), np.float32)
    mean, b = np.zeros_like(w), np.zeros(len(probes), np.float32)
    for lane, (basis, weights, bias) in enumerate(probes):
        count, _, c = basis.vectors.shape
        cut = weights[: count * c].reshape(count, c)
        w[lane, basis.positions] = np.einsum("pdc,pc->pd", basis.vectors, cut)
        mean[lane, basis.positions] = basis.mean
        b[lane] = bias
    return {"w": w, "mean": mean, "b": b}


def components_of(
    tokens: Tokens, prompts: Int[np.ndarray, " n"], components: int, first: int
) -> Basis:
    """Returns the components of every position, from `first` on, that a prompt reaches."""
    longest = int(tokens.counts[prompts].max(initial=0))
    positions = np.arange(first, longest)
    shape = (len(positions), tokens.d_model)
    mean, vectors = np.zeros(shape, np.float32), np.zeros((*shape, components), np.float32)
    for i, position in enumerate(positions):
        x, there = _at(tokens, prompts, position)
        mean[i], vectors[i] = _components(x, there, components)
    return Basis(positions, mean, vectors)


def project(
    tokens: Tokens, prompts: Int[np.ndarray, " n"], basis: Basis
) -> Float[np.ndarray, "n w"]:
    """Returns the components of prompts, position after position; 0 where a prompt has ended."""
    count, _, c = basis.vectors.shape
    width = -(-max(count * c, 1) // _MULTIPLE) * _MULTIPLE
    found = np.zeros((len(prompts), width), np.float32)
    for i, position in enumerate(basis.positions):
        x, there = _at(tokens, prompts, position)
        z = (x - basis.mean[i]) @ basis.vectors[i]
        found[:, i * c : (i + 1) * c] = np.where(there[:, None], z, 0)
    return found


def _at(tokens: Tokens, prompts, position) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens at a position, 0 for prompts that have none, and which have one."""
    there = tokens.counts[prompts] > position
    x = np.zeros((len(prompts), tokens.d_model), np.float32)
    x[there] = tokens.x[tokens.starts[prompts[there]] + position]
    return x, there


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

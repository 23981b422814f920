"""Attention whose convex half is solved: queries by Adam, then values by Newton's method.

Given the queries, a prompt is the attention-weighted mean of its tokens, one per head, and the
values are an L2 logistic regression on these. That half is convex: it is solved to its optimum, and
its strength C is chosen on the folds, as `logreg` does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax.activations import ragged
from probejax.activations.ragged import Activations
from probejax.probes import attention, given, scores
from probejax.probes import tiles as layout
from probejax.probes.families import Pooled
from probejax.probes.logreg import DEFAULT_C, STRENGTHS
from probejax.probes.rows import Rows
from probejax.probes.tiles import Form
from probejax.solvers import codes, l2

_TOGETHER = 8  # tiles on the device at a time


def fit(
    tokens: Activations,
    rows: Rows,
    protocol: scores.Protocol = "paper",
    *,
    heads: int = 1,
    bos: bool = True,
    steps: int = 1000,
) -> scores.Fit:
    """Fits one probe per lane.

    Under `paper` the queries of a lane come from the study's rule for its attention probe, so they
    have seen the rows that choose C. Under `strict` every fold has queries of its own.

    Args:
      tokens: of all prompts that `rows` means.
      rows: the lanes.
      protocol: whose rules.
      heads: of attention.
      bos: whether the first token counts.
      steps: of Adam.

    Returns:
      Scores with C as hyperparameter and the certificate of the convex half; and attention probes,
      whose score vectors are the queries of all heads, then the values.

    Raises:
      ValueError: the tokens or the rows will not do, see `given.tokens_of`.
    """
    rows = given.tokens_of(tokens, rows, protocol)
    tokens = tokens if bos else ragged.without_bos(tokens)
    design = attention.attention(heads)._replace(steps=steps)
    found = attention.search(tokens, rows, protocol, design)
    folds = scores.folds(rows, protocol)
    query = found.final.w[:, :heads]
    of_folds = query[folds.lane]
    if protocol == "strict":
        masks = (folds.train, np.zeros_like(folds.val), found.step[folds.lane])
        tried = [found.tried[lane] for lane in folds.lane]
        of_folds = attention.train(tokens, rows, design, folds.lane, tried, masks).w[:, :heads]
    train, mask, y = rows.train, rows.train_mask, rows.y_train

    def path(folds):
        found = []
        for fold, lane in enumerate(folds.lane):
            z = _pooled(tokens, train[lane], mask[lane], of_folds[fold])
            z = z - z[folds.train[fold]].mean(axis=0)
            path = _solved(l2.solve_path, z, folds.train[fold], y[lane], STRENGTHS)
            found.append(np.einsum("nd,pd->pn", z, path.w[0]) + path.b[0][:, None])
        return np.stack(found).astype(np.float32)

    def refit(C):
        value, b = np.zeros_like(query), np.zeros(len(query), np.float32)
        gap, code = np.full(len(query), np.nan), attention.codes_of(rows, found.final)
        for lane in np.flatnonzero(code == codes.CONVERGED):
            z = _pooled(tokens, train[lane], mask[lane], query[lane])
            mean = z[mask[lane]].mean(axis=0)
            one = _solved(l2.solve, z - mean, mask[lane], y[lane], C[lane : lane + 1])
            value[lane] = one.w[0].reshape(value[lane].shape)
            b[lane] = one.b[0] - one.w[0] @ mean
            gap[lane], code[lane] = one.gap[0], one.code[0]
        w = np.concatenate([query, value], axis=1)
        return Pooled(w, b, np.zeros(len(w)), "attention", bos), gap, code

    return scores.search_and_refit(tokens, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def _solved(solve, z, mask, y, C):
    """Solves one problem on its own features."""
    return jax.tree.map(np.asarray, solve(z, np.arange(len(z))[None], mask[None], y[None], C))


def _pooled(tokens: Activations, prompts, mask, query) -> np.ndarray:
    """Returns the pooled prompts of the mask [n, heads * d], 0 elsewhere."""
    found = np.zeros((len(prompts), query.size), np.float32)
    found[mask] = pool(tokens, prompts[mask], query)
    return found


def pool(
    tokens: Activations, prompts: Int[np.ndarray, " m"], query: Float[np.ndarray, "heads d"]
) -> Float[np.ndarray, "m heads*d"]:
    """Returns the means of prompts' tokens, weighted by the softmax of each query's scores."""
    plan = layout.tile(tokens, prompts)
    found = np.zeros((len(prompts), query.size), np.float32)
    for start in range(0, len(plan.kind), _TOGETHER):
        some = np.arange(start, start + _TOGETHER) % len(plan.kind)  # spare ones repeat
        part = plan._replace(**{name: getattr(plan, name)[some] for name in plan._fields[1:]})
        z = _pool(layout.read(tokens, part), part.real, part.kind, query, plan.form)
        tile, row = np.nonzero(part.prompts >= 0)
        found[part.prompts[tile, row]] = np.asarray(z)[tile, row]
    return found


@functools.partial(jax.jit, static_argnames="form")
def _pool(x, real, kind, query, form: Form) -> Float[Array, "tiles most w"]:
    def rows(x, real):
        scores = jnp.einsum("rtd,hd->rth", x, query, precision="highest")
        scores = jnp.where(layout.first_is_real(real)[:, :, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=1)
        z = jnp.einsum("rth,rtd->rhd", weights, x, precision="highest")
        return layout.padded(z.reshape(len(z), -1), form)

    one = lambda tile: layout.by_row(form, tile[2], rows, tile[0].astype(jnp.float32), tile[1])
    return jax.lax.map(one, (x, real, kind))

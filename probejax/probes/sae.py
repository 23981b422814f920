"""L1 logistic regression on the k latents of an SAE whose class means differ most."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probejax.probes import scores
from probejax.probes.logreg import DEFAULT_C, STRENGTHS
from probejax.probes.rows import Rows
from probejax.saes.sae import SAE
from probejax.saes.select import Ranking, encode_columns, top_latents
from probejax.solvers import l1


class Selection(NamedTuple):
    """The latents that each lane may use.

    Attributes:
      values: [N, M], every latent that any lane chose, for every row of the feature matrix.
      columns: [L, k], which columns of `values` each lane uses, best first.
      latents: [L, k], their indices in the SAE.
    """

    values: Float[Array, "N M"]
    columns: Int[np.ndarray, "L k"]
    latents: Int[np.ndarray, "L k"]


def select(
    features: Float[Array, "N d_model"], rows: Rows, sae: SAE, k: int, ranking: Ranking
) -> Selection:
    """Ranks latents on each lane's training rows and encodes only the chosen ones.

    Args:
      features: raw activations, shared by all lanes.
      rows: the lanes.
      sae: the dictionary.
      k: latents per lane; a smaller k is a prefix of a larger one.
      ranking: how to rank, see `saes.select.top_latents`.
    """
    x = jnp.asarray(features)
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    latents = top_latents(sae, x, train, mask, y, k, ranking=ranking)
    union, columns = np.unique(latents, return_inverse=True)
    return Selection(
        encode_columns(sae, x, _padded(union)), columns.reshape(latents.shape), latents
    )


def _padded(union: np.ndarray) -> np.ndarray:
    """Repeats the last latent up to a power of two, so that few shapes compile."""
    width = 1 << (len(union) - 1).bit_length()
    return np.pad(union, (0, width - len(union)), mode="edge")


def fit(selection: Selection, rows: Rows, k: int) -> scores.Scores:
    """Fits one probe per lane on its first k latents.

    Minimises |w|_1 + C sum_i log(1 + exp(-t_i (z_i.w + b))), the intercept free; search and refit
    as in `logreg`.

    Args:
      selection: the latents of each lane, at least k.
      rows: the lanes.
      k: latents per probe.

    Raises:
      ValueError: the selection holds fewer than k latents.
    """
    if k > selection.columns.shape[1]:
        raise ValueError(f"k={k}, but only {selection.columns.shape[1]} latents were selected.")
    values, columns = selection.values, selection.columns[:, :k]
    train, mask, y = map(jnp.asarray, (rows.train, rows.train_mask, rows.y_train))
    folds = scores.folds(rows)
    z = _gather(values, train, columns)
    fitted = jnp.asarray(folds.train)
    path = l1.solve_path(z[folds.lane], fitted, y[folds.lane], jnp.asarray(STRENGTHS))
    on_train = jnp.einsum("qnk,qpk->qpn", z[folds.lane], path.w, precision="highest")
    val_auc, best = scores.choose(on_train + path.b[:, :, None], folds, rows, default=0)
    searched = np.asarray(rows.fold_mask).any(axis=1)
    C = np.where(searched, STRENGTHS[best], DEFAULT_C)
    final = l1.solve(z, mask, y, jnp.asarray(C))
    test = scores.evaluate(
        _predict(values, np.asarray(rows.test), columns, final.w, final.b),
        rows.y_test,
        rows.test_mask,
    )
    alone = scores.evaluate(_predict(values, train, columns, final.w, final.b), y, mask)
    val_auc = np.where(searched, val_auc, alone[0])
    test_auc, test_acc, test_f1 = (np.asarray(metric) for metric in test)
    gap, code = np.asarray(final.gap), np.asarray(final.code)
    return scores.Scores(val_auc, test_auc, test_acc, test_f1, C, gap, code)


@jax.jit
def _gather(values, rows, columns):
    """Returns the latents [L, n, k] of each lane's rows."""
    return values[rows[:, :, None], columns[:, None, :]]


@jax.jit
def _predict(values, rows, columns, w, b):
    """Returns the logits [L, m] of each lane's rows."""
    lanes = jnp.arange(len(w))[:, None]
    dense = jnp.zeros((len(w), values.shape[1]), values.dtype).at[lanes, columns].add(w)
    every = jnp.einsum("nm,lm->ln", values, dense, precision="highest") + b[:, None]
    return jnp.take_along_axis(every, rows, axis=1)

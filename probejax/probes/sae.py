"""L1 logistic regression on the k latents of an SAE whose class means differ most."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from probejax import devices
from probejax.probes import given, scores
from probejax.probes.families import OnLatents
from probejax.probes.families.on_latents import Latents
from probejax.probes.logreg import DEFAULT_C, STRENGTHS
from probejax.probes.rows import Rows
from probejax.saes.select import Ranking, encode_columns, top_latents
from probejax.saes.stream import Dictionary
from probejax.solvers import l1


class Selection(NamedTuple):
    """The latents that each fit may use.

    Attributes:
      values: [N, M], every latent that any fit chose, for every row of the feature matrix.
      columns: [L, k], which columns of `values` each lane's final fit uses, best first.
      fold_columns: [Q, k], those of each fold in `scores.folds`.
      latents: [L, k], the indices of `columns` in the SAE.
      sae: whose they are.
      pooling: how they were pooled over the tokens of a prompt; "" for those of the last token.
      bos: whether the first token counted in that.
    """

    values: Float[np.ndarray, "N M"]
    columns: Int[np.ndarray, "L k"]
    fold_columns: Int[np.ndarray, "Q k"]
    latents: Int[np.ndarray, "L k"]
    sae: Any = None
    pooling: str = ""
    bos: bool = False


def select(
    features: Float[Array | np.ndarray, "N d_model"],
    rows: Rows,
    sae: Dictionary,
    k: int,
    ranking: Ranking,
    protocol: scores.Protocol = "paper",
) -> Selection:
    """Ranks latents on training rows and encodes only the chosen ones.

    Args:
      features: raw activations, shared by all lanes.
      rows: the lanes.
      sae: the dictionary.
      k: latents per fit; a smaller k is a prefix of a larger one.
      ranking: how to rank, see `saes.select.top_latents`.
      protocol: `paper` ranks on all training rows of a lane, validation rows among them; `strict`
        ranks for every fold on that fold's own.

    Raises:
      ValueError: the features or the rows will not do, see `given.features_of`.
    """
    rows = given.features_of(features, rows, protocol)
    x = np.asarray(features)
    places = devices.own()  # each streams a part of the width
    rank = lambda train, mask, y: top_latents(
        sae, x, train, mask, y, k, ranking=ranking, devices=places
    )
    columns = lambda latents: encode_columns(sae, x, latents, devices=places)
    return select_by(rank, columns, rows, sae, protocol)


def select_by(
    rank: Callable[..., Int[np.ndarray, "S k"]],
    columns: Callable[[Int[np.ndarray, " M"]], Float[Array | np.ndarray, "N M"]],
    rows: Rows,
    sae: Dictionary | None = None,
    protocol: scores.Protocol = "paper",
) -> Selection:
    """Selects with rankings and values from anywhere, such as latents pooled over tokens.

    Args:
      rank: given training rows, mask and labels, each [S, n], returns the best latents of each set.
      columns: given latents in rising order, returns their values.
      rows: the lanes.
      sae: whose the latents are.
      protocol: as for `select`.

    Raises:
      ValueError: a label is neither 0 nor 1, see `given.rows_of`.
    """
    rows = given.rows_of(rows, 2**31, protocol)
    train, mask, y = np.asarray(rows.train), np.asarray(rows.train_mask), np.asarray(rows.y_train)
    folds = scores.folds(rows, protocol)
    lane = np.arange(len(train))
    if protocol == "strict":
        lane, mask = np.append(lane, folds.lane), np.concatenate([mask, folds.seen])
    latents = rank(train[lane], mask, y[lane])
    union, places = np.unique(latents, return_inverse=True)
    places = places.reshape(latents.shape)
    final = len(train)
    of_folds = places[final:] if protocol == "strict" else places[folds.lane]
    values = np.asarray(columns(union))
    return Selection(values, places[:final], of_folds, latents[:final], sae)


def fit(
    selection: Selection,
    rows: Rows,
    k: int,
    *,
    binarised: bool = False,
    protocol: scores.Protocol = "paper",
) -> scores.Fit:
    """Fits one probe per lane on its first k latents.

    Minimises |w|_1 + C sum_i log(1 + exp(-t_i (z_i.w + b))), the intercept free; search and refit
    as in `logreg`.

    Args:
      selection: the latents of each lane, at least k, chosen under the same protocol.
      rows: the lanes.
      k: latents per probe.
      binarised: whether a latent counts as 1 above 1 and as 0 otherwise, as the study has it.
      protocol: whose rules.

    Raises:
      ValueError: the selection holds fewer than k latents, or is of other lanes; or its values or
        the rows will not do, see `given.features_of`.
    """
    if not 1 <= k <= selection.columns.shape[1]:
        raise ValueError(f"k={k}, but only {selection.columns.shape[1]} latents were selected.")
    rows = given.features_of(selection.values, rows, protocol, "selected latents")
    folds = scores.folds(rows, protocol)
    chosen = (len(selection.columns), len(selection.fold_columns))
    if chosen != (len(rows.train), len(folds.lane)):
        raise ValueError(
            f"the latents were selected for {chosen[0]} lanes with {chosen[1]} folds, and these "
            f"rows are {len(rows.train)} lanes with {len(folds.lane)}: select them for these."
        )
    train, mask, y = rows.train, rows.train_mask, rows.y_train
    columns, latents = selection.columns[:, :k], selection.latents[:, :k]
    how = {"pooling": selection.pooling, "bos": selection.bos, "binarised": binarised}
    zeros = np.zeros(latents.shape, np.float32)
    probe = OnLatents(zeros, zeros[:, 0], latents, selection.sae, **how)
    values = probe.counted(selection.values)

    def path(folds):
        z = _gather(values, train[folds.lane], selection.fold_columns[:, :k])
        found = l1.solve_path(z, folds.train, y[folds.lane], STRENGTHS)
        ranks = [z @ np.swapaxes(w, 0, 1) for z, w in zip(z, found.w.astype(float), strict=True)]
        return np.swapaxes(ranks, 1, 2).astype(np.float32)  # the intercept changes none

    def refit(C):
        found = l1.solve(_gather(values, train, columns), mask, y, C)
        w, b = np.asarray(found.w), np.asarray(found.b)
        return dataclasses.replace(probe, w=w, b=b), found.gap, found.code

    source = Latents(values, columns)
    return scores.search_and_refit(source, rows, protocol, STRENGTHS, path, refit, DEFAULT_C)


def _gather(values, rows, columns):
    """Returns the latents [L, n, k] of each lane's rows."""
    return values[rows[:, :, None], columns[:, None, :]]

"""Shortcuts: what tells the classes apart though nothing of the text was understood."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.folds import Fold
from probejax.auditing.latents import Latents
from probejax.auditing.surface import Family, families
from probejax.auditing.tokens import Tokens
from probejax.metrics import host_auc, host_aucs

_SHOWN = 30  # features of a family in the table
NAMED = 20  # shortcuts that are compared
CERTAIN = 0.8  # AUC at which a latent is about a feature
_ENOUGH = 1e-2  # a tenth of the time of 1e-4, and AUCs move by less than 0.001
_DRAWS = 199  # permutations for the bound of what a feature reaches by chance: of 8 families, 4 %


_HOW = (
    "Features of how a text is written are probes by themselves: L1 logistic regression (C = 1) on "
    "each family, judged on prompts that it has not seen. A feature is beyond chance where its own "
    f"AUC is farther from one half than that of any feature of its family for {_DRAWS} "
    "permutations of the labels. Whether it is a shortcut or what the task is about, a reader must "
    f"say. The second table asks whether a latent is about a feature (AUC of at least {CERTAIN} "
    "either way, among those that tell the classes apart), and whether the probe's direction on "
    "single tokens names it."
)


class Scored(NamedTuple):
    """How well the features of a family tell the classes apart, alone and together."""

    family: Family
    auc: float
    permuted_auc: float
    alone: Float[np.ndarray, " f"]
    bound: float
    by_chance: int  # features beyond that with labels permuted
    weights: Float[np.ndarray, " f"]


def shortcuts(
    data: Dataset, latents: Latents | None = None, tokens: Tokens | None = None, *, seed: int = 0
) -> Finding:
    """Finds features of how the texts are written that tell the classes apart.

    Args:
      data: the dataset, with texts.
      latents: the latents that tell the classes apart, to see which of them is about a feature.
      tokens: the tokens on which the probe's direction is largest, to see the same.
      seed: of the folds and permutations.
    """
    assert data.texts is not None, "there are texts"
    shuffled = data.permuted(seed)
    labels = data.labellings(_DRAWS, seed).T
    judged = [(y, data.folds(y, 1, seed)) for y in (data.y, shuffled)]
    found = [family for family in families(data.texts) if family.x.shape[1]]
    if not found:
        note = "The texts have no feature of the writing that is looked at."
        return Finding("shortcuts", "Shortcuts", _HOW, (), (), (note,))
    scored = [_score(family, labels, judged) for family in found]
    every = sparse.hstack([family.x for family in found]).tocsr()
    together = [_out_of_fold(every, y, cuts) for y, cuts in judged]
    table = _table(data, scored)
    claimed = table[table["beyond_chance"]]
    claims = [
        Claim(f"AUC of {each.family.name} alone", each.auc, each.permuted_auc) for each in scored
    ]
    claims.append(Claim("AUC of all features of the writing together", together[0], together[1]))
    chance = float(sum(each.by_chance for each in scored))
    claims.append(Claim("features beyond chance", float(len(claimed)), chance, 0))
    return Finding(
        "shortcuts",
        "Shortcuts",
        _HOW,
        tuple(claims),
        (
            Table("shortcuts", "Features, the strongest first", table),
            Table("shortcuts_found_by", "Which way finds which",
                  _found_by(data, claimed, scored, latents, tokens)),
        ),
        (f"{len(claimed):,} features of {len(table):,} listed are beyond chance.",),
    )  # fmt: skip


def _score(family: Family, labels, judged) -> Scored:
    if family.binary:
        rates = family.x.T @ labels / labels.sum(axis=0)
        rest = family.x.T @ (1 - labels) / (1 - labels).sum(axis=0)
        alone = 0.5 + (rates - rest) / 2
    else:
        alone = host_aucs(family.x.toarray(), labels)
    away = np.abs(alone - 0.5)
    bound = away[:, 1:].max()
    by_chance = int((away[:, 1] > away[:, 2:].max()).sum())
    own, chance = (_out_of_fold(family.x, y, cuts) for y, cuts in judged)
    weights = _fit(family.x, labels[:, 0]).coef_[0]
    return Scored(family, own, chance, alone[:, 0], float(bound), by_chance, weights)


def _out_of_fold(x: Any, y: Int[np.ndarray, " n"], cuts: list[Fold]) -> float:
    logits = np.zeros(len(y))
    for cut in cuts:
        logits[cut.test] = _fit(x[cut.train], y[cut.train]).decision_function(x[cut.test])
    return host_auc(logits, y)


def _fit(x, y) -> LogisticRegression:
    how = {"solver": "liblinear", "tol": _ENOUGH, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where features are of other sizes
        return LogisticRegression(l1_ratio=1.0, **how).fit(x, y)


def _table(data: Dataset, scored: list[Scored]) -> pd.DataFrame:
    parts = []
    for each in scored:
        apart = np.abs(each.alone - 0.5)
        first = np.argsort(-apart, kind="stable")[:_SHOWN]
        x, y = each.family.x[:, first], data.y
        part = pd.DataFrame(
            {
                "feature": [each.family.names[i] for i in first],
                "family": each.family.name,
                "auc": each.alone[first],
                "weight": each.weights[first],
                **{f"in_{name}": _share(x[y == label]) for label, name in enumerate(data.classes)},
                "by_chance": 0.5 + each.bound,
                "beyond_chance": apart[first] > each.bound,
            }
        )
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    order = np.argsort(-(table["auc"] - 0.5).abs().to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _share(x) -> Float[np.ndarray, " f"]:
    return np.asarray((x > 0).sum(axis=0)).ravel() / x.shape[0]


def _found_by(data, claimed: pd.DataFrame, scored, latents, tokens) -> pd.DataFrame:
    """Returns the strongest features, and which latent and which tokens name them."""
    columns = ["shortcut", "auc", "features"]
    columns += ["latent"] if latents is not None else []
    columns += ["tokens"] if tokens is not None else []
    rows = []
    for feature, family, own in claimed[["feature", "family", "auc"]].head(NAMED).to_numpy():
        each = next(s.family for s in scored if s.family.name == family)
        place = each.names.index(feature)
        row = {"shortcut": feature, "auc": float(own), "features": "yes"}
        if latents is not None:
            row["latent"] = _latent(latents, each.x[:, [place]].toarray()[:, 0])
        if tokens is not None:
            row["tokens"] = tokens.naming(each.marks[place])
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def _latent(latents: Latents, feature: Float[np.ndarray, " n"]) -> str:
    """Returns the latent that tells best whether a text has a feature, if any does."""
    middle = 0 if np.isin(feature, (0, 1)).all() else np.median(feature)
    has = (feature > middle).astype(int)
    told = host_aucs(latents.values, has[:, None])[:, 0]
    if np.isnan(told).all() or np.abs(told - 0.5).max() < CERTAIN - 0.5:
        return ""
    at = int(np.argmax(np.abs(told - 0.5)))
    return f"{latents.numbers[at]} (AUC {told[at]:.2f})"

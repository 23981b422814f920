"""Rows whose label is likely wrong: what probes that have not seen them think of it."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.firing import firing
from probejax.auditing.neighbours import NEIGHBOURS, share_alike
from probejax.auditing.out_of_fold import Judged

LOOKED = 1000  # rows whose neighbours and latents are told


def suspect_labels(data: Dataset, judged: list[Judged], *, seed: int = 0) -> Finding:
    """Finds labels that out-of-fold probabilities contradict.

    Args:
      data: the dataset.
      judged: what each method says of every row, see `judge`.
      seed: of the permutation.

    Returns:
      The finding. Its table `suspect_labels` has every row of the dataset, the most suspect first;
      `cleaned` those that not all methods call wrong, by their numbers and in their own order.

    Raises:
      ValueError: cleanlab is not installed.
    """
    shuffled = data.permuted(seed)
    wrong = np.array([issues(data.y, each.probability) for each in judged])
    by_chance = np.array([issues(shuffled, each.permuted) for each in judged])
    confident = {f"p_{each.method}": confidence(data.y, each.probability) for each in judged}
    order = np.argsort(np.mean(list(confident.values()), axis=0), kind="stable")
    table = _table(data, judged, confident, wrong).iloc[order].reset_index(drop=True)
    claims = [
        Claim(f"AUC of {each.method} on rows it has not seen", each.auc, each.permuted_auc)
        for each in judged
    ]
    claims += [
        Claim(f"labels that {each.method} calls wrong", mine.sum(), chance.sum(), 0)
        for each, mine, chance in zip(judged, wrong, by_chance, strict=True)
    ]
    every, chance = wrong.all(axis=0), by_chance.all(axis=0)
    if len(judged) > 1:
        *some, last = (each.method for each in judged)
        text = f"labels that {', '.join(some)} and {last} agree are wrong"
        claims.append(Claim(text, every.sum(), chance.sum(), 0))
    first = order[:LOOKED]
    table.loc[: len(first) - 1, "neighbours_alike"] = share_alike(data, first)
    table.loc[: len(first) - 1, "latents"] = firing(data, first)
    cleaned = _cleaned(data, np.logical_not(every))
    who = "all methods call" if len(judged) > 1 else f"{judged[0].method} calls"
    notes = [
        f"cleaned.jsonl has {len(cleaned):,} of {len(data.y):,} rows: without the "
        f"{every.sum():,} that {who} wrong."
    ]
    if unconverged := sum(each.unconverged for each in judged):
        notes.append(f"{unconverged} fits did not reach their certificate.")
    if len(data.y) > LOOKED:
        notes.append(f"Neighbours and latents are told of the first {LOOKED:,} rows.")
    return Finding(
        "suspect_labels",
        "Suspect labels",
        "Each row is judged by probes that have not seen its prompt (five folds, repeated, equal "
        "prompts together). Confident learning estimates from these probabilities how many labels "
        "of each class are wrong, and calls so many wrong, the least probable first; rows are "
        "ranked by the mean probability of the label they have. With permuted labels a probe knows "
        "nothing, and what it then calls wrong is noise.",
        tuple(claims),
        (
            Table(
                "suspect_labels",
                "Rows, the most suspect first",
                table,
                f"Neighbours: share of the {NEIGHBOURS} nearest other prompts with the same label.",
            ),
            Table("cleaned", "", cleaned, ending="jsonl"),
        ),
        tuple(notes),
    )


def _cleaned(data: Dataset, kept: Bool[np.ndarray, " n"]) -> pd.DataFrame:
    known = {"row": np.arange(len(data.y)), "text": data.texts, "label": data.labels}
    known |= {"group": data.groups}
    whole = pd.DataFrame({name: column for name, column in known.items() if column is not None})
    return whole.iloc[np.flatnonzero(kept)]


def _table(
    data: Dataset, judged: list[Judged], confident: dict, wrong: Bool[np.ndarray, "m n"]
) -> pd.DataFrame:
    names = np.array([each.method for each in judged])
    return pd.DataFrame(
        {
            "row": np.arange(len(data.y)),
            "text": [data.text(row) for row in range(len(data.y))],
            "label": data.labels,
            **confident,
            "called_wrong_by": [" and ".join(names[column]) for column in wrong.T],
            "neighbours_alike": np.nan,
            "latents": "",
        }
    )


def confidence(
    y: Int[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns the probability of the label that each row has (cleanlab's self-confidence)."""
    return _cleanlab("rank").get_label_quality_scores(
        y, _both(probability), method="self_confidence"
    )


def issues(
    y: Int[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Tells which labels confident learning calls wrong (Northcutt et al. 2021, by cleanlab).

    Args:
      y: labels, 0 or 1.
      probability: of label 1, by a model that has not seen the row.
    """
    find = _cleanlab("filter").find_label_issues
    return np.asarray(find(y, _both(probability), filter_by="prune_by_noise_rate", n_jobs=1))


def _both(probability):
    return np.stack([1 - probability, probability], axis=1)


def _cleanlab(part: str) -> Any:
    try:
        return importlib.import_module(f"cleanlab.{part}")
    except ModuleNotFoundError:
        raise ValueError("an audit needs cleanlab: pip install 'probejax[audit]'") from None

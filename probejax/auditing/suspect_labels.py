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
from probejax.metrics import host_auc
from probejax.tasks.classes import in_order

LOOKED = 1000  # rows whose neighbours and latents are told
_SURE = 1.96  # standard errors
_NOISE = "labels permuted, as a probe that knows nothing calls more wrong"


def suspect_labels(data: Dataset, judged: list[Judged], *, seed: int = 0) -> Finding:
    """Finds labels that out-of-fold probabilities contradict.

    Args:
      data: the dataset.
      judged: what each method says of every row, see `judge`.
      seed: of the permutation.

    Returns:
      The finding. Its table `suspect_labels` has every row of the dataset, the most suspect first;
      `cleaned` those that not all methods call wrong which do better than chance, by their numbers
      and in their own order.

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
        Claim(f"labels that {each.method} calls wrong", mine.sum(), chance.sum(), 0, _NOISE)
        for each, mine, chance in zip(judged, wrong, by_chance, strict=True)
    ]
    if len(judged) > 1:
        *some, last = (each.method for each in judged)
        text = f"labels that {', '.join(some)} and {last} agree are wrong"
        both, noise = (float(each.all(axis=0).sum()) for each in (wrong, by_chance))
        claims.append(Claim(text, both, noise, 0, _NOISE))
    first = order[:LOOKED]
    table.loc[: len(first) - 1, "neighbours_alike"] = share_alike(data, first)
    table.loc[: len(first) - 1, "latents"] = firing(data, first)
    limit = chance_limit(data)
    first = _of_each_prompt(data)
    knows = np.array([host_auc(each.probability[first], data.y[first]) > limit for each in judged])
    every = wrong[knows].all(axis=0) & knows.any()
    cleaned = _cleaned(data, np.logical_not(every))
    who = " and ".join(each.method for each, known in zip(judged, knows, strict=True) if known)
    notes = [
        f"cleaned.jsonl has {len(cleaned):,} of {len(data.y):,} rows: without the "
        f"{every.sum():,} that {who} call{'s' * int(knows.sum() == 1)} wrong. Train on them, but "
        "report no test scores on them: what a probe finds hard is gone."
        if knows.any()
        else f"cleaned.jsonl has all {len(data.y):,} rows: an AUC of up to {limit:.2f} on rows not "
        "seen may be chance, no probe does better, and what such a one calls wrong is noise."
    ]
    if sorted(data.classes, key=in_order)[1] != data.classes[1]:
        notes.append(f"Read it with --positive='{data.classes[1]}', the class of label 1 here.")
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


def chance_limit(data: Dataset) -> float:
    """Returns what the AUC of a judge that knows nothing stays below, but in one case of forty.

    The spread is that of the rank statistic (Mann and Whitney 1947), with a prompt as one row.
    """
    first = _of_each_prompt(data)
    ones, n = max(1, int(data.y[first].sum())), len(first)
    return 0.5 + _SURE * float(np.sqrt((n + 1) / (12 * ones * max(1, n - ones))))


def _of_each_prompt(data: Dataset) -> Int[np.ndarray, " p"]:
    """Returns the first row of each prompt."""
    return np.unique(data.same, return_index=True)[1]


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

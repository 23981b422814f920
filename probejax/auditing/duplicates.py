"""Prompts that come again, equal or nearly so, and whether their labels agree."""

import numpy as np
import pandas as pd
from jaxtyping import Int

from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.near_texts import END, LIMIT, PIECE, Near, near

_COLUMNS = (
    *("cluster", "row", "most_like", "likeness"),
    *("label", "other_label", "conflict", "text", "other_text"),
)


def duplicates(data: Dataset, *, seed: int = 0) -> Finding:
    """Finds equal and nearly equal prompts.

    Args:
      data: the dataset; equal rows of activations are one prompt, too, and without texts no others
        are found.
      seed: of the hashes and the permutation.

    Raises:
      ValueError: datasketch is not installed.
    """
    _, first, unit = np.unique(data.same, return_index=True, return_inverse=True)
    prompts = len(first)
    found = Near(np.arange(prompts), np.full(prompts, -1), np.zeros(prompts))
    if data.texts is not None:
        found = near([data.texts[row] for row in first], seed)
    copies, similar = len(unit) - prompts, int((found.nearest >= 0).sum())
    torn = _minorities(unit, data.y)
    shuffled = np.random.RandomState(seed).permutation(data.y)  # of rows, not of prompts
    by_chance = _minorities(unit, shuffled)
    how = f"at least {LIMIT:.0%} of their {PIECE}-character pieces".replace("%", " %")
    counts = lambda text, own, chance: Claim(text, own, chance, 0, "labels of rows permuted")
    return Finding(
        "duplicates",
        "Duplicates and leaks",
        "Equal prompts, by text or by activations, and different ones that have "
        f"{how} in common, found by MinHash and then counted exactly (of texts longer than "
        f"{2 * END:,} characters in the first and the last {END:,}). A split that does not keep "
        "them together tests on what it was trained on. Each row stands beside the one that is "
        "most like it, and of equally like ones beside one of the other label; a cluster is what "
        "such likeness leads to, from one prompt to the next. How many there are does not depend "
        "on labels; how many copies of one prompt disagree does. Of two that do one is the "
        "minority.",
        (
            Claim("rows whose prompt stands above them already", copies, np.nan, 0, ""),
            Claim("different prompts that are nearly equal to another", similar, np.nan, 0, ""),
            counts("prompts that carry both labels", np.sum(torn > 0), np.sum(by_chance > 0)),
            counts("rows in the minority among the copies of their prompt",
                   torn.sum(), by_chance.sum()),
        ),
        (Table("duplicates", "Rows, those that conflict first", _table(data, unit, found)),),
        () if data.texts is not None else ("Without texts only equal activations are found.",),
    )  # fmt: skip


def _minorities(unit: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"]) -> Int[np.ndarray, " p"]:
    """Returns how many rows of each prompt have the label that fewer of them have."""
    return np.minimum(
        *(np.bincount(unit[y == label], minlength=unit.max() + 1) for label in (0, 1))
    )


def _table(data: Dataset, unit: Int[np.ndarray, " n"], found: Near) -> pd.DataFrame:
    """Returns a line for each row that has another like it."""
    rows_of = np.split(np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))[:-1])
    of_label = [[own[data.y[own] == label][:1] for label in (0, 1)] for own in rows_of]
    lines, names = [], data.labels
    for row, (prompt, label) in enumerate(zip(unit.tolist(), data.y.tolist(), strict=True)):
        again = len(rows_of[prompt]) > 1
        if not again and found.nearest[prompt] < 0:
            continue
        beside = prompt if again else int(found.nearest[prompt])
        own = rows_of[beside][:2]
        other, *_ = (*of_label[beside][1 - label].tolist(), *own[own != row].tolist())
        text, other_text = data.text(row), data.text(other)
        cluster, likeness = found.cluster[prompt], 1 if again else found.likeness[prompt]
        conflict = bool(data.y[other] != label)
        texts = text, other_text if other_text != text else ""
        lines.append((cluster, row, other, likeness, names[row], names[other], conflict, *texts))
    table = pd.DataFrame(lines, columns=list(_COLUMNS))
    table["cluster"] = pd.factorize(table["cluster"])[0]
    order = ["conflict", "likeness", "cluster"]
    return table.sort_values(
        order, ascending=[False, False, True], kind="stable", ignore_index=True
    )

"""The latents that tell the classes apart, and what makes each of them fire."""

import collections
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from probejax.analysis.examples import last_token
from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.permuted import PERMUTATIONS, ranked
from probejax.metrics import host_aucs
from probejax.saes.describe import describe

K = 20
_PROMPTS = 2  # of either class that are shown for a latent
_STRONGEST = 50  # rows whose ends are counted


class Latents(NamedTuple):
    """Latents whose class means differ most.

    Attributes:
      numbers: [k] of them in the SAE, best first.
      values: [n, k] their activations.
    """

    numbers: Int[np.ndarray, " k"]
    values: Float[np.ndarray, "n k"]


def latents(data: Dataset, *, seed: int = 0) -> tuple[Finding, Latents]:
    """Shows the latents whose class means differ most.

    Args:
      data: the dataset, which has an SAE.
      seed: of the permutations.
    """
    known = ranked(data, np.arange(len(data.y)), K, seed)
    best = [
        np.abs(host_aucs(known.values[:, columns], labels[:, None]) - 0.5).max() + 0.5
        for columns, labels in zip(known.columns, known.labels, strict=True)
    ]
    own = Latents(known.latents[0], known.values[:, known.columns[0]])
    return (
        Finding(
            "latents",
            "Latents that tell the classes apart",
            f"The {len(own.numbers)} latents whose class means differ most, relative to their "
            "mean where they fire, with the prompts on which they are largest: the end, its "
            "last word or mark in brackets, where the latent is read. Chance is "
            f"the mean over {PERMUTATIONS} permutations of the labels, latents ranked anew.",
            (
                Claim(
                    f"AUC of the best of {len(own.numbers)} latents",
                    best[0],
                    float(np.mean(best[1:])),
                ),
            ),
            (Table("latents", "Latents, by difference of class means", _table(data, own)),),
        ),
        own,
    )


def _table(data: Dataset, own: Latents) -> pd.DataFrame:
    cards = describe(own.values, data.y, own.numbers, data.page)
    table = pd.DataFrame({"latent": own.numbers})
    for label, name in enumerate(data.classes):
        table[f"mean_{name}"] = [card.mean[label] for card in cards]
        table[f"rate_{name}"] = [card.rate[label] for card in cards]
    table["auc"] = host_aucs(own.values, data.y[:, None])[:, 0]
    if data.texts is None:
        return table
    order = np.argsort(-own.values, axis=0, kind="stable")
    table["strongest_ends"] = [
        _ends([data.texts[i] for i in rows[:_STRONGEST] if z[i] > 0])
        for rows, z in zip(order.T, own.values.T, strict=True)
    ]
    for label, name in enumerate(data.classes):
        table[f"strongest_in_{name}"] = [
            " | ".join(_distinct(data.texts[i] for i in rows if z[i] > 0 and data.y[i] == label))
            for rows, z in zip(order.T, own.values.T, strict=True)
        ]
    if data.page:
        table["link"] = [card.link for card in cards]
    return table


def _ends(texts: list[str]) -> str:
    """Returns the commonest final characters: `'.' 80 %, ' ' 10 %`."""
    common = collections.Counter(text[-1:] for text in texts).most_common(3)
    return ", ".join(
        f"{end!r} {count / len(texts):.0%}".replace("%", " %") for end, count in common
    )


def _distinct(texts) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        found.setdefault(marked(text))
        if len(found) == _PROMPTS:
            break
    return list(found)


def marked(text: str) -> str:
    """Returns the end of a prompt, its last word or mark in brackets."""
    before, token = last_token(text)
    return f"{before}⟦{token}⟧" if token else before

"""The direction of logistic regression on single tokens of a corpus: what it is about.

A token that lies far out does so for many directions, of labels that mean nothing too. So its score
is measured against its own scores by directions of permuted labels, and it is beyond chance where
that is more than what the most extreme token of all has under all but one of the permutations.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from probejax.auditing.corpus import Corpus
from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.out_of_fold import direction

FEWEST = 10  # occurrences of a token
PERMUTATIONS = 39  # of the labels
_TINY = 1e-12
_PASS = 2  # of them may reach the bound, by their most extreme token: 2 / 40 is 5 %


class Tokens(NamedTuple):
    """Scores of tokens, the rows of a table: `token`, `score`, `beyond_chance`, ..."""

    table: pd.DataFrame

    def naming(self, mark: str) -> str:
        """Returns the tokens beyond chance that end with a mark, or are the word."""
        if not mark:
            return ""
        ends = self.table[self.table["beyond_chance"]]
        text = ends["token"].astype(str)
        own = text.str.strip().str.casefold() == mark.strip().casefold() if mark.strip() else False
        found = ends[own | (text.str.endswith(mark) if not mark.isalnum() else False)]
        return ", ".join(f"{t!r} {s:+.1f}" for t, s in found[["token", "score"]].to_numpy())


def tokens(data: Dataset, corpus: Corpus, *, seed: int = 0) -> tuple[Finding, Tokens]:
    """Scores every token of a corpus by the direction that tells the classes apart.

    Args:
      data: the dataset.
      corpus: of the same model and site.
      seed: of the permutations.
    """
    found = score(direction(data, data.labellings(PERMUTATIONS, seed), seed), corpus)
    table = found.table
    notes = [f"{len(corpus.ids):,} tokens: {corpus.about}; {len(table):,} different ones occur at "
             f"least {FEWEST} times."]  # fmt: skip
    if found.bos is not None:
        notes.append(f"BOS, left out, scores {found.bos:+.1f}.")
    widest = float(table["score"].abs().max()) if len(table) else np.nan
    beyond = float(table["beyond_chance"].sum())
    digits = 0 if found.by_chance.is_integer() else 1  # a mean over permutations
    return (
        Finding(
            "tokens",
            "The probe's direction on single tokens",
            "The weights of logistic regression on the last tokens of the dataset, multiplied with "
            "the activations of every token of other texts: the mean for each token (`mean`, in "
            "standard deviations over all tokens), and how many times what directions of permuted "
            f"labels give to the same token (`score`). High speaks for {data.classes[1]}, low for "
            f"{data.classes[0]}. Chance is the score that of {PERMUTATIONS} permutations only one "
            "exceeds with any token.",
            (
                Claim("largest score of a token, either way", widest, found.bound, 1),
                Claim("tokens beyond chance", beyond, found.by_chance, digits),
            ),
            (
                Table("tokens", "Tokens, from the highest to the lowest", table),
                Table("tokens_lowest", "The lowest", table[::-1].head(100)),
            ),
            tuple(notes),
        ),
        Tokens(table),
    )


class Scored(NamedTuple):
    """The scores of tokens by a direction, beside those by directions of permuted labels.

    Attributes:
      table: a row for each token that occurs often enough, from the highest score to the lowest.
      bound: a score past it, either way, is beyond chance.
      by_chance: tokens past it under a permutation, the mean over them.
      bos: the score of BOS, which is not in the table.
    """

    table: pd.DataFrame
    bound: float
    by_chance: float
    bos: float | None


def score(w: Float[np.ndarray, "q d"], corpus: Corpus) -> Scored:
    """Scores tokens.

    Args:
      w: the direction, and those of permuted labels.
      corpus: the tokens.
    """
    every = corpus.x @ w.T.astype(np.float32)  # [t, q]
    rest = every[corpus.ids != corpus.bos]
    if len(rest):
        every = (every - rest.mean(axis=0)) / np.maximum(rest.std(axis=0), _TINY)
    ids, place, counts = np.unique(corpus.ids, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place, weights=each, minlength=len(ids)) for each in every.T])
    means = sums / counts  # [q, tokens]
    squares = means[1:] ** 2
    scores = means[0] / np.sqrt(np.maximum(squares.mean(axis=0), _TINY))
    keep = (counts >= FEWEST) & (ids != corpus.bos)
    # Each permutation is measured against the others.
    others = (squares.sum(axis=0) - squares) / (len(squares) - 1)
    by_chance = np.sqrt(squares / np.maximum(others, _TINY))[:, keep]
    bound = float(np.sort(by_chance.max(axis=1, initial=0))[-_PASS])
    order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")]
    table = pd.DataFrame(
        {
            "token": [corpus.strings[int(ids[i])] for i in order],
            "score": scores[order],
            "beyond_chance": np.abs(scores[order]) > bound,
            "mean": means[0, order],
            "occurrences": counts[order],
        }
    )
    bos = scores[ids == corpus.bos]
    beyond = float((by_chance > bound).sum(axis=1).mean())
    return Scored(table, bound, beyond, float(bos[0]) if len(bos) else None)

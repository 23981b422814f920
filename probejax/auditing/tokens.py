"""The direction of logistic regression on single tokens of a corpus: what it is about."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from probejax.auditing.corpus import Corpus
from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.out_of_fold import direction, permutation

FEWEST = 10  # occurrences of a token
ENDS = 30  # tokens at either end of the list
LEAST = 1.0  # standard deviations of all tokens from their mean, at which a token names a mark


class Tokens(NamedTuple):
    """Mean scores of tokens, in standard deviations from the mean over all: rows of a table."""

    table: pd.DataFrame

    def naming(self, mark: str) -> str:
        """Returns the tokens far out on the list that end with a mark, or are the word."""
        if not mark:
            return ""
        ends = pd.concat([self.table.head(ENDS), self.table.tail(ENDS)]).drop_duplicates()
        text = ends["token"].astype(str)
        own = text.str.strip().str.casefold() == mark.strip().casefold() if mark.strip() else False
        same = own | (text.str.endswith(mark) if not mark.isalnum() else False)
        found = ends[same & (ends["score"].abs() >= LEAST)]
        return ", ".join(f"{t!r} {s:+.1f}" for t, s in found[["token", "score"]].to_numpy())


def tokens(data: Dataset, corpus: Corpus, *, seed: int = 0) -> tuple[Finding, Tokens]:
    """Scores every token of a corpus by the direction that tells the classes apart.

    Args:
      data: the dataset.
      corpus: of the same model and site.
      seed: of the permutation.
    """
    own, shuffled = direction(data, np.stack([data.y, permutation(data, seed)]), seed)
    table, bos = score(own, corpus)
    chance, _ = score(shuffled, corpus)
    widest = lambda scores: float(scores["score"].abs().max()) if len(scores) else np.nan
    notes = [f"{len(corpus.ids):,} tokens: {corpus.about}; {len(table):,} different ones occur at "
             f"least {FEWEST} times."]  # fmt: skip
    if bos is not None:
        notes.append(f"BOS, left out, scores {bos:+.1f}.")
    return (
        Finding(
            "tokens",
            "The probe's direction on single tokens",
            "The weights of logistic regression on the last tokens of the dataset, multiplied with "
            "the activations of every token of other texts: the mean for each token, in standard "
            f"deviations over all tokens. High speaks for {data.classes[1]}, low for "
            f"{data.classes[0]}. Chance is the direction of permuted labels.",
            (Claim("largest mean score of a token, either way", widest(table), widest(chance), 1),),
            (
                Table("tokens", "Tokens, from the highest to the lowest", table),
                Table("tokens_lowest", "The lowest", table[::-1].head(100)),
            ),
            tuple(notes),
        ),
        Tokens(table),
    )


def score(w: Float[np.ndarray, " d"], corpus: Corpus) -> tuple[pd.DataFrame, float | None]:
    """Returns the mean score of every token that occurs often enough, and that of BOS.

    Args:
      w: a direction.
      corpus: the tokens.
    """
    scores = corpus.x @ w.astype(np.float32)
    rest = corpus.ids != corpus.bos
    mean, spread = (scores[rest].mean(), scores[rest].std()) if rest.any() else (0.0, 1.0)
    scores = (scores - mean) / (spread if spread > 0 else 1)
    ids, place, counts = np.unique(corpus.ids, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=scores) / counts
    keep = (counts >= FEWEST) & (ids != corpus.bos)
    order = np.flatnonzero(keep)[np.argsort(-means[keep], kind="stable")]
    table = pd.DataFrame(
        {
            "token": [corpus.strings[int(ids[i])] for i in order],
            "score": means[order],
            "occurrences": counts[order],
        }
    )
    bos = means[ids == corpus.bos]
    return table, float(bos[0]) if len(bos) else None

"""How a text is written, as features: length, characters, case, digits, words; each with a name."""

import string
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

MOST_FEATURES = 20_000  # of a family
FEWEST = 5  # rows that have a feature
ENDS = 1000  # characters at the end of a text whose n-grams are read


class Family(NamedTuple):
    """Features of one kind.

    Attributes:
      name: of the family.
      x: [n, f] the features of every text, from 0 to 1 or 0 and 1.
      names: what each is called, such as `ends with '.'`.
      marks: the characters or the word that each is about; empty for counts of anything.
      binary: whether all are 0 or 1.
    """

    name: str
    x: Any
    names: tuple[str, ...]
    marks: tuple[str, ...]
    binary: bool = True


def families(texts: Sequence[str]) -> list[Family]:
    """Returns all families of features that some texts have."""
    found = [
        _numbers("length", texts, {
            "characters": len,
            "words": lambda text: len(text.split()),
            "characters per word": lambda text: len(text) / max(1, len(text.split())),
        }),
        _one_of("final character", "ends with", texts, lambda text: text[-1:]),
        _one_of("first character", "begins with", texts, lambda text: text[:1]),
        _numbers("punctuation", texts, {
            f"number of {mark!r}": lambda text, mark=mark: text.count(mark)
            for mark in string.punctuation
        }),
        _numbers("case", texts, {
            "share of capitals": lambda text: sum(map(str.isupper, text)) / max(1, len(text)),
            "words in capitals": lambda text: sum(w.isupper() for w in text.split()),
            "first letter is small": lambda text: float(text[:1].islower()),
        }),
        _numbers("digits", texts, {
            "number of digits": lambda text: sum(map(str.isdigit, text)),
        }),
        _numbers("spaces", texts, {
            "leading spaces": lambda text: len(text) - len(text.lstrip()),
            "trailing spaces": lambda text: len(text) - len(text.rstrip()),
            "double spaces": lambda text: text.count("  "),
            "line breaks": lambda text: text.count("\n"),
        }),
        _counted("words", "has the word", texts, ngram_range=(1, 2), token_pattern=r"\b\w+\b"),
        _counted("character n-grams", "has the characters", [text[-ENDS:] for text in texts],
                 analyzer="char", lowercase=False, ngram_range=(1, 3)),
    ]  # fmt: skip
    return [family for family in found if len(family.names)]


def _numbers(name: str, texts, features: dict[str, Callable[[str], float]]) -> Family:
    """Features that are numbers, on a scale of logarithms up to 1; those of one value left out."""
    x = np.array([[of(text) for of in features.values()] for text in texts], float)
    x = np.log1p(x)
    keep = x.max(axis=0) > x.min(axis=0)
    names = tuple(np.array(list(features), dtype=object)[keep])
    marks = tuple(name.split("'")[1] if name.count("'") == 2 else "" for name in names)
    return Family(name, sparse.csr_matrix(x[:, keep] / x[:, keep].max(axis=0)), names, marks, False)


def _one_of(name: str, verb: str, texts, of: Callable[[str], str]) -> Family:
    own = np.array([of(text) for text in texts], dtype=object)
    values, counts = np.unique(own, return_counts=True)
    marks = tuple(value for value in values[counts >= FEWEST] if value)
    x = np.array([own == mark for mark in marks], float).reshape(len(marks), len(own)).T
    names = tuple(f"{verb} {mark!r}" for mark in marks)
    return Family(name, sparse.csr_matrix(x), names, marks)


def _counted(name: str, verb: str, texts, **how: Any) -> Family:
    counter = CountVectorizer(binary=True, min_df=FEWEST, max_features=MOST_FEATURES, **how)
    try:
        x = sparse.csr_matrix(counter.fit_transform(texts), dtype=float)
    except ValueError:  # no word is in enough texts
        return Family(name, sparse.csr_matrix((len(texts), 0)), (), ())
    marks = tuple(counter.get_feature_names_out().tolist())
    return Family(name, x, tuple(f"{verb} {mark!r}" for mark in marks), marks)

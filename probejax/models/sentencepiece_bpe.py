"""SentencePiece's byte-pair tokenizers, Gemma's and Llama's, from the header of a GGUF file."""

from collections.abc import Callable, Mapping

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from probejax.models.ggml_vocabulary import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    never_cut,
    numbered,
)

_SPACE = "▁"  # how SentencePiece spells a space


def gemma(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Returns Gemma's tokenizer, the same as in the file that Google publishes.

    Raises:
      ValueError: the vocabulary contradicts itself.
    """
    words = [spelled(token) for token in vocabulary.tokens]
    kinds, vocab = kinds_of_gemma(vocabulary), numbered(words)
    learned = [i for i, kind in enumerate(kinds) if kind == NORMAL]
    rank = dict(zip(learned, range(len(learned)), strict=True))
    # SentencePiece scores the tokens that training made 0, -1, -2, ... in the order of their ids,
    # and those that its users defined (runs of spaces, newlines and tabs, HTML tags) 0. The ids
    # alone would give another order, and other tokens from 32 spaces in a row on; the scores that
    # GGUF stores would too, for it gives all that are user-defined -1000.
    scores = {word: -float(rank.get(i, 0)) for word, i in vocab.items()}
    longest_first = lambda left, right: (-len(left), -len(right))
    merges = _merges(vocab, scores, longest_first)
    tokenizer = _tokenizer(vocab, merges, words[vocabulary.unknown()])
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    # No space is left to split at, but without this a Gemma tokenizer.json would not be the same.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(_to_text())
    never_cut(tokenizer, words, kinds)
    return tokenizer


def llama(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Returns a tokenizer as Llama 2, Mistral and TinyLlama have it.

    A space is put before a text, and before what follows a special token in it, as in Llama 2's
    tokenizer.json, unless the file says `add_space_prefix` false.

    Raises:
      ValueError: the vocabulary contradicts itself.
    """
    words, kinds, scores = vocabulary.tokens, vocabulary.kinds(), vocabulary.scores
    if len(scores) != len(words):
        raise ValueError(f"it has {len(words)} tokens and {len(scores)} scores")
    if vocabulary.remove_extra_whitespaces:
        raise ValueError("it takes spaces out of texts (remove_extra_whitespaces), as none known")
    vocab = numbered(words)
    learned = {word: scores[i] for word, i in vocab.items() if kinds[i] == NORMAL}
    merges = _merges(vocab, learned, lambda left, right: (vocab[left], vocab[right]))
    tokenizer = _tokenizer(vocab, merges, words[vocabulary.unknown()])
    spaces = normalizers.Replace(" ", _SPACE)
    if vocabulary.add_space_prefix is False:
        tokenizer.normalizer = spaces
        tokenizer.decoder = decoders.Sequence(_to_text())
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        tokenizer.decoder = decoders.Sequence([*_to_text(), decoders.Strip(" ", 1, 0)])
    never_cut(tokenizer, words, kinds, (CONTROL, UNKNOWN))
    return tokenizer


def _tokenizer(vocab: dict[str, int], merges: list, unknown: str) -> tokenizers.Tokenizer:
    how = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}
    return tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **how))


def _to_text() -> list:
    return [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def spelled(token: str) -> str:
    """GGUF spells Gemma's runs of spaces as they are, all other tokens with the space sign."""
    return _SPACE * len(token) if token and not token.strip(" ") else token


def kinds_of_gemma(vocabulary: Vocabulary) -> list[int]:
    """Returns the type of each of Gemma's tokens.

    A file that calls none user-defined is Ollama's, which calls those tokens normal and keeps
    SentencePiece's scores, by which they can be told: of the learned tokens, only the first has 0.
    """
    kinds, scores = vocabulary.kinds(), vocabulary.scores
    if USER_DEFINED in kinds or len(scores) != len(kinds):
        return kinds
    zero = [i for i, kind in enumerate(kinds) if kind == NORMAL and scores[i] == 0]
    for i in zero:
        if i + 1 == len(kinds) or scores[i + 1] != -1.0:
            kinds[i] = USER_DEFINED
    return kinds


def _merges(
    vocab: dict[str, int], scores: Mapping[str, float], among_equals: Callable[[str, str], tuple]
) -> list[tuple[str, str]]:
    """Returns every way to make a token of two, best first, as a tokenizer.json lists them.

    Args:
      vocab: the id of each token.
      scores: of those that may be made; the best merges first.
      among_equals: what decides between ways of the same score, the smallest first.
    """
    ways = [
        (-score, *among_equals(left, right), left, right)
        for word, score in scores.items()
        for cut in range(1, len(word))
        if (left := word[:cut]) in vocab and (right := word[cut:]) in vocab
    ]
    return [way[-2:] for way in sorted(ways, key=lambda way: way[:-2])]

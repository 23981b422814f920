"""Byte-level byte-pair tokenizers, as GPT-2 has them, from the header of a GGUF file."""

from collections.abc import Callable
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from probejax.models.ggml_vocabulary import UNUSED, Vocabulary, never_cut, numbered

_WORDS = (  # Llama 3's pattern, which Qwen's differs from in the digits that stand together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Kind(NamedTuple):
    """How a family cuts text into words before it merges their bytes.

    Attributes:
      split: makes what cuts.
      nfc: whether characters are composed first.
      whole_words: whether a word that is a token stays whole though no merges lead there.
    """

    split: Callable[[], PreTokenizer]
    nfc: bool = False
    whole_words: bool = False


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False)


def _digit_by_digit() -> PreTokenizer:
    return pre_tokenizers.Sequence([Digits(individual_digits=True), _gpt2()])


def _words(digits: str) -> Callable[[], PreTokenizer]:
    pattern = tokenizers.Regex(_WORDS.format(digits=digits))
    in_bytes = ByteLevel(add_prefix_space=False, use_regex=False)
    return lambda: pre_tokenizers.Sequence([Split(pattern, "isolated"), in_bytes])


_LLAMA_3 = Kind(_words("{1,3}"), whole_words=True)
_QWEN_2 = Kind(_words(""), nfc=True)
_NEOX = Kind(_gpt2, nfc=True)
KINDS = {  # by llama.cpp's names
    "gpt-2": Kind(_gpt2),
    "gpt2": Kind(_gpt2),
    "smollm": Kind(_digit_by_digit),
    "llama-bpe": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "llama3": _LLAMA_3,
    "qwen2": _QWEN_2,
    "deepseek-r1-qwen": _QWEN_2,
    "olmo": _NEOX,
    "mpt": _NEOX,
}
_OF_ARCHITECTURE = {"gpt2": "gpt-2", "gptneox": "olmo"}  # whose models have all the same tokenizer


def kind_of(vocabulary: Vocabulary, architecture: str | None) -> Kind:
    """Returns how the words of a vocabulary are cut.

    A file that names no kind, or llama.cpp's word for that, `default`, leaves it open, unless all
    models of its architecture have the same tokenizer.

    Raises:
      ValueError: the file names another kind, or none; the message is the middle of a sentence.
    """
    named = vocabulary.pre
    if named in (None, "", "default"):
        named = _OF_ARCHITECTURE.get(architecture or "", named)
    if named not in KINDS:
        raise ValueError(
            f"splits text in a way called {named!r} (tokenizer.ggml.pre), and known are "
            f"{', '.join(KINDS)}"
        )
    return KINDS[named]


def build(vocabulary: Vocabulary, kind: Kind) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a vocabulary.

    Args:
      vocabulary: with merges; the types of its tokens say which are never cut. Those that fill up
        the embedding are left out, as they stand in no published tokenizer.
      kind: how words are cut.

    Raises:
      ValueError: the vocabulary contradicts itself.
      Exception: a merge is of tokens that it has not; of the library's own class.
    """
    kinds = vocabulary.kinds()
    if not vocabulary.merges:
        raise ValueError("it has no merges")
    pairs = []
    for i, merge in enumerate(vocabulary.merges):
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise ValueError(f"its merge {i} is not two tokens: {merge!r}")
        pairs.append((left, right))
    vocab = numbered(vocabulary.tokens)
    vocab = {word: i for word, i in vocab.items() if kinds[i] != UNUSED}
    bpe = models.BPE(vocab=vocab, merges=pairs, ignore_merges=kind.whole_words)
    tokenizer = tokenizers.Tokenizer(bpe)
    if kind.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = kind.split()
    tokenizer.decoder = decoders.ByteLevel()
    never_cut(tokenizer, vocabulary.tokens, kinds)
    return tokenizer

"""The tokens that the header of a GGUF file lists, and what it says of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from probejax.foreign import DamagedFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types of GGUF
_PREFIX = "tokenizer.ggml."


class Vocabulary(msgspec.Struct):
    """What a header says of its tokenizer, after `tokenizer.ggml.`."""

    model: str | None = None
    pre: str | None = None
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool = False
    tokens: list[str] = []
    token_type: list[int] = []
    scores: list[float] = []
    merges: list[str] = []
    unknown_token_id: int | None = None
    bos_token_id: int | None = None
    add_bos_token: bool | None = None

    def kinds(self) -> list[int]:
        """Returns the type of each token.

        Raises:
          ValueError: there are more or fewer.
        """
        if len(self.token_type) != len(self.tokens):
            raise ValueError(
                f"it has {len(self.tokens)} tokens and {len(self.token_type)} token types"
            )
        return list(self.token_type)

    def unknown(self) -> int:
        """Returns the id of the token that stands for what the vocabulary cannot spell.

        Raises:
          ValueError: the header names none, or one that does not exist.
        """
        if self.unknown_token_id is None:
            if "<unk>" not in self.tokens:
                raise ValueError("it has neither unknown_token_id nor a token <unk>")
            return self.tokens.index("<unk>")
        if not 0 <= self.unknown_token_id < len(self.tokens):
            raise ValueError(
                f"its unknown_token_id is {self.unknown_token_id}, of {len(self.tokens)} tokens"
            )
        return self.unknown_token_id


def read(fields: Mapping[str, Any], path: str | Path) -> Vocabulary:
    """Returns what the fields of a header say of the tokenizer.

    Args:
      fields: of the header of a GGUF file, of the first if there are several.
      path: of that file, for messages.

    Raises:
      DamagedFile: a field has the wrong type, or there are no tokens.
    """
    own = {key.removeprefix(_PREFIX): x for key, x in fields.items() if key.startswith(_PREFIX)}
    try:
        found = msgspec.convert(own, Vocabulary)
    except msgspec.ValidationError as error:
        raise DamagedFile(
            f"The tokenizer of {path} is not valid among the keys {_PREFIX}*: {error}; download "
            "the file again."
        ) from error
    if found.model and not found.tokens:
        raise DamagedFile(f"The header of {path} has no {_PREFIX}tokens; is the file complete?")
    return found


def numbered(words: list[str]) -> dict[str, int]:
    """Returns the id of each token by its text.

    Raises:
      ValueError: two have the same text.
    """
    vocab = {word: i for i, word in enumerate(words)}
    if len(vocab) < len(words):
        raise ValueError(f"{len(words) - len(vocab)} of its tokens occur twice")
    return vocab


def never_cut(
    tokenizer: tokenizers.Tokenizer,
    words: list[str],
    kinds: list[int],
    special: tuple[int, ...] = (CONTROL,),
) -> None:
    """Tells a tokenizer which texts are one token wherever they stand: by the type of each."""
    typed = list(zip(words, kinds, strict=True))
    tokenizer.add_special_tokens([_whole(word) for word, kind in typed if kind in special])
    tokenizer.add_tokens([_whole(word) for word, kind in typed if kind == USER_DEFINED])


def _whole(token: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(token, normalized=False)

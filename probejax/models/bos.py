"""Whether BOS stands before each prompt: what a model's files say of it, and the rule of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import tokenizers

from probejax.foreign import read_json
from probejax.models.ggml_vocabulary import Vocabulary
from probejax.rules import BOS_RULES, NO_BOS, PREPENDED

GEMMA = "<bos>"
# Of Gemma, Llama 2 and Mistral, Llama 3, DeepSeek's distilled ones: their makers put it before
# every text. Where others name a BOS (GPT-2, Pythia, SmolLM2), it is a token of another use.
_USUAL = (GEMMA, "<s>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>")
_MOST = 1 << 24  # bytes of a tokenizer_config.json, which may list thousands of tokens


class Bos(NamedTuple):
    """What a model's files say of BOS.

    Attributes:
      token: its text; None if there is none.
      usual: whether it stands before every text that the model reads.
    """

    token: str | None
    usual: bool


def of_vocabulary(found: Vocabulary) -> Bos:
    """Returns what the header of a GGUF file says; where it is silent, the family's convention."""
    number = found.bos_token_id
    if number is not None and 0 <= number < len(found.tokens):
        token = found.tokens[number]
    else:
        token = next((each for each in _USUAL if each in set(found.tokens)), None)
    return _bos(token, found.add_bos_token)


class Added(msgspec.Struct):
    """A special token, where a file says more of it than its text."""

    content: str


class _Settings(msgspec.Struct):
    """The part of a tokenizer_config.json that is about BOS."""

    add_bos_token: bool | None = None
    bos_token: str | Added | msgspec.UnsetType | None = msgspec.UNSET


def of_folder(folder: Path, tokenizer: Callable[[], tokenizers.Tokenizer]) -> Bos:
    """Returns what the files of a folder say; where they are silent, the family's convention.

    First of all tokenizer_config.json is believed, then the tokenizer itself, which may put a token
    before what it reads. Where both name none, config.json may (GPT-2's does): a token that can be
    put before texts, and is not by convention.

    Args:
      folder: of a model.
      tokenizer: reads its tokenizer; called if tokenizer_config.json is silent.

    Raises:
      DamagedFile: tokenizer_config.json or config.json is.
    """
    path, said = folder / "tokenizer_config.json", _Settings()
    if path.exists():
        said = read_json(path, _Settings, "download it again", most=_MOST)
    named = said.bos_token
    token = named.content if isinstance(named, Added) else named or None
    if token in _USUAL or (named is not msgspec.UNSET and said.add_bos_token is not None):
        return _bos(token, said.add_bos_token)
    found = tokenizer()
    put = found.encode("a")
    front = put.tokens[0] if any(put.special_tokens_mask[:1]) else None
    if named is msgspec.UNSET:
        known = (each for each in _USUAL if found.token_to_id(each) is not None)
        token = front or next(known, None) or _of_config(folder, found)
    put_by_itself = front is not None and front == token
    return _bos(token, True if said.add_bos_token is None and put_by_itself else said.add_bos_token)


class _Config(msgspec.Struct):
    """The part of a config.json that is about BOS."""

    bos_token_id: int | list[int] | None = None


def _of_config(folder: Path, tokenizer: tokenizers.Tokenizer) -> str | None:
    """Returns the text of the token whose number config.json gives as BOS, None without one."""
    path = folder / "config.json"
    if not path.exists():
        return None
    number = read_json(path, _Config, "download it again", most=_MOST).bos_token_id
    if not isinstance(number, int) or not 0 <= number < tokenizer.get_vocab_size():
        return None
    return tokenizer.id_to_token(number)


def _bos(token: str | None, said: bool | None) -> Bos:
    if token == GEMMA:
        return Bos(token, True)
    return Bos(token, token in _USUAL if said is None else said)


def chosen(found: Bos, rule: str, model: str) -> str | None:
    """Returns the text of the token to put before each prompt; None puts none.

    Args:
      found: what the model's files say.
      rule: `auto` does as the model's convention has it, `always` and `never` what they say.
      model: its name, for messages.

    Raises:
      ValueError: there is no such rule, or no BOS token where one is wanted.
    """
    if rule not in BOS_RULES:
        raise ValueError(f"--bos={rule} does not exist; choose from {', '.join(BOS_RULES)}.")
    wanted = found.usual if rule == "auto" else rule == "always"
    if wanted and found.token is None:
        raise ValueError(
            f"--bos={rule} puts BOS before each prompt, and the tokenizer of {model} has no BOS "
            "token; give --bos=never."
        )
    return found.token if wanted else None


def done(token: str | None) -> str:
    """Returns the word for what `chosen` decided, as it stands in results and in the cache."""
    return NO_BOS if token is None else PREPENDED

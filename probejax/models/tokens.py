"""Text to token ids: Gemma's tokenizer from a GGUF header or a folder, and the study's rule."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from probejax.foreign import DamagedFile, parsing, read_bytes
from probejax.models.gguf_header import parts, read_header

BOS = "<bos>"
_PREFIX = "tokenizer.ggml."
_SPACE = "▁"  # how SentencePiece spells a space
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types of GGUF
_MOST_BYTES = 1 << 28  # of a tokenizer.json; Gemma's has 33 million
_CHUNK = 256  # prompts per call
_CHARACTERS = 1 << 22  # per call: an encoding takes 70 bytes for each, of rare scripts 300


def tokenizer_from_gguf(path: str | Path) -> tokenizers.Tokenizer:
    """Rebuilds Gemma's byte-pair tokenizer from the header of a GGUF file, in a few seconds.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or holds another kind of tokenizer.
    """
    first = parts(Path(path))[0]  # of a model in several files, that has the tokenizer
    fields = read_header(first).fields
    own = {key.removeprefix(_PREFIX): x for key, x in fields.items() if key.startswith(_PREFIX)}
    try:
        found = msgspec.convert(own, _Fields)
    except msgspec.ValidationError as error:
        raise DamagedFile(
            f"The tokenizer of {path} is not valid among the keys {_PREFIX}*: {error}; download "
            "the file again."
        ) from error
    if found.model != "llama" or found.add_space_prefix:
        raise ValueError(
            f"{path} holds a {found.model!r} tokenizer (tokenizer.ggml.model) with "
            f"add_space_prefix={found.add_space_prefix}; Gemma's is 'llama' with False, and "
            "probejax knows no other: use a GGUF file of a Gemma 2 or Gemma 3 model."
        )
    if not found.tokens:
        raise DamagedFile(f"The header of {path} has no {_PREFIX}tokens; is the file complete?")
    with parsing(path, "download it again"):
        words = [_spelled(token) for token in found.tokens]
        return _gemma(words, _kinds(found), _unknown(found))


class _Fields(msgspec.Struct):
    """What a header says of its tokenizer, after `tokenizer.ggml.`."""

    model: str | None = None
    add_space_prefix: bool = False
    tokens: list[str] = []
    token_type: list[int] = []
    scores: list[float] = []
    unknown_token_id: int | None = None


def _kinds(fields: _Fields) -> list[int]:
    """Returns the type of each token.

    A file that calls none user-defined is Ollama's, which calls those tokens normal and keeps
    SentencePiece's scores, by which they can be told: of the learned tokens, only the first has 0.
    """
    if len(fields.token_type) != len(fields.tokens):
        raise ValueError(
            f"it has {len(fields.tokens)} tokens and {len(fields.token_type)} token types"
        )
    kinds = list(fields.token_type)
    if _USER_DEFINED in kinds or len(fields.scores) != len(kinds):
        return kinds
    zero = [i for i, kind in enumerate(kinds) if kind == _NORMAL and fields.scores[i] == 0]
    for i in zero:
        if i + 1 == len(kinds) or fields.scores[i + 1] != -1.0:
            kinds[i] = _USER_DEFINED
    return kinds


def _unknown(fields: _Fields) -> int:
    """Returns the id of the token that stands for what the vocabulary cannot spell."""
    if fields.unknown_token_id is None:
        if "<unk>" not in fields.tokens:
            raise ValueError("it has neither unknown_token_id nor a token <unk>")
        return fields.tokens.index("<unk>")
    if not 0 <= fields.unknown_token_id < len(fields.tokens):
        raise ValueError(
            f"its unknown_token_id is {fields.unknown_token_id}, of {len(fields.tokens)} tokens"
        )
    return fields.unknown_token_id


def _spelled(token: str) -> str:
    """GGUF spells runs of spaces as they are, all other tokens with the space sign."""
    return _SPACE * len(token) if token and not token.strip(" ") else token


def _gemma(words: list[str], kinds: list[int], unknown: int) -> tokenizers.Tokenizer:
    """Returns Gemma's tokenizer: the text of each id, its kind, and the id of `<unk>`."""
    vocab = {word: i for i, word in enumerate(words)}
    if len(vocab) < len(words):
        raise ValueError(f"{len(words) - len(vocab)} of its tokens occur twice")
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(vocab, kinds),
            unk_token=words[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    # No space is left to split at, but without this a Gemma tokenizer.json would not be the same.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    typed = list(zip(words, kinds, strict=True))
    tokenizer.add_special_tokens([_whole(word) for word, kind in typed if kind == _CONTROL])
    tokenizer.add_tokens([_whole(word) for word, kind in typed if kind == _USER_DEFINED])
    return tokenizer


def _merges(vocab: dict[str, int], kinds: list[int]) -> list[tuple[str, str]]:
    """Returns every way to make a token of two, best first: the list of Gemma's tokenizer.json.

    SentencePiece scores the tokens that training made 0, -1, -2, ... in the order of their ids, and
    those that its users defined (runs of spaces, newlines and tabs, HTML tags) 0. The best score
    merges first; where scores are equal, the longer left part, then the longer right one. The ids
    alone would give another order, and other tokens from 32 spaces in a row on; the scores that
    GGUF stores would too, for it gives all that are user-defined -1000.
    """
    learned = [i for i, kind in enumerate(kinds) if kind == _NORMAL]
    rank = dict(zip(learned, range(len(learned)), strict=True))
    ways = [
        (rank.get(i, 0), left, right)
        for word, i in vocab.items()
        for cut in range(1, len(word))
        if (left := word[:cut]) in vocab and (right := word[cut:]) in vocab
    ]
    ways.sort(key=lambda way: (way[0], -len(way[1]), -len(way[2])))
    return [(left, right) for _, left, right in ways]


def _whole(token: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(token, normalized=False)


def tokenizer_from_folder(path: str | Path) -> tokenizers.Tokenizer:
    """Reads `tokenizer.json`, or `tokenizer.model` (through transformers), of a model's folder.

    Raises:
      FileNotFoundError: the folder has neither.
      ValueError: the file is damaged, or transformers cannot read it.
    """
    path = Path(path)
    if (file := path / "tokenizer.json").is_file():
        with parsing(file, "download it again"):
            tokenizer = tokenizers.Tokenizer.from_buffer(read_bytes(file, _MOST_BYTES))
    elif (file := path / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(file)
    else:
        raise FileNotFoundError(
            f"{path} has neither tokenizer.json nor tokenizer.model; copy one of them there from "
            "the place the weights come from."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_sentencepiece(file: Path) -> tokenizers.Tokenizer:
    import transformers  # slow to import, and rarely needed

    try:
        return transformers.AutoTokenizer.from_pretrained(file.parent).backend_tokenizer
    except Exception as error:  # whatever its many converters raise
        raise ValueError(
            f"transformers cannot read {file} ({error}); put the model's tokenizer.json beside it."
        ) from error


def encode(
    tokenizer: tokenizers.Tokenizer,
    prompts: Sequence[str],
    max_length: int,
    bos_id: int | None = None,
) -> list[np.ndarray]:
    """Returns the token ids of each prompt: BOS, then its last `max_length - 1` tokens.

    The study's rule (docs/paper.md 1.1). The text of a special token counts as that token, as in
    transformers: a prompt that itself says `<bos>` holds it once more.

    Args:
      tokenizer: what it adds of its own accord (BOS, padding) is left out.
      prompts: texts; an empty one gives BOS alone.
      max_length: tokens kept, BOS included.
      bos_id: id of the BOS token; by default, that of `<bos>`.

    Returns:
      One int32 array [n_tokens] per prompt.

    Raises:
      ValueError: `max_length` is below 1, or the tokenizer has no `<bos>` and no id was given.
    """
    if max_length < 1:
        raise ValueError(
            f"max_length is {max_length}; expected at least 1 (BOS itself is a token)."
        )
    bos_id = tokenizer.token_to_id(BOS) if bos_id is None else bos_id
    if bos_id is None:
        raise ValueError(f"The tokenizer has no {BOS} token; give the id of its BOS as bos_id.")
    rows = []
    for chunk in _chunks(prompts):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            ids = encoding.ids
            rows.append(np.array([bos_id, *ids[max(len(ids) - max_length + 1, 0) :]], np.int32))
    return rows


def _chunks(prompts: Sequence[str]) -> Iterator[list[str]]:
    """Yields the prompts in their order; one that has too many characters alone stands alone."""
    chunk: list[str] = []
    size = 0
    for prompt in prompts:
        if chunk and (len(chunk) == _CHUNK or size + len(prompt) > _CHARACTERS):
            yield chunk
            chunk, size = [], 0
        chunk.append(prompt)
        size += len(prompt)
    if chunk:
        yield chunk

"""Text to token ids: a tokenizer from a GGUF header or a folder, and the study's rule."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from probejax.foreign import open_regular, parsing, read_bytes
from probejax.models import byte_bpe, ggml_vocabulary, sentencepiece_bpe
from probejax.models.bos import GEMMA as BOS
from probejax.models.gguf_header import parts, read_header

_FILES = (  # what may say how text is cut
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
_HEADER = 1 << 25  # bytes of a GGUF file, more than any header has
_MOST_BYTES = 1 << 28  # of a tokenizer.json; Gemma's has 33 million
_CHUNK = 256  # prompts per call
_CHARACTERS = 1 << 22  # per call: an encoding takes 70 bytes for each, of rare scripts 300


def tokenizer_from_gguf(path: str | Path) -> tokenizers.Tokenizer:
    """Rebuilds a byte-pair tokenizer from the header of a GGUF file, in a few seconds.

    Those of Gemma and of Llama 2's kind (`llama`), and the byte-level ones (`gpt2`) whose way to
    cut words is among `byte_bpe.KINDS`. The ids are those of the published tokenizer.json.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or holds another kind of tokenizer.
    """
    first = parts(Path(path))[0]  # of a model in several files, that has the tokenizer
    fields = read_header(first).fields
    found = ggml_vocabulary.read(fields, path)
    architecture = str(fields.get("general.architecture", ""))
    of_gemma = architecture.startswith("gemma")
    advice = "use a folder with the model's tokenizer.json"
    if found.model not in ("llama", "gpt2") or (of_gemma and found.model != "llama"):
        raise ValueError(
            f"{path} holds a {found.model!r} tokenizer (tokenizer.ggml.model), and probejax "
            f"rebuilds 'llama' and, but for Gemma, 'gpt2': {advice}."
        )
    if of_gemma and found.add_space_prefix:
        raise ValueError(
            f"{path} holds a tokenizer with add_space_prefix=True; Gemma's has False: {advice}."
        )
    if found.model == "gpt2":
        try:
            kind = byte_bpe.kind_of(found, architecture)
        except ValueError as error:
            raise ValueError(f"The tokenizer of {path} {error}: {advice}.") from None
    with parsing(path, "download it again"):
        if found.model == "gpt2":
            return byte_bpe.build(found, kind)
        return (sentencepiece_bpe.gemma if of_gemma else sentencepiece_bpe.llama)(found)


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


def fingerprint(path: Path) -> str:
    """Returns a hash that changes when the files do that cut a model's text into tokens.

    Args:
      path: a GGUF file, of which the header counts, or a folder.
    """
    digest = hashlib.sha256()
    files = parts(path)[:1] if path.is_file() else [path / name for name in _FILES]
    for file in files:
        if file.exists():
            digest.update(f"{'' if path.is_file() else file.name};".encode())
            with open_regular(file) as stream:
                digest.update(stream.read(_HEADER if path.is_file() else -1))
    return digest.hexdigest()[:16]


def require_length(max_length: int) -> None:
    """Raises ValueError unless a prompt may have a token."""
    if max_length < 1:
        raise ValueError(
            f"max_length is {max_length}; expected at least 1 (BOS itself is a token)."
        )


def encode(
    tokenizer: tokenizers.Tokenizer,
    prompts: Sequence[str],
    max_length: int,
    bos: str | None = BOS,
) -> list[np.ndarray]:
    """Returns the token ids of each prompt: BOS, then its last `max_length - 1` tokens.

    The study's rule (docs/paper.md 1.1). The text of a special token counts as that token, as in
    transformers: a prompt that itself says `<bos>` holds it once more.

    Args:
      tokenizer: what it adds of its own accord (BOS, padding) is left out.
      prompts: texts; an empty one gives BOS alone.
      max_length: tokens kept, BOS included.
      bos: text of the BOS token; None puts none before the prompts, of which the last `max_length`
        tokens are kept.

    Returns:
      One int32 array [n_tokens] per prompt.

    Raises:
      ValueError: `max_length` is below 1, the tokenizer has no such BOS, or a prompt has no token.
    """
    require_length(max_length)
    first = [] if bos is None else [tokenizer.token_to_id(bos)]
    if None in first:
        raise ValueError(f"The tokenizer has no {bos} token; name its own BOS, or give bos=None.")
    rows = []
    for chunk in _chunks(prompts):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            ids = encoding.ids
            cut = max(len(ids) - (max_length - len(first)), 0)
            rows.append(np.array([*first, *ids[cut:]], np.int32))
            if not len(rows[-1]):
                raise ValueError(
                    f"Prompt {len(rows) - 1} ({prompts[len(rows) - 1]!r}) has no token, and no BOS "
                    "stands before it; leave it out, or give --bos=always."
                )
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

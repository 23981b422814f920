"""Writes the golden words: `python -m tests.golden.tokens.make_words llama-bpe=tokenizer.json ...`.

Each argument is llama.cpp's name of a way to split text, and the tokenizer.json of a model that
splits so, as its makers publish it. Nothing of the files is kept but the words into which they cut
our own texts, and hashes of those of the last prompt of every fourth of the study's tasks.
"""

import hashlib
import json
import sys
from pathlib import Path

import tokenizers

from probejax import tasks
from tests import text_cases

GOLDEN = Path(__file__).parent / "words.json"


def make(path: Path) -> dict:
    """Returns the entry of one file."""
    found = tokenizers.Tokenizer.from_file(str(path))
    hard = text_cases.HARD.values()
    prompts = [tasks.load(name).prompts[-1] for name in tasks.names()[::4]]
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "hard": text_cases.words_digest(found, hard),
        "tasks": text_cases.words_digest(found, prompts),
        "words": {name: text_cases.words(found, text) for name, text in text_cases.WORDS.items()},
    }


if __name__ == "__main__":
    named = (argument.partition("=") for argument in sys.argv[1:])
    entries = {name: make(Path(path)) for name, _, path in named}
    lines = (f" {json.dumps(name)}: {json.dumps(each)}" for name, each in entries.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")

"""Writes the golden ids: `python -m tests.golden.tokens.make tokenizer.json`, from the root.

The argument is the file that Google publishes with every Gemma 3 (its SHA-256 goes into
gemma-3.json). Nothing of it is kept but ids, of each hard text in full and of each task's prompts
as hashes (of a sample, and of all), and a hash of its merges.
"""

import hashlib
import json
import sys
from pathlib import Path

import tokenizers

from probejax import tasks
from tests import text_cases

GOLDEN = Path(__file__).parent / "gemma-3.json"


def make(path: Path) -> str:
    """Returns the text of gemma-3.json."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()

    def ids(texts) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def row(task) -> list:
        sample = text_cases.sample(task.prompts)
        return [
            *(len(sample), text_cases.digest(ids(sample))),
            *(len(task.prompts), text_cases.digest(ids(task.prompts))),
        ]

    golden = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "merges": text_cases.merges_digest(tokenizer),
        "hard": dict(zip(text_cases.HARD, ids(text_cases.HARD.values()), strict=True)),
        "tasks": {name: row(tasks.load(name)) for name in tasks.names()},
        "shifted": {name: row(tasks.load_shifted(name)) for name in tasks.shifted_names()},
    }
    # One entry a line, so that a change shows where it is.
    parts = [f" {json.dumps(key)}: {json.dumps(golden.pop(key))}" for key in ("sha256", "merges")]
    for part, entries in golden.items():
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()]
        parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    GOLDEN.write_text(make(Path(sys.argv[1])))

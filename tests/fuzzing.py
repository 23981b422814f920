"""Feeds a parser with bytes that a fuzzer makes from valid ones, guided by what they reach in it.

    python -m tests.fuzzing gguf -max_total_time=60 -rss_limit_mb=2048 -timeout=10

A parser may refuse its file in one sentence and nothing else: any other error, more memory or more
time ends the run with the bytes that caused it. `atheris` is in the extra `fuzz`.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["probejax"], enable_loader_override=False):
    from probejax import storage
    from tests.fuzz_targets import TARGETS


def main() -> None:
    name, *flags = sys.argv[1:]
    parse, seed = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    path = folder / f"x.{name}"
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(seed)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            parse(path)
        except (ValueError, storage.StorageError) as error:
            if str(folder) not in str(error):  # a sentence names its file
                raise

    one(seed)
    os.chdir(folder)  # where the fuzzer leaves what it finds
    atheris.Setup([sys.argv[0], str(corpus), *flags], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

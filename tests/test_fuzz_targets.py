"""What the fuzzer begins with: a parser that is there, and a file that it takes or refuses."""

import pytest

from probejax.storage import StorageError
from tests.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_the_file_that_it_is_fuzzed_from(name, tmp_path):
    parse, seed = TARGETS[name]
    path = tmp_path / f"x.{name}"
    path.write_bytes(seed)
    parse(path)
    path.write_bytes(seed[: len(seed) // 3])  # and refuses a third of it in a sentence
    with pytest.raises((ValueError, StorageError), match=str(tmp_path)):
        parse(path)

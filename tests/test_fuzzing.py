"""Every parser of foreign bytes against a coverage-guided fuzzer, a minute each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_targets import TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_parser_refuses_in_one_sentence_whatever_it_reads(target):
    bounds = ("-max_total_time=60", "-rss_limit_mb=2048", "-timeout=10")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing", target, *bounds],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]

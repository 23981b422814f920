"""Runs that are killed a hundred times end with the bytes of one that was never disturbed."""

import pytest

from tests import killed_runs


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path):
    lines = list(killed_runs.killed(tmp_path, 100, [1, 2, 3]))
    assert len(lines) > 3, lines

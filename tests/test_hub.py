"""The real client of the Hub against a Hub of our own, see `tests.hub_cases`."""

import json
import subprocess
import sys

import pytest

from tests import hub_cases


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What went wrong in each case; one process goes through all, as its imports take seconds."""
    command = [sys.executable, "-W", "error", "-m", "tests.hub_server"]
    folder = str(tmp_path_factory.mktemp("hub"))
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", hub_cases.CASES)
def test_the_real_client_finds(case, outcomes):
    assert outcomes[case] is None, outcomes[case]

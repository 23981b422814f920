"""The run that the README reports: its results are in the repository, and say what it says."""

import tarfile
from pathlib import Path

import pytest

from probejax import analysis, tasks
from probejax.analysis.run import read_run
from probejax.analysis.tables import results_table

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT / "experiments" / "results" / "gemma-3-270m-layer-9.tar.xz"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return read_run(folder / ARCHIVE.name.removesuffix(".tar.xz"))


def test_it_is_whole_and_small(run):
    assert ARCHIVE.stat().st_size < 2e6
    assert run.done == run.expected == 113 * 8
    assert {payload["unit"]["task"] for payload in run.payloads} == set(tasks.names())


def test_the_readme_says_what_the_results_say(run):
    table = analysis.quiver(results_table(run.payloads), tie_rule=("documented", "neutral"))
    overall = table[table["level"].isna()].set_index(["tie_rule", "regime"])
    readme = (ROOT / "README.md").read_text()
    for regime in tasks.REGIMES:
        row, neutral = overall.loc[("documented", regime)], overall.loc[("neutral", regime)]
        line = (
            f"| {regime.replace('_', ' ')} | {row['tasks']:.0f} | {row['baseline']:.4f} "
            f"| {row['with_sae']:.4f} | {row['delta']:+.4f} [{row['ci_low']:+.4f}, "
            f"{row['ci_high']:+.4f}] | {neutral['delta']:+.4f} |"
        )
        assert line in readme

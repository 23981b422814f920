"""The runs that the README reports: their results are in the repository, and say what it says."""

import tarfile
from pathlib import Path

import pytest

from probejax import analysis, tasks
from probejax.analysis.run import read_run
from probejax.analysis.tables import results_table

ROOT = Path(__file__).parents[1]
ARCHIVES = [
    f"{model}{protocol}"
    for model in ("gemma-3-270m-layer-9", "smollm2-135m-layer-14")
    for protocol in ("", "-strict")
]
HEADINGS = {
    "gemma-3-270m": "**gemma-3-270m, layer 9",
    "smollm2-135m": "**SmolLM2-135M-Instruct, end",
}


@pytest.fixture(scope="module", params=ARCHIVES)
def run(request, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp("published"), request.param
    path = ROOT / "experiments" / "results" / f"{name}.tar.xz"
    assert path.stat().st_size < 2e6
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return read_run(folder / name)


def test_it_is_whole(run):
    assert run.done == run.expected == 113 * 8
    assert {payload["unit"]["task"] for payload in run.payloads} == set(tasks.names())


def test_the_readme_says_what_the_results_say(run):
    table = analysis.quiver(results_table(run.payloads), tie_rule=("documented", "neutral"))
    overall = table[table["level"].isna()].set_index(["tie_rule", "regime"])
    unit = run.payloads[0]["unit"]
    told = (ROOT / "README.md").read_text().split(HEADINGS[unit["model"]])[1]
    readme = told.split(f"\n| `{unit['protocol']}` |")[1].split("\n\n")[0]
    for regime in tasks.REGIMES:
        row, neutral = overall.loc[("documented", regime)], overall.loc[("neutral", regime)]
        line = (
            f"| {regime.replace('_', ' ')} | {row['tasks']:.0f} | {row['baseline']:.4f} "
            f"| {row['with_sae']:.4f} | {row['delta']:+.4f} [{row['ci_low']:+.4f}, "
            f"{row['ci_high']:+.4f}] | {neutral['delta']:+.4f} |"
        )
        assert line in readme

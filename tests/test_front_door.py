"""The names of the front door: each has an example that runs, as have the README's pages."""

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import probejax as px
from probejax.analysis.tables import COLUMNS

NAMES = (
    *("fit", "fit_lanes", "save", "load_probe", "compare"),
    *("load_model", "load_sae", "top_latents", "run", "read", "audit"),
)
README = (Path(__file__).parents[1] / "README.md").read_text()


_LOADS = pytest.param("load_model", marks=pytest.mark.thorough)


@pytest.mark.parametrize("name", [_LOADS if name == "load_model" else name for name in NAMES])
def test_every_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = getattr(px, name)
    assert f"`px.{name}" in README or f"px.{name}(" in README
    text = inspect.getdoc(value) or ""
    parts = ("Args:", "Returns:", "Raises:") if name != "save" else ("Args:", "Raises:")
    assert all(part in text for part in parts), f"px.{name} says too little of itself"
    (found,) = (each for each in doctest.DocTestFinder(recurse=False).find(value, name, globs={}))
    assert found.examples, f"px.{name} has no example"
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found)
    assert not result.failed


@pytest.mark.thorough
def test_the_examples_of_the_readme_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    space: dict = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)
    said = re.search(r"`(Fit\(.*?\))`", README, re.DOTALL)
    assert said and repr(space["fit"]).split(",")[:2] == said[1].split(",")[:2]


def test_the_readme_names_every_column_of_the_results():
    (table,) = re.findall(r"\| columns \| what they hold \|\n.*?\n\n", README, re.DOTALL)
    named = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)`", " ".join(named))) == sorted(COLUMNS)


def test_importing_the_package_imports_no_room():
    code = "import sys, probejax; print('jax' in sys.modules, 'pandas' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]

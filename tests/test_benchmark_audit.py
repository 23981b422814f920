"""The benchmark of audits: what is planted is found, and its lines are JSON."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import audit as bench_audit
from probejax import storage

ROOT = Path(__file__).parents[1]


def strictly(text):
    """Reads JSON as any other language does: there is no NaN."""

    def fail(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=fail)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.stem)
def test_what_a_command_prints_or_keeps_is_json(path):
    """`json.dumps` writes NaN; `storage.encode_json` writes null."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert "json.dumps" not in ast.unparse(node)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "write":
            assert "json.dumps" not in ast.unparse(node)


def test_of_one_task_there_are_no_limits():
    cell = {"task": "t", "rate": 0.1, "seconds logreg": 1.0, "seconds cleanlab": 2.0}
    for method, value in {"logreg": 0.5, "cleanlab": 0.25, "sae_k16": np.nan}.items():
        cell |= {f"ap {method}": value, f"precision {method}": value}
    lines = [
        strictly(storage.encode_json(each)) for each in bench_audit._summary(pd.DataFrame([cell]))
    ]
    (found,) = [x for x in lines if x["name"] == "ap, logreg minus cleanlab" and x["rate"] == 0.1]
    assert (found["mean"], found["low"], found["high"]) == (0.25, None, None)
    assert found["tasks"] == 1

"""`python -m experiments.harvest` on a tiny model in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from probejax.runs import fill
from tests import tiny_models


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, two tasks of 40 rows, one of them with a shifted test set."""
    root = tmp_path_factory.mktemp("harvest")
    (root / "tiny").mkdir()
    (root / "tasks").mkdir()
    config = tiny_models.GEMMA3
    tiny_models.language_model(config).tokenizer.save(str(root / "tiny" / "tokenizer.json"))
    save_file(tiny_models.arrays(config).arrays, root / "tiny" / "model.safetensors")
    (root / "tiny" / "config.json").write_text(json.dumps(tiny_models.hf_config(config)))
    for seed, name in enumerate(("own_a", "own_b", "own_b_OOD")):
        rows = [
            f"{text} w1,{'yes' if i % 2 else 'no'}"
            for i, text in enumerate(tiny_models.prompts(40, 400, seed=seed))
        ]
        (root / "tasks" / f"{name}.csv").write_text("prompt,target\n" + "\n".join(rows) + "\n")
    return root


def command(place, *more) -> tuple[int, str]:
    found = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.harvest", f"--model={place / 'tiny'}"),
            *("--tasks=own_*", f"--data={place / 'tasks'}", f"--cache_dir={place / 'cache'}"),
            *more,
        ],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return found.returncode, found.stdout


ALL = ("--positions=all", "--site=0,mlp_out.2")


def test_the_plan_the_limit_the_harvest_and_the_second_run(place):
    code, text = command(place, *ALL, "--dry_run")
    assert code == 0 and not (place / "cache" / "activations").exists()
    lines = text.splitlines()
    tokens = {line[:16].strip(): int(line[16:].split()[2]) for line in lines[1:4]}
    assert tokens.keys() == {"own_a", "own_b", "own_b, shifted"}
    total = sum(tokens.values())
    assert f"3 lists of prompts; {total:,} tokens to run, about" in text

    code, text = command(place, *ALL, "--disk_gb=0.001")
    assert code == 1 and not (place / "cache" / "activations").exists()
    assert "more than --disk_gb=0.001: harvest fewer tasks" in text.splitlines()[-1]

    code, text = command(place, *ALL, "--disk_gb=0.001", "--dry_run")  # it says so, too
    assert code == 1 and "more than --disk_gb=0.001: harvest fewer" in text.splitlines()[-1]

    code, text = command(place, *ALL, "--disk_gb=1")
    assert code == 0 and text.splitlines()[-1].startswith("All 3 lists of prompts are in ")
    manifests = [
        json.loads(path.read_text())
        for path in (place / "cache" / "activations").glob("*/manifest.json")
    ]
    assert sorted(each["site"] for each in manifests) == ["mlp_out.2"] * 3 + ["resid_post.0"] * 3
    assert sum(each["shape"][0] for each in manifests) == 2 * total
    assert {each["max_length"] for each in manifests} == {256}  # the study's, for all tokens
    longest = max(
        int(np.load(path)["counts"].max())
        for path in (place / "cache" / "activations").glob("*/rows.npz")
    )
    assert longest == 256

    code, text = command(place, *ALL, "--disk_gb=1")
    assert code == 0 and text.count("in the cache") == 3
    assert "3 lists of prompts; 0 tokens to run, about 0 s here." in text


def test_wrong_sites(place):
    assert command(place)[1].endswith("Error: Give --site: tiny has no default.\n")
    for given, message in (
        (["3"], "--site=resid_post.3 was asked for, but tiny-gemma-3 has layers 0 to 2"),
        (["0", "x"], "--site=x is no site"),
    ):
        with pytest.raises(ValueError, match=message):
            fill.find_sites(tiny_models.GEMMA3, given)

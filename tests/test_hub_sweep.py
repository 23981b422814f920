"""The main job with a model and an SAE on a Hub of our own, and without a network."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_models
from tests.hub_server import Hub

SAE = "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_3"


@pytest.fixture
def hub(tmp_path):
    """A tiny model and a tiny SAE."""
    hub = Hub()
    folder = tmp_path / "local"
    tiny_models.write(folder)
    hub.add("me/tiny-gemma-3", {path.name: path.read_bytes() for path in folder.iterdir()})
    rng, (d, m), stream = np.random.default_rng(0), (tiny_models.GEMMA3.d_model, 12), io.BytesIO()
    shapes = {"W_enc": (d, m), "b_enc": (m,), "W_dec": (m, d), "b_dec": (d,), "threshold": (m,)}
    np.savez(stream, **{k: rng.random(shape, np.float32) - 0.5 for k, shape in shapes.items()})
    hub.add(
        "google/gemma-scope-2b-pt-res", {f"{SAE.split('/', 1)[1]}/params.npz": stream.getvalue()}
    )
    yield hub
    hub.stop()


@pytest.fixture
def sweep(hub, tmp_path):
    """Runs the job to an end; returns its exit code and what it said."""
    rows = "\n".join(
        f"{text or 'w0'},{('yes', 'no')[i % 2]}"
        for i, text in enumerate(tiny_models.prompts(120, 6))
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.csv").write_text(f"prompt,target\n{rows}\n")
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}

    def run(out, *flags):
        command = [sys.executable, "-m", "experiments.sweep", f"--out={tmp_path / out}"]
        command += ["--model=me/tiny-gemma-3", f"--sae={SAE}", f"--data={tmp_path / 'tasks'}"]
        command += [f"--cache_dir={tmp_path / 'cache'}", "--tasks=own", "--workers=1"]
        command += ["--regimes=standard", "--methods=mean_difference,sae_k4", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_sweep_fetches_what_it_needs_when_it_needs_it(hub, sweep, tmp_path):
    code, said = sweep("wrong", "--layer=3")
    assert (
        code != 0 and "--site=resid_post.3 was asked for, but tiny-gemma-3 has layers 0 t" in said
    ), said
    assert set(hub.fetched()) == {"config.json", "tokenizer.json"}

    code, said = sweep("first")
    assert code == 0, said
    assert set(hub.fetched()) == {"model.safetensors", "layer_1/width_16k/average_l0_3/params.npz"}

    hub.stop()
    code, said = sweep("second")
    assert code == 0 and "warning" not in said.lower(), said
    units = [sorted((tmp_path / out / "units").glob("*.json")) for out in ("first", "second")]
    assert len(units[0]) == 2 and [path.name for path in units[0]] == [p.name for p in units[1]]
    for first, second in zip(*units, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert {json.loads(path.read_bytes())["unit"]["site"] for path in units[0]} == {"resid_post.1"}

"""A language model cut over several devices: the same activations, or a sentence why not."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import probejax as px
from probejax import sweep
from tests import tiny_models
from tests.test_sweep import write_task


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("parallel")
    (root / "tasks").mkdir()
    tiny_models.write(root / "tiny")
    write_task(root / "tasks" / "mine.csv", 60, 0)
    return sweep.Config(
        model=str(root / "tiny"), site="1", data=str(root / "tasks"),
        methods=("mean_difference",), regimes=("standard",),
    )  # fmt: skip


def test_two_devices_give_the_activations_of_one(config, tmp_path):
    found = []
    for count in (1, 2):
        plan = sweep.resolve(config, tmp_path / str(count))
        plan.check_parallel(count)
        job = sweep.Execution(plan, model_parallel=count)
        found.append(np.asarray(job.data("mine").features))
        leaves = jax.tree.leaves(nnx.state(job._model().transformer))
        assert max(len(leaf.sharding.device_set) for leaf in leaves) == count
        assert any(not leaf.sharding.is_fully_replicated for leaf in leaves) == (count > 1)
    one, two = found
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * np.abs(one).max())
    assert len(one) == 60 and np.ptp(one) > 0


def test_each_worker_has_devices_of_its_own(config, tmp_path, monkeypatch):
    """Two models on four devices, and two tasks at each of them."""
    places = []
    together = lambda works, given, _: (each for each in places.append((works, given)) or ())
    monkeypatch.setattr(sweep.workers.meeting, "together", together)
    job = sweep.Execution(sweep.resolve(config, tmp_path), model_parallel=2)
    sweep.workers._side_by_side(job, [], str(tmp_path), 4, False, False)
    ((works, given),) = places
    assert given == jax.local_devices()[::2] and len(given) == 2 and len(works) == 4
    for place in given:
        with jax.default_device(place):
            mesh = px.devices.mesh(2)
            assert mesh is not None and mesh.devices[0] == place and mesh.devices.size == 2


def test_what_cannot_be_cut_is_said_before_weights_are_read(config, tmp_path, monkeypatch):
    monkeypatch.setattr(px.models.Checkpoint, "transformer", lambda *_: pytest.fail("reads it"))
    plan = sweep.resolve(config, tmp_path)
    with pytest.raises(ValueError, match="query heads, which cannot be cut evenly over 3 devices"):
        plan.check_parallel(3)
    heads = plan.checkpoint.config.n_heads
    monkeypatch.setattr(px.models, "check_mesh", lambda *_: None)
    with pytest.raises(ValueError, match="--model_parallel=8 cuts the model over as many devices"):
        plan.check_parallel(8)
    assert heads % 3


def test_nothing_is_fetched_of_a_model_that_cannot_be_cut(config):
    found = px.models.find(config.model)
    found = dataclasses.replace(found, fetch_weights=lambda: pytest.fail("fetches weights"))
    with pytest.raises(ValueError, match="cannot be cut evenly over 3 devices"):
        found.transformer(None, np.float32, px.devices.mesh(3))


def test_what_it_is_no_use_for_is_refused(config, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    np.save(tmp_path / "x.npy", x), np.save(tmp_path / "y.npy", y)
    given = sweep.Config(
        activations=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"),
        methods=("mean_difference",), regimes=("standard",),
    )  # fmt: skip
    for settings, wanted, why in (
        ({}, given, "--activations needs none"),
        ({"cluster": "ray"}, config, "a model of its own; leave out --model_parallel=2"),
    ):
        with pytest.raises(ValueError, match=why):
            px.run(wanted, tmp_path / "out", model_parallel=2, show="nothing", **settings)
    assert not (tmp_path / "out").exists()
    assert dataclasses.asdict(config)["model"] == config.model

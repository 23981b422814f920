"""Lanes on all devices of a host: one program, a loop per device, the numbers of one device."""

import contextlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probejax as px
from probejax.solvers import spread

DEVICES = 4  # see conftest.py
LANES = 6
rng = np.random.default_rng(0)
X = rng.normal(size=(120, 12)).astype(np.float32)
ROWS = np.stack([rng.permutation(120)[:60] for _ in range(LANES)])
Y = (X @ rng.normal(size=12) + rng.normal(size=120) > 0).astype(int)[ROWS]


@spread.over_lanes(static=("power",), shared=("limit",))
def _doublings(x, power, limit):
    """Doubles all lanes of a device until the largest passes the limit; tells how often."""
    again = lambda state: (state[0] * 2, state[1] + 1)
    x, count = jax.lax.while_loop(lambda state: state[0].max() < limit, again, (x["a"], 0))
    return {"x": x**power, "count": jnp.full(len(x), count)}


def test_every_device_has_its_own_loop():
    x = {"a": np.array([1.0, 3, 1, 1, 8, 1, 100, 200], np.float32)}
    with jax.default_device(None):
        found = jax.tree.map(np.asarray, _doublings(x, 2, 8.0))
    assert found["count"].tolist() == [2, 2, 3, 3, 0, 0, 0, 0]
    assert found["x"].tolist() == [16, 144, 64, 64, 64, 1, 10_000, 40_000]
    assert np.asarray(_doublings(x, 2, 8.0)["count"]).tolist() == [0] * 8


@contextlib.contextmanager
def programs():
    """Yields the names of the programs that are made meanwhile."""
    names, event = [], "/jax/core/compile/backend_compile_duration"
    heard = lambda what, _, **about: names.append(about["fun_name"]) if what == event else None
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


@pytest.fixture
def a_lane_each(monkeypatch):
    """One lane per device and batch.

    jaxlib 0.10 factors several matrices of a program in threads that wait for each other, and fake
    devices of a CPU share these: two such programs at once can wait for ever.
    """
    settings = {
        "solvers.small_logreg": ("_LANES",),
        "solvers.l1": ("_LANES",),
        "probes.pca": ("_SETS", "_ROWS"),
        "probes.lda": ("_FITS",),
        "sizes": ("_IN_CACHE",),
        "probes.minibatch": ("_WIDEST",),
    }
    for module, names in settings.items():
        for name in names:
            monkeypatch.setattr(f"probejax.{module}.{name}", 1)


# Fake devices share the threads of a CPU too, so that some products are cut in another way.
_SLOW = [("logreg", 1e-9), ("logreg_l1", 1e-9), ("pca", 1e-3), ("mlp", 1e-4)]


@pytest.mark.parametrize(
    "method, off",
    [("lda", 1e-5), *(pytest.param(*each, marks=pytest.mark.thorough) for each in _SLOW)],
)
def test_one_program_serves_all_devices_and_finds_what_one_finds(method, off, a_lane_each):
    jax.clear_caches()  # of tests before
    with programs() as of_one:
        one = px.fit_lanes(X, ROWS, Y, method)
    with programs() as of_all, jax.default_device(None):
        every = px.fit_lanes(X, ROWS, Y, method)
    # A program whose batch holds all lanes runs on one device, where it has been compiled already.
    assert not Counter(of_all) - Counter(of_one) and len(of_all) > 1
    found = [jax.tree.leaves((each.probe, tuple(each.scores))) for each in (one, every)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=off)
    assert one.scores.val_auc.min() > 0.6

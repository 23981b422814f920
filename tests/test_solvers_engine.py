"""The driver of lanes: every lane is worked on once, in batches of one width, whatever its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probejax import devices
from probejax.solvers import engine, spread


@pytest.mark.parametrize("lanes", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_each_gives_batches_of_one_width_and_drops_what_is_spare(lanes, threads):
    seen = []

    def work(x, y):
        seen.append(x.tolist())
        return {"sum": x + y, "twice": jnp.asarray(2 * x)}

    found = engine.each(work, (np.arange(lanes), 10 * np.arange(lanes)), 3, threads=threads)
    assert found["sum"].tolist() == [11 * i for i in range(lanes)]
    assert found["twice"].tolist() == [2 * i for i in range(lanes)]
    assert all(len(batch) == 3 for batch in seen)
    assert sorted({i for batch in seen for i in batch}) == list(range(lanes))
    assert engine.each(lambda which: [str(i) for i in which], np.arange(lanes), 3) == [
        str(i) for i in range(lanes)
    ]


def test_equal_arrays_form_a_group():
    a = np.array([[1, 2], [1, 2], [1, 2], [3, 4]])
    b = [np.zeros(1), np.zeros(1), np.zeros(2), np.zeros(1)]
    assert engine.distinct(a) == [[0, 1, 2], [3]]
    assert engine.distinct(a, b) == [[0, 1], [2], [3]]


def test_what_is_alike_is_worked_on_once():
    seen = []

    def work(which):
        seen.extend(which.tolist())
        return 10 * which

    found, kind = engine.once(work, (np.array([[7], [8], [7], [9], [8]]),), 2)
    assert found[kind].tolist() == [[70], [80], [70], [90], [80]]
    assert {each[0] for each in seen} == {7, 8, 9}


@pytest.mark.parametrize("kind", [np.array, jnp.array], ids=["host", "device"])
@pytest.mark.parametrize("widths", [(1,), (4,), (1, 4), (1, 2, 3, 4)])
def test_lanes_run_to_their_ends_and_make_room(kind, widths):
    """Lane i counts to `ends[i]`, at most two at a time; lane 3 is not to run."""
    ends, widest = np.array([5, 1, 9, 4, 2, 3, 7]), []

    def advance(slots, count, waiting, narrower):
        widest.append(len(slots))
        assert len(slots) in widths and waiting <= 6
        assert narrower == max((width for width in widths if width < len(slots)), default=0)
        count = np.minimum(np.asarray(count) + 2, ends[slots])
        return kind(count), count < ends[slots]

    live = np.array([2, 6, 0, 5, 4, 1])
    found = engine.drive(advance, kind(np.zeros(7, int)), live, widths)
    assert np.asarray(found).tolist() == [5, 1, 9, 0, 2, 3, 7]
    assert max(widest) == widths[-1] and (widths[0] == 4 or min(widest) == 1)


def test_devices_share_what_one_batch_does_not_hold():
    """Widths are those of a device; what one holds stays there, and so does what is no program."""
    seen = []

    @spread.over_lanes
    def program(x):
        seen.append((len(x), len(devices.own())))  # when it is traced
        return x

    def work(x):
        seen.append((len(x), len(devices.own())))
        return x

    def advance(slots, states, *_):
        return work(states), np.zeros(len(slots), bool)

    with jax.default_device(None):
        for count in (3, 4, 13):
            assert engine.each(program, np.arange(count), 3).tolist() == list(range(count))
        engine.each(work, np.arange(4), 3)
        for count in (2, 3, 4):
            engine.drive(advance, np.arange(count), np.arange(count), (1, 3))
    # A program on four devices sees the share of one; the second and third batch are no new one.
    assert seen == [(3, 1), (3, 4), (3, 4), (3, 4), (3, 1), (3, 1), (4, 4)]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_thread_computes_where_the_caller_does(threads):
    place, used = jax.local_devices()[2], []

    def function(x):
        found = jax.jit(lambda x: x + 1)(x)
        used.append(found.devices())
        return found

    with jax.default_device(place):
        engine.each(function, np.arange(20.0, dtype=np.float32), 4, threads=threads)
    assert used == [{place}] * 5

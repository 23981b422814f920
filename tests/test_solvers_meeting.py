"""Tasks side by side: their lanes meet, each gets its own results, and nobody waits for ever."""

import threading
import time

import jax
import numpy as np
import pytest

from probejax.solvers import arithmetic, engine, meeting, spread

HERE = jax.local_devices()[:1]
seen: list[int] = []


@spread.over_lanes(shared=("by",))
def double(x, by):
    return by * x


def plus(x, by):
    """A function of all lanes."""
    seen.append(len(x))
    return {"sum": x + by}


def work(number, calls=3):
    def run(place):
        for call in range(calls):
            own = np.arange(number + 1.0) + 100 * number
            doubled = engine.each(double, own, 4, 2)
            found = engine.whole(plus, (doubled,), call)
            assert found["sum"].tolist() == (2 * own + call).tolist()
            yield number, call

    return run


@pytest.mark.parametrize("at_once", [1, 2, None])
def test_lanes_of_several_tasks_go_together_and_each_gets_its_own(at_once):
    seen.clear()
    found = list(meeting.together([work(i) for i in range(4)], HERE, at_once))
    assert sorted(found) == [(i, call) for i in range(4) for call in range(3)]
    assert [one for one in found if one[0] == 2] == [(2, 0), (2, 1), (2, 2)]
    assert seen == [1 + 2 + 3 + 4] * 3
    assert not meeting.seated()


def test_batches_hold_lanes_of_several_tasks_and_load_those_of_each(monkeypatch):
    batches = []
    one = lambda x, by: batches.append(x.tolist()) or by * x
    one.of_lanes = True  # as a program is marked
    loaded = []

    def run(number):
        def load(lanes):
            loaded.append((number, lanes.tolist()))
            return lanes + 10.0 * number

        yield engine.each(one, np.arange(number), 4, 1, load=load).tolist()

    works = [lambda _, i=i: run(i) for i in (1, 2, 3)]
    found = list(meeting.together(works, HERE, 1))
    assert sorted(found) == [[10.0], [20.0, 21.0], [30.0, 31.0, 32.0]]
    # Spare slots repeat the first lane of their batch.
    every = sorted(value for batch in batches for value in batch)
    assert sorted(map(len, batches)) == [4, 4] and len(set(every)) == 6
    assert all(set(map(int, lanes)) <= set(range(number)) for number, lanes in loaded)


def test_what_differs_does_not_go_together():
    """Another setting, another shape, other arithmetic, an array on a device."""
    seen.clear()
    table = jax.numpy.ones(())

    def run(number):
        x = np.ones((2, 3), np.float64 if number == 4 else np.float32)
        if number == 1:
            x = x[:, :2]
        if number == 5:
            with jax.enable_x64(True):
                engine.whole(plus, (x,), 1)
            return
        engine.whole(plus, (x,), [1, 1, 1.0, 2, 1, 1, table][number])
        yield number

    list(meeting.together([lambda _, i=i: run(i) for i in range(7)], HERE, 1))
    assert seen == [2] * 7


def test_who_ends_or_does_something_else_keeps_nobody_waiting():
    """Tasks of 1, 2 and 3 rounds; one never asks."""
    seen.clear()
    silent = lambda _: iter(["silent"])
    works = [work(i, calls=i + 1) for i in range(3)]
    found = list(meeting.together([*works, silent], HERE))
    assert len(found) == 7 and "silent" in found
    assert seen == [6, 5, 3]


def test_who_needs_more_rounds_is_waited_for():
    """Task i asks i + 1 times for the same, then all for the same again."""
    seen.clear()

    def run(number):
        for _ in range(3):
            for _ in range(number + 1):
                engine.whole(plus, (np.ones(1),), 1)
            engine.whole(plus, (np.ones(1),), 2)
            yield number

    list(meeting.together([lambda _, i=i: run(i) for i in range(4)], HERE, 1))
    assert seen == [4, 3, 2, 1, 4] * 3


@pytest.mark.parametrize("at_once", [1, None])
def test_an_error_is_the_caller_s_and_the_others_end(at_once):
    before = threading.active_count()

    def broken(_):
        yield engine.whole(plus, (np.ones(1),), 0)["sum"].tolist()
        raise ValueError("It is so.")

    def endless(_):
        while True:
            engine.whole(plus, (np.ones(1),), 0)
            yield "again"

    with pytest.raises(ValueError, match="It is so"):
        list(meeting.together([broken, endless, endless], HERE, at_once))
    _gone(before)


def test_an_error_of_work_in_common_is_the_caller_s():
    def fails(x):
        raise ValueError(f"{len(x)} lanes.")

    works = [lambda _: iter([engine.whole(fails, (np.ones(1),))]) for _ in range(3)]
    before = threading.active_count()
    with pytest.raises(ValueError, match="3 lanes"):
        list(meeting.together(works, HERE))
    _gone(before)


def test_who_stops_listening_ends_the_tasks():
    before = threading.active_count()
    every = meeting.together([work(i, calls=10**6) for i in range(3)], HERE)
    next(every)
    every.close()
    _gone(before)


def _gone(before):
    deadline = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < deadline, "a thread goes on"
        time.sleep(0.01)


@pytest.mark.parametrize("at_once", [1, None])
def test_work_on_the_host_waits_for_nobody(at_once):
    """It holds a lock there, so that those who wait for that would wait for ever."""
    seen.clear()

    def run(place):
        with arithmetic.on_host():
            yield engine.whole(plus, (np.ones(2),), 1)["sum"].tolist()
        engine.whole(plus, (np.ones(2),), 1)

    assert list(meeting.together([run, run], HERE, at_once)) == [[2.0, 2.0]] * 2
    assert seen == [2, 2, 4]


def test_tasks_work_on_devices_in_turn_and_together_on_the_caller_s():
    places, alone, together = jax.local_devices()[1:3], [], []

    def all_lanes(x):
        together.append((len(x), jax.config.jax_default_device))
        return x

    def run(place):
        alone.append((place, jax.config.jax_default_device))
        engine.whole(all_lanes, (np.ones(1),))
        yield place

    with jax.default_device(None):
        list(meeting.together([run] * 3, places))
    assert together == [(3, None)]
    assert sorted(alone, key=str) == sorted([(p, p) for p in (*places, places[0])], key=str)

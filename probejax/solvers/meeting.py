"""Tasks that work side by side, a thread each, and put their lanes together where they can.

One task seldom has as many lanes as a machine's accelerators hold. So each of several runs in a
thread of its own, on a device of its own, until it has lanes to work on (`ask`). There it waits
until every task does; then all that ask for the same work have it done in one go, on all devices,
and each goes on with its own results. A lane has the same numbers in whatever company, so nothing
depends on which tasks happened to meet.
"""

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

from probejax import devices

T = TypeVar("T")


class _Asked(NamedTuple):
    """What a task waits for: work is alike if its keys are."""

    key: Hashable
    source: Any
    compute: Callable[[list[Any]], list[Any]]


class _Left(BaseException):
    """Ends the thread of a task, because nobody wants its results any more."""


class _Seat:
    """A task at the table.

    Attributes:
      place: the device on which it works alone.
      came: how far it has come: items that it has given, then kinds of work asked for since. Work
        of the kind before counts once, because some need more rounds of it than others.
      asked: what it waits for.
      answer: what it is told: to compute for these seats, or its own result.
    """

    def __init__(self, table: "_Table", place: Any):
        self.table, self.place = table, place
        self.came, self.before = (0, 0), None
        self.asked: _Asked | None = None
        self.answer: tuple[list["_Seat"] | None, Any] | None = None

    def asks(self, asked: _Asked) -> None:
        items, kinds = self.came
        self.came = items, kinds + (asked.key != self.before)
        self.asked, self.before = asked, asked.key

    def gives(self) -> None:
        self.came, self.before = (self.came[0] + 1, 0), None


_seat: contextvars.ContextVar[_Seat | None] = contextvars.ContextVar("seat", default=None)


class _Table:
    """Where tasks wait for each other; one thread at a time changes anything here."""

    def __init__(self, at_once: int):
        # Work for several tasks is done on the caller's devices.
        self.everywhere = devices.default()
        self.changed = threading.Condition()
        self.room = threading.Semaphore(at_once)  # for threads that compute
        self.seats: list[_Seat] = []  # of the tasks that have not ended
        self.busy = self.closed = False

    def wait(self, seat: _Seat) -> tuple[list[_Seat] | None, Any]:
        """Returns the answer to what a seat has asked."""
        self.room.release()
        try:
            with self.changed:
                self._serve()
                self.changed.wait_for(lambda: self.closed or seat.answer is not None)
                if self.closed:
                    raise _Left
                answer, seat.answer = seat.answer, None
        finally:
            self.room.acquire()
        assert answer is not None
        return answer

    def answered(self, group: list[_Seat], results: list[Any]) -> None:
        """Hands out what one of a group has computed for all."""
        with self.changed:
            for seat, result in zip(group, results, strict=True):
                seat.asked, seat.answer = None, (None, result)
            self.busy = False
            self.changed.notify_all()

    def leave(self, seat: _Seat) -> None:
        with self.changed:
            self.seats.remove(seat)
            self._serve()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _serve(self) -> None:
        """Where all wait, has one task compute for those that ask for the same.

        Whoever has come least far is served first, so that the others are there when it gets there.
        """
        waiting = all(seat.asked and not seat.answer for seat in self.seats)
        if self.busy or not self.seats or not waiting:
            return
        groups: dict[Hashable, list[_Seat]] = {}
        for seat in self.seats:
            assert seat.asked is not None
            groups.setdefault(seat.asked.key, []).append(seat)
        group = min(groups.values(), key=lambda group: min(seat.came for seat in group))
        group[0].answer, self.busy = (group, None), True
        self.changed.notify_all()


def together(
    works: Sequence[Callable[[Any], Iterator[T]]], places: Sequence[Any], at_once: int | None = None
) -> Generator[T, None, None]:
    """Runs iterators side by side, and yields what they yield.

    Args:
      works: each is given its device and returns the iterator.
      places: devices, which they take in turn.
      at_once: how many may compute at a time; None is no limit.

    Raises:
      Exception: what one of them raised; the others end at their next step.
    """
    table: _Table = _Table(at_once or len(works))
    said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run(seat: _Seat, work: Callable[[Any], Iterator[T]]) -> None:
        _seat.set(seat)
        with table.room:
            try:
                with jax.default_device(seat.place):
                    for item in work(seat.place):
                        if table.closed:
                            return
                        seat.gives()
                        said.put(("item", item))
                said.put(("end", None))
            except _Left:
                pass
            except BaseException as error:
                said.put(("error", error))
            finally:
                table.leave(seat)

    table.seats += [_Seat(table, places[i % len(places)]) for i in range(len(works))]
    for seat, work in zip(list(table.seats), works, strict=True):
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run, seat, work), daemon=True).start()
    left = len(works)
    try:
        while left:
            what, value = said.get()
            if what == "error":
                raise value
            left -= what == "end"
            if what == "item":
                yield value
    finally:
        table.close()


def seated() -> bool:
    """Says whether this thread's task may wait for others."""
    return _seat.get() is not None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets this thread's task wait for nobody: it holds what others need, or works for them."""
    before = _seat.set(None)
    try:
        yield
    finally:
        _seat.reset(before)


def ask(key: Hashable | None, source: Any, compute: Callable[[list[Any]], list[Any]]) -> Any:
    """Has lanes worked on, together with those of tasks that ask for the same.

    Args:
      key: what makes work the same, beside JAX's own settings; None if it is like no other.
      source: the lanes.
      compute: given the sources of all that ask, returns their results.

    Returns:
      The result for this source.
    """
    seat = _seat.get()
    if seat is None or key is None:
        return compute([source])[0]
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    seat.asks(_Asked((key, x64), source, compute))
    group, result = seat.table.wait(seat)
    if group is None:
        return result
    with alone(), jax.default_device(seat.table.everywhere):
        results = compute([each.asked.source for each in group if each.asked])
    seat.table.answered(group, results)
    return seat.table.wait(seat)[1]

"""Which of the searches that wait are answered, and which are turned away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from smar_model.serving import bounded_work
from smar_model.serving.bounded_work import EMPTIED_SECONDS, LATE_SECONDS, MAXIMUM_TOGETHER, Joint, Late, Turns


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bounded_work, "time", clock)
    return clock


@pytest.fixture
def turns() -> Iterator[Turns]:
    with ThreadPoolExecutor(1) as pool:
        yield Turns(pool)


def one_at_work(turns: Turns) -> threading.Event:
    """A request has the only thread until this is set."""
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()

    turns.submit(work)
    begun.wait()
    return may_end


def behind_one_that_takes(turns: Turns, clock: Clock, seconds: float, behind: int) -> list[Future[int]]:
    """Requests that come while one is at work, which ends so many seconds later by the clock."""
    may_end = one_at_work(turns)
    waiting = [turns.submit(number_of(n)) for n in range(behind)]
    clock.now += seconds
    may_end.set()
    return waiting


def number_of(n: int) -> Callable[[], int]:
    return lambda: n


def test_a_burst_is_answered_however_long_it_waits(turns: Turns, clock: Clock) -> None:
    waiting = behind_one_that_takes(turns, clock, 0.9 * EMPTIED_SECONDS, behind=40)
    assert [each.result() for each in waiting] == list(range(40))


def test_where_too_many_come_the_newest_is_answered_and_those_that_have_waited_are_turned_away(
    turns: Turns, clock: Clock
) -> None:
    *old, newest = behind_one_that_takes(turns, clock, 1.1 * EMPTIED_SECONDS, behind=4)
    for each in old:
        with pytest.raises(Late):
            each.result()
    assert newest.result() == 3
    # The queue is empty again: whoever comes now is answered.
    assert turns.submit(number_of(7)).result() == 7


def test_whoever_has_just_come_waits_for_the_newest_alone(turns: Turns, clock: Clock) -> None:
    may_end, order = one_at_work(turns), list[int]()
    old = turns.submit(lambda: order.append(1))
    clock.now += 2 * EMPTIED_SECONDS
    new, newest = turns.submit(lambda: order.append(2)), turns.submit(lambda: order.append(3))
    clock.now += 0.5 * LATE_SECONDS
    may_end.set()
    with pytest.raises(Late):
        old.result()
    new.result()
    newest.result()
    assert order == [3, 2]


def test_one_that_is_given_up_no_longer_counts_as_waiting(turns: Turns, clock: Clock) -> None:
    may_end = one_at_work(turns)
    assert turns.submit(number_of(1)).cancel()
    clock.now += 10 * EMPTIED_SECONDS
    # Nobody waited until this one came, so it is no sign of too many.
    last = turns.submit(number_of(2))
    clock.now += 0.5 * EMPTIED_SECONDS
    may_end.set()
    assert last.result() == 2


class Counted:
    """Work on numbers of which the even ones can be done together, and so can the odd ones; 7 and what is above 100 cannot be done at all."""

    def __init__(self) -> None:
        self.together: list[list[int]] = []

    def joint(self, number: int) -> Joint[int, int]:
        return Joint(number % 2, number, self.do)

    def do(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.together.append(list(numbers))
        if max(numbers) > 100:
            raise RuntimeError("nobody can")
        return [ValueError("not that one") if number == 7 else 10 * number for number in numbers]


def test_those_that_wait_and_ask_alike_are_worked_on_together(turns: Turns) -> None:
    may_end, counted = one_at_work(turns), Counted()
    waiting = [turns.submit(counted.joint(number)) for number in (1, 2, 3, 7, 4)]
    other = turns.submit(number_of(5))
    may_end.set()
    assert [each.result() for each in (*waiting[:3], waiting[4], other)] == [10, 20, 30, 40, 5]
    with pytest.raises(ValueError, match="not that one"):
        waiting[3].result()
    assert counted.together == [[1, 3, 7], [2, 4]]
    with pytest.raises(ValueError, match="not that one"):
        turns.submit(counted.joint(7)).result()


def test_what_fails_as_a_whole_fails_for_each(turns: Turns) -> None:
    may_end, counted = one_at_work(turns), Counted()
    waiting = [turns.submit(counted.joint(number)) for number in (1, 101)]
    may_end.set()
    for each in waiting:
        with pytest.raises(RuntimeError, match="nobody can"):
            each.result()


def test_no_more_are_worked_on_together_than_may_be(turns: Turns) -> None:
    may_end, counted = one_at_work(turns), Counted()
    waiting = [turns.submit(counted.joint(2 * number)) for number in range(MAXIMUM_TOGETHER + 3)]
    assert waiting.pop(1).cancel()
    may_end.set()
    assert [each.result() for each in waiting] == [0, *(20 * n for n in range(2, MAXIMUM_TOGETHER + 3))]
    # One of the first ones had been given up.
    assert counted.together == [
        [0, *range(4, 2 * MAXIMUM_TOGETHER, 2)],
        [2 * n for n in range(MAXIMUM_TOGETHER, MAXIMUM_TOGETHER + 3)],
    ]


def test_where_too_many_come_the_newest_are_worked_on_together(turns: Turns, clock: Clock) -> None:
    may_end, counted = one_at_work(turns), Counted()
    old = turns.submit(counted.joint(0))
    clock.now += 1.1 * EMPTIED_SECONDS
    waiting = [turns.submit(counted.joint(2 * number)) for number in range(1, MAXIMUM_TOGETHER + 3)]
    may_end.set()
    with pytest.raises(Late):
        old.result()
    assert [each.result() for each in waiting] == [20 * n for n in range(1, MAXIMUM_TOGETHER + 3)]
    newest = 2 * (MAXIMUM_TOGETHER + 2)
    assert sorted(counted.together[0]) == list(range(6, newest + 1, 2))
    assert counted.together[0][0] == newest
    assert counted.together[1:] == [[4, 2]]

"""What is open on another node: nothing of it is forgotten, nothing told twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rhapsody.abc import Report
from rhapsody.backends.member import Chunk
from rhapsody.backends.remote_tasks import OpenTasks
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause


def opened(*numbers: int) -> OpenTasks:
    tasks = OpenTasks()
    tasks.add(Chunk.of(list(numbers), [1] * len(numbers), [], []))
    return tasks


def test_what_was_not_reported_on_is_unknown_when_the_node_is_lost() -> None:
    tasks = opened(1, 2, 3)
    tasks.settle([Report(2, 1, State.DONE), Report(1, 1, State.RUNNING)])

    reports = tasks.lost("node7 was lost")

    assert [(report.number, report.attempt, report.state) for report in reports] == [
        (1, 1, State.UNKNOWN),
        (3, 1, State.UNKNOWN),
    ]
    assert {(report.failure.cause, report.failure.message) for report in reports if report.failure} == {
        (Cause.LOST, "node7 was lost")
    }


def test_nothing_is_told_twice() -> None:
    tasks = opened(1)

    first, second = tasks.lost("gone"), tasks.lost("gone")

    assert (len(first), second) == (1, [])


def test_what_was_handed_over_after_the_loss_is_given_back() -> None:
    tasks = opened(4)

    assert tasks.given_back() == [Report(4, 1, State.READY)]


def test_an_attempt_is_known_by_number_and_attempt() -> None:
    tasks = opened(4)

    assert ((4, 1) in tasks, (4, 2) in tasks, (5, 1) in tasks) == (True, False, False)


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8))))
def test_items_that_no_report_was_on_are_left(count: int, settled: list[tuple[int, int]]) -> None:
    tasks = OpenTasks()
    tasks.add(Chunk.of([7], [2], [], [], None, (0, count)))
    ranges = [(first, min(count, first + length)) for first, length in settled if first < count]

    tasks.settle([Report(7, 2, State.DONE, items=items) for items in ranges])
    left = [report.items for report in tasks.lost("gone")]

    expected = set(range(count)) - {index for items in ranges for index in range(*items)}
    assert sorted(index for items in left if items for index in range(*items)) == sorted(expected)

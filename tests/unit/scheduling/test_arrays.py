"""Array tasks: ranges of items, failures, retries, cancelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import TaskCanceled, TaskFailed
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy, Retry
from rhapsody.model.task import ComputeTask, TaskOptions
from tests.eventually import eventually
from tests.scripted import Launch, Rig, nodes_of, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import FreeNodes, Report
    from rhapsody.model.resources import Resources


def double(number: int) -> int:
    return 2 * number


def array_of(count: int, *, chunk: int | None = None, **options: Any) -> ArrayTask:  # noqa: ANN401 - of TaskOptions
    return ArrayTask(double, range(count), chunk=chunk, options=TaskOptions(**options))


def done(rig: Rig, launch: Launch) -> Report:
    assert launch.items is not None
    return rig.backend.ended(launch, value=[double(number) for number in range(*launch.items)])


def finish(rig: Rig) -> None:
    """Report every open range as done, in order, until the task has ended."""
    while rig.backend.open:
        rig.backend.hear(*(done(rig, launch) for launch in list(rig.backend.open.values())))


class TestRanges:
    async def test_every_item_is_launched_once_and_the_values_are_in_order(self) -> None:
        rig = Rig(nodes_of(3))
        array = array_of(1_000)

        await rig.submit(array)
        finish(rig)

        launched = sorted(launch.items or (0, 0) for launch in rig.backend.launches)
        assert [first for first, _ in launched] == [0, *(stop for _, stop in launched[:-1])]
        assert launched[-1][1] == 1_000
        assert (await array).return_value == [double(number) for number in range(1_000)]
        assert rig.counts == {"DONE": 1_000}
        assert rig.is_all_free

    async def test_a_chunk_that_was_asked_for_is_kept(self) -> None:
        rig = Rig(nodes_of(1))

        await rig.submit(array_of(10, chunk=4))
        finish(rig)

        assert [launch.items for launch in rig.backend.launches] == [(0, 4), (4, 8), (8, 10)]

    async def test_measured_items_come_in_larger_ranges(self) -> None:
        rig = Rig(nodes_of(1))
        await rig.submit(array_of(100_000))

        rig.backend.hear(done(rig, rig.backend.launches[0]))

        first, second = (launch.items for launch in rig.backend.launches)
        assert first is not None
        assert second is not None
        assert second[1] - second[0] > first[1] - first[0]

    async def test_an_array_of_nothing_is_done_at_once(self) -> None:
        rig = Rig()
        array = array_of(0)

        await rig.submit(array)

        assert (await array).return_value == []

    async def test_an_array_of_nothing_amid_a_chain_frees_what_depends_on_it(self) -> None:
        rig = Rig()
        first = ComputeTask(double, args=[1])
        empty = array_of(0, after=(first,))
        last = ComputeTask(double, args=[empty])
        await rig.submit(first, empty, last)

        rig.backend.done(first)

        assert rig.backend.running == [last]

    async def test_a_range_given_back_is_launched_again_under_another_number(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(4, chunk=4)
        await rig.submit(array)

        rig.backend.hear(rig.backend.given_back(rig.backend.launches[0]))
        finish(rig)

        assert [(launch.attempt, launch.items) for launch in rig.backend.launches] == [(1, (0, 4)), (2, (0, 4))]
        assert array.state is State.DONE
        assert rig.counts == {"DONE": 4}

    async def test_a_range_may_be_reported_in_parts(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(4, chunk=4)
        await rig.submit(array)
        whole = done(rig, rig.backend.launches[0])

        rig.backend.hear(whole._replace(items=(0, 3), value=[0, 2, 4]))
        between = (array.is_final, array.settled, rig.counts)
        rig.backend.hear(whole._replace(items=(3, 4), value=[6]))

        assert between == (False, 3, {"DONE": 3, "PLACED": 1})
        assert array.value == [0, 2, 4, 6]
        assert rig.counts == {"DONE": 4}


class TestFailures:
    async def test_failed_items_are_told_and_the_others_values_are_there(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(4, chunk=4)
        await rig.submit(array)
        launch = rig.backend.launches[0]
        whole = done(rig, launch)
        bad = rig.backend.ended(launch, State.FAILED)._replace(items=(1, 2))

        rig.backend.hear(bad, whole._replace(value=[0, None, 4, 6]))

        with pytest.raises(TaskFailed, match=r"1 of 4 items failed; the first is item 1: scripted exception"):
            await array
        assert array.value == [0, None, 4, 6]
        assert list(array.failures) == [1]
        assert rig.counts == {"DONE": 3, "FAILED": 1}
        assert rig.is_all_free

    async def test_a_failed_item_is_tried_again_alone(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(4, chunk=4, retry=Retry(attempts=2, delay_s=0.001))
        await rig.submit(array)
        launch = rig.backend.launches[0]
        bad = rig.backend.ended(launch, State.FAILED)._replace(items=(1, 2))

        rig.backend.hear(bad, done(rig, launch)._replace(value=[0, None, 4, 6]))
        await eventually(lambda: len(rig.backend.launches) > 1)
        finish(rig)

        assert rig.backend.launches[1].items == (1, 2)
        assert (await array).value == [0, 2, 4, 6]
        assert rig.counts == {"DONE": 4}

    async def test_lost_items_of_an_idempotent_array_are_repeated_but_not_for_ever(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(1, idempotent=True)
        await rig.submit(array)

        for _ in range(10):
            for launch in list(rig.backend.open.values()):
                rig.backend.hear(rig.backend.ended(launch, State.UNKNOWN, cause=Cause.LOST))
            if array.is_final:
                break
            await eventually(lambda: rig.backend.open)

        assert len(rig.backend.launches) == 3
        assert array.state is State.FAILED

    async def test_an_array_whose_dependency_failed_fails_with_all_its_items(self) -> None:
        rig = Rig()
        first = ComputeTask(double, args=[1], uid="first")
        array = array_of(5, after=(first,))
        await rig.submit(first, array)

        rig.backend.fail(first)

        with pytest.raises(TaskFailed, match="first"):
            await array
        assert rig.counts == {"FAILED": 6}

    async def test_a_retry_policy_that_raises_fails_its_items_alone(self) -> None:
        class Wrong:
            def delay_before_next(self, attempt: int, failure: Failure) -> float | None:  # noqa: ARG002 - the contract has it
                raise ValueError("boom")

        rig = Rig(nodes_of(1))
        array = array_of(1, retry=Wrong())
        await rig.submit(array)

        rig.backend.hear(rig.backend.ended(rig.backend.launches[0], State.FAILED))

        with pytest.raises(TaskFailed, match="retry policy failed: ValueError: boom"):
            await array

    async def test_an_array_that_cannot_be_placed_further_fails_once_what_runs_has_ended(self) -> None:
        class OnceOnly:
            asked = 0

            def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:  # noqa: ARG002 - the contract has it
                self.asked += 1
                if self.asked > 1:
                    raise ValueError("no more")
                return [(0, 1)]

        rig = Rig()
        array = array_of(8, chunk=4, policy=Policy(placement=OnceOnly()))
        await rig.submit(array)
        states = (array.state, len(rig.backend.open))

        finish(rig)

        assert states == (State.PLACED, 1)
        with pytest.raises(TaskFailed, match=r"4 of 8 items failed.*no more"):
            await array
        assert rig.counts == {"DONE": 4, "FAILED": 4}
        assert rig.is_all_free


class TestCancelling:
    async def test_nothing_more_is_launched_and_what_runs_is_stopped(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(10, chunk=4)
        await rig.submit(array)
        launch = rig.backend.launches[0]

        rig.scheduler.cancel([array])
        asked = list(rig.backend.canceled)
        rig.backend.hear(rig.backend.ended(launch, State.CANCELED))

        assert asked == [(array.number, 1)]
        with pytest.raises(TaskCanceled):
            await array
        assert len(rig.backend.launches) == 1
        assert rig.counts == {"CANCELED": 10}
        assert rig.is_all_free

    async def test_a_range_given_back_after_the_cancellation_stays_away(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(4, chunk=4)
        await rig.submit(array)

        rig.scheduler.cancel([array])
        rig.backend.hear(rig.backend.given_back(rig.backend.launches[0]))

        assert array.state is State.CANCELED
        assert rig.counts == {"CANCELED": 4}
        assert rig.is_all_free

    async def test_items_between_two_tries_end_as_the_first_has_left_them(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(1, retry=Retry(attempts=2, delay_s=60))
        await rig.submit(array)
        rig.backend.hear(rig.backend.ended(rig.backend.launches[0], State.FAILED))

        rig.scheduler.cancel([array])

        assert array.state is State.CANCELED
        assert rig.counts == {"FAILED": 1}
        assert array.failures[0].message == "scripted exception"

    async def test_an_item_that_waits_for_a_core_for_its_second_try_ends_as_the_first_has_left_it(self) -> None:
        rig = Rig(nodes_of(1))
        array, other = array_of(1, retry=2), plain()
        await rig.submit(array, other)
        rig.backend.hear(rig.backend.ended(rig.backend.launches[0], State.FAILED))
        await eventually(lambda: rig.scheduler.counts[State.READY] == 1)

        rig.scheduler.cancel([array])

        assert array.state is State.CANCELED
        assert rig.counts == {"FAILED": 1, "PLACED": 1}

    async def test_a_closing_session_launches_no_more_items(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(8, chunk=4)
        await rig.submit(array)

        rig.scheduler.close("the session drains")
        rig.backend.hear(done(rig, rig.backend.launches[0]))

        assert array.state is State.CANCELED
        assert rig.counts == {"DONE": 4, "CANCELED": 4}


class TestEvents:
    async def test_ranges_are_journaled_under_the_number_of_their_own_launch(self) -> None:
        rig = Rig(nodes_of(2))
        array = array_of(8, chunk=4)
        await rig.submit(array)
        first, second = rig.backend.launches

        rig.backend.hear(done(rig, first))
        rig.backend.hear(done(rig, second))

        seen = [(event.state, event.attempt, event.items) for event in rig.sink.events if event.items]
        placed = [(State.PLACED, 1, (0, 4)), (State.PLACED, 2, (4, 8))]
        assert seen == [*placed, (State.DONE, 1, (0, 4)), (State.DONE, 2, (4, 8))]

    async def test_a_late_report_of_an_earlier_launch_is_neither_counted_nor_journaled(self) -> None:
        rig = Rig(nodes_of(1))
        array = array_of(8, chunk=4)
        await rig.submit(array)
        late = done(rig, rig.backend.launches[0])
        rig.backend.hear(late)
        events = len(rig.sink.events)

        rig.backend.hear(late, late._replace(state=State.READY))

        assert len(rig.sink.events) == events
        assert rig.counts == {"DONE": 4, "PLACED": 4}

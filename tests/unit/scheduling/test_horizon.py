"""The end of the allocation: what is still started, what is set aside and comes back, who is warned."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.abc import Report
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.policy import Policy
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask, TaskOptions
from tests.eventually import eventually
from tests.scripted import Rig, nodes_of

if TYPE_CHECKING:
    from rhapsody.model.task import Task

SECOND = 1_000_000_000
PAIR = Resources(cores_per_rank=2)


def first(*_: object) -> None:
    """Do nothing."""


def second(*_: object) -> None:
    """Do nothing either."""


def rig_with(left_s: float, cores: int = 1) -> Rig:
    """Return a rig in which so much time is left."""
    rig = Rig(nodes_of(cores))
    rig.scheduler.finish_by(rig.backend.clock.now_ns + int(left_s * SECOND))
    return rig


def pass_time(rig: Rig, seconds: float) -> None:
    rig.backend.clock.now_ns += int(seconds * SECOND)


def end(rig: Rig, task: Task, took_s: float) -> None:
    """Report a task done that took so long, and let that time pass."""
    launch = rig.backend.launch_of(task)
    started_ns = rig.backend.clock()
    pass_time(rig, took_s)
    value: Any = None if launch.items is None else [None] * (launch.items[1] - launch.items[0])
    ended_ns = started_ns + int(took_s * SECOND)
    rig.backend.hear(Report(task.number, launch.attempt, State.DONE, started_ns, ended_ns, value, items=launch.items))


def program(name: str, *arguments: object, **options: Any) -> ComputeTask:  # noqa: ANN401 - options of ComputeTask
    return ComputeTask(executable=name, arguments=arguments, **options)


class TestGivenDurations:
    @pytest.mark.parametrize("what", [{"function": first}, {"executable": "prog"}], ids=["function", "executable"])
    async def test_task_that_would_end_too_late_is_not_started_and_stays_ready(self, what: dict[str, Any]) -> None:
        rig = rig_with(10)
        long, short = ComputeTask(**what, duration_s=10.1), ComputeTask(**what, duration_s=9.9)

        await rig.submit(long, short)

        assert rig.backend.running == [short]
        assert long.state is State.READY
        assert rig.backend.violations == []

    async def test_task_that_fitted_when_it_was_submitted_is_not_started_when_it_fits_no_more(self) -> None:
        rig = rig_with(10)
        running, waits, behind = (ComputeTask(first, duration_s=each) for each in (4, 7, 2))
        await rig.submit(running, waits, behind)

        end(rig, running, took_s=4)

        assert rig.backend.running == [behind]
        assert waits.state is State.READY

    async def test_tasks_that_end_too_late_keep_no_other_line_from_its_turn(self) -> None:
        rig = rig_with(10, cores=2)
        long = ComputeTask(first, duration_s=99, resources=PAIR, priority=5)
        others = [ComputeTask(first), program("prog"), ComputeTask(second, policy=Policy(priority=-1))]

        await rig.submit(long, *others)
        rig.backend.finish_all()

        assert {task.state for task in others} == {State.DONE}
        assert long.state is State.READY
        assert rig.is_all_free

    async def test_quick_tasks_of_known_duration_still_go_several_at_a_time(self) -> None:
        rig = rig_with(1)
        tasks = [ComputeTask(first, duration_s=0.001) for _ in range(100)]

        await rig.submit(*tasks)

        assert rig.backend.running == tasks[:10]

    async def test_the_first_that_is_not_started_is_told_with_the_reason(self) -> None:
        rig = rig_with(10)
        tasks = [ComputeTask(first, duration_s=duration_s, uid=f"t{duration_s}") for duration_s in (1_800, 20, 30)]

        await rig.submit(*tasks)

        (said,) = rig.said
        assert said.startswith("t1800 is not started: it is expected to take 1,800 s, and 10 s are left; the same goes")

    async def test_they_do_not_matter_without_an_end(self) -> None:
        rig = Rig()
        task = ComputeTask(first, duration_s=1e9)

        await rig.submit(task)

        assert rig.backend.running == [task]

    async def test_what_was_set_aside_is_canceled_with_the_reason_when_the_scheduler_is_closed(self) -> None:
        rig = rig_with(10)
        long, learned = ComputeTask(first, duration_s=99), [ComputeTask(second) for _ in range(3)]
        await rig.submit(long, *learned)
        end(rig, learned[0], took_s=8)

        rig.scheduler.close("out of time: it is late")

        assert rig.counts == {"DONE": 1, "CANCELED": 3}
        assert "out of time: it is late" in str(long.exception)


class TestLearnedDurations:
    async def test_function_whose_like_took_longer_than_what_is_left_is_not_started(self) -> None:
        rig = rig_with(10)
        slow, others = [ComputeTask(first) for _ in range(3)], [ComputeTask(second) for _ in range(2)]
        await rig.submit(*slow, *others)

        end(rig, slow[0], took_s=6)

        assert rig.backend.running == [others[0]]
        assert [task.state for task in slow[1:]] == [State.READY] * 2

    async def test_it_is_started_all_the_same_when_its_like_turns_out_to_be_quicker(self) -> None:
        rig = rig_with(100, cores=2)
        tasks = [ComputeTask(first) for _ in range(6)]
        await rig.submit(*tasks)
        end(rig, tasks[0], took_s=60)  # an outlier: 40 s are left
        held = [task.state for task in tasks[2:]]

        end(rig, tasks[1], took_s=1)  # the mean falls to 45.25 s, 39 s are left
        extra = ComputeTask(first, duration_s=0.5)
        await rig.submit(extra)
        end(rig, extra, took_s=0.5)  # to 34.06 s

        assert held == [State.READY] * 4
        assert rig.backend.running == tasks[2:4]

    async def test_executable_is_known_by_its_first_argument(self) -> None:
        rig = rig_with(10)
        before = program("gmx", "mdrun")
        await rig.submit(before)
        end(rig, before, took_s=6)
        again, other = program("gmx", "mdrun", "-s", "2.tpr"), program("gmx2", "grompp")

        await rig.submit(again, other)

        assert rig.backend.running == [other]

    async def test_executable_that_was_seen_running_is_learned_too(self) -> None:
        rig = rig_with(10)
        before = program("prog")
        await rig.submit(before)
        rig.backend.hear(rig.backend.started(rig.backend.launch_of(before)))
        end(rig, before, took_s=6)

        again = program("prog")
        await rig.submit(again)

        assert again.state is State.READY

    async def test_unknown_durations_are_started_however_little_time_is_left(self) -> None:
        rig = rig_with(0.5)
        pass_time(rig, 1)
        tasks = [ComputeTask(first), program("prog"), ArrayTask(second, range(3))]

        await rig.submit(*tasks)
        rig.backend.finish_all()

        assert {task.state for task in tasks} == {State.DONE}


class TestArrays:
    async def test_chunk_is_cut_so_that_it_ends_in_time(self) -> None:
        rig = rig_with(10)
        array = ArrayTask(first, range(100), chunk=50, options=TaskOptions(duration_s=3))

        await rig.submit(array)

        assert [launch.items for launch in rig.backend.launches] == [(0, 3)]

    async def test_items_that_end_too_late_are_not_started(self) -> None:
        rig = rig_with(10)
        array, other = ArrayTask(first, range(100), options=TaskOptions(duration_s=4)), ComputeTask(second)
        await rig.submit(array, other)

        end(rig, array, took_s=8)

        assert rig.backend.running == [other]
        assert rig.counts == {"DONE": 2, "READY": 98, "PLACED": 1}

    async def test_array_of_which_nothing_runs_any_more_ends_when_the_scheduler_is_closed(self) -> None:
        rig = rig_with(10)
        array = ArrayTask(first, range(100), options=TaskOptions(duration_s=4))
        await rig.submit(array)
        end(rig, array, took_s=8)

        rig.scheduler.close("out of time: it is late")

        assert array.state is State.CANCELED
        assert rig.counts == {"DONE": 2, "CANCELED": 98}

    async def test_duration_of_items_is_learned(self) -> None:
        rig = rig_with(10)
        array = ArrayTask(first, range(100), chunk=2)
        await rig.submit(array)

        end(rig, array, took_s=8)  # four seconds each

        assert rig.backend.running == []
        assert rig.counts == {"DONE": 2, "READY": 98}

    async def test_items_go_on_when_they_turn_out_to_be_quicker(self) -> None:
        rig = rig_with(10, cores=2)
        array = ArrayTask(first, range(100), chunk=1)
        await rig.submit(array)
        one, other = rig.backend.launches
        rig.backend.hear(report_items(rig, one.attempt, array, one.items, took_s=12))
        before = len(rig.backend.launches)

        rig.backend.hear(report_items(rig, other.attempt, array, other.items, took_s=0.1))

        assert before == 2
        assert len(rig.backend.launches) > 2


def report_items(rig: Rig, attempt: int, array: ArrayTask, items: tuple[int, int] | None, took_s: float) -> Report:
    """Return the report of items that took so long, without letting that time pass."""
    assert items is not None
    rig.backend.open.pop((array.number, attempt))
    started_ns = rig.backend.clock()
    ended_ns = started_ns + int(took_s * SECOND)
    return Report(array.number, attempt, State.DONE, started_ns, ended_ns, [None] * (items[1] - items[0]), items=items)


class TestWarnings:
    async def test_task_is_warned_as_long_before_the_end_as_it_asks_for(self) -> None:
        rig = rig_with(2)
        task = program("prog", warn_s=1.8, duration_s=0.1)
        end_ns = rig.backend.clock.now_ns + 2 * SECOND

        await rig.submit(task)
        await keep_time(rig, until=lambda: rig.backend.warned)

        assert rig.backend.warned == [(task.number, 1)]
        assert rig.backend.clock.now_ns >= end_ns - 1.8 * SECOND

    async def test_those_that_want_to_know_earlier_are_warned_first_and_those_that_do_not_ask_never(self) -> None:
        rig = rig_with(2, cores=4)
        tasks = [program("prog", warn_s=warn_s, duration_s=0.1) for warn_s in (1.7, 1.9, 1.8)]

        await rig.submit(program("prog", duration_s=0.1), *tasks)
        await keep_time(rig, until=lambda: len(rig.backend.warned) == 3)

        assert rig.backend.warned == [(tasks[index].number, 1) for index in (1, 2, 0)]

    async def test_task_that_has_ended_is_not_warned(self) -> None:
        rig = rig_with(2, cores=2)
        ended, running = program("prog", warn_s=1.95, duration_s=0.1), program("prog", warn_s=1.9, duration_s=0.1)
        await rig.submit(ended, running)
        rig.backend.done(ended)

        await keep_time(rig, until=lambda: rig.backend.warned)

        assert rig.backend.warned == [(running.number, 1)]

    async def test_task_is_not_started_without_time_to_do_something_worth_saving(self) -> None:
        rig = rig_with(10, cores=2)
        fits, does_not = program("prog", warn_s=4.9), program("prog", warn_s=5.1)

        await rig.submit(fits, does_not)

        assert rig.backend.running == [fits]

    async def test_task_that_can_be_warned_is_started_although_its_like_took_longer(self) -> None:
        rig = rig_with(10)
        before = program("prog", warn_s=1)
        await rig.submit(before)
        end(rig, before, took_s=7)

        again = program("prog", warn_s=1)
        await rig.submit(again)

        assert rig.backend.running == [again]

    async def test_entries_of_ended_tasks_do_not_pile_up(self) -> None:
        rig = rig_with(1_000)
        for _ in range(1_000):
            await rig.submit(program("prog", warn_s=1))
            rig.backend.finish_all()

        horizon = rig.scheduler._placer.horizon

        assert horizon is not None
        assert len(horizon._to_warn) < 200

    async def test_nobody_is_warned_after_the_end_of_the_session(self) -> None:
        rig = rig_with(0.2)
        await rig.submit(program("prog", warn_s=0.1, duration_s=0.01))
        rig.scheduler.abandon("over")

        horizon = rig.scheduler._placer.horizon

        assert horizon is not None
        assert horizon._timer is None
        assert rig.backend.warned == []


async def keep_time(rig: Rig, until: Any) -> None:  # noqa: ANN401 - a question
    """Let the rig's clock follow the loop's until something has become true."""
    loop = asyncio.get_running_loop()
    began, zero_ns = loop.time(), rig.backend.clock.now_ns

    def ask() -> object:
        rig.backend.clock.now_ns = max(rig.backend.clock.now_ns, zero_ns + int((loop.time() - began) * SECOND))
        return until()

    await eventually(ask)

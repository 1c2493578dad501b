"""Lines of ready tasks and their order."""

from __future__ import annotations

from typing import Any

from rhapsody.model.event import State
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.task import ComputeTask
from rhapsody.scheduling import queue as queue_module
from rhapsody.scheduling.costs import Costs
from rhapsody.scheduling.queue import CHUNK_LIMIT, CHUNK_NS, CHUNKED, SINGLY, Line, LineKey, ReadyQueue

POLICY = Policy()


def nothing() -> None:
    """Do nothing."""


def other() -> None:
    """Do nothing either."""


def key_of(priority: int = 0, alone: int = CHUNKED, **resources: Any) -> LineKey:  # noqa: ANN401 - of Resources
    return LineKey(priority, Resources(**resources) if resources else SERIAL, POLICY, alone)


def ready(count: int = 1, function: Any = nothing) -> list[ComputeTask]:  # noqa: ANN401 - any function
    tasks = [ComputeTask(function) for _ in range(count)]
    for task in tasks:
        task.state = State.READY
    return tasks


def line_with(tasks: list[ComputeTask], key: LineKey | None = None) -> Line:
    line = Line(key or key_of())
    line.tasks.extend(tasks)
    return line


class TestTaking:
    def test_a_function_of_unknown_duration_goes_alone(self) -> None:
        tasks = ready(5)

        taken = line_with(tasks).take(Costs(), 100)

        assert taken == tasks[:1]

    def test_quick_functions_go_together_until_their_time_is_worth_a_chunk(self) -> None:
        costs = Costs()
        costs.learn(nothing, CHUNK_NS // 4, 1)
        tasks = ready(50)

        taken = line_with(tasks).take(costs, 100)

        assert taken == tasks[:4]

    def test_a_slow_function_goes_alone(self) -> None:
        costs = Costs()
        costs.learn(nothing, 100 * CHUNK_NS, 1)
        tasks = ready(3)

        taken = line_with(tasks).take(costs, 100)

        assert taken == tasks[:1]

    def test_a_chunk_leaves_others_their_share(self) -> None:
        costs = Costs()
        costs.learn(nothing, 1, 1)

        assert len(line_with(ready(50)).take(costs, 7)) == 7

    def test_a_chunk_has_an_end_however_quick_its_tasks(self) -> None:
        costs = Costs()
        costs.learn(nothing, 1, 1)

        assert len(line_with(ready(CHUNK_LIMIT + 5)).take(costs, 10_000)) == CHUNK_LIMIT

    def test_a_chunk_ends_before_a_function_of_unknown_duration(self) -> None:
        costs = Costs()
        costs.learn(nothing, 1, 1)
        known, unknown = ready(3), ready(1, other)
        line = line_with(known + unknown)

        first, second = line.take(costs, 100), line.take(costs, 100)

        assert (first, second) == (known, unknown)

    def test_executables_go_one_at_a_time(self) -> None:
        costs = Costs()
        costs.learn(nothing, 1, 1)
        tasks = ready(3)

        assert line_with(tasks, key_of(alone=SINGLY)).take(costs, 100) == tasks[:1]

    def test_canceled_tasks_are_passed_over(self) -> None:
        costs = Costs()
        costs.learn(nothing, 1, 1)
        tasks = ready(4)
        tasks[0].state = tasks[2].state = State.CANCELED

        assert line_with(tasks).take(costs, 100) == [tasks[1], tasks[3]]

    def test_a_line_of_canceled_tasks_is_empty(self) -> None:
        tasks = ready(3)
        for task in tasks:
            task.state = State.CANCELED

        assert not line_with(tasks).prune()


class TestOrder:
    def test_higher_priority_goes_first_then_who_came_first(self) -> None:
        queue = ReadyQueue()
        late, early = queue.line(key_of(cores_per_rank=2)), queue.line(key_of(cores_per_rank=3))
        urgent = queue.line(key_of(priority=1))
        early.tasks.extend(ready())
        late.tasks.extend(ready())
        urgent.tasks.extend(ready())
        for line in (late, urgent, early):
            queue.push(line)

        order = [queue.pop() for _ in range(4)]

        assert order == [urgent, early, late, None]

    def test_the_same_key_gives_the_same_line(self) -> None:
        queue = ReadyQueue()

        assert queue.line(key_of(cores_per_rank=2)) is queue.line(key_of(cores_per_rank=2))

    def test_a_line_is_queued_once_however_often_it_is_pushed(self) -> None:
        queue = ReadyQueue()
        line = queue.line(key_of())
        line.tasks.extend(ready())
        queue.push(line)
        queue.push(line)

        assert [queue.pop(), queue.pop()] == [line, None]

    def test_a_line_is_next_unless_another_goes_before_it(self) -> None:
        queue = ReadyQueue()
        mine, urgent = queue.line(key_of()), queue.line(key_of(priority=1))
        mine.tasks.extend(ready())
        alone = queue.is_next(mine)
        urgent.tasks.extend(ready())
        queue.push(urgent)

        assert alone
        assert not queue.is_next(mine)
        assert not queue.is_next(queue.line(key_of(priority=9)))

    def test_the_length_counts_all_lines(self) -> None:
        queue = ReadyQueue()
        queue.line(key_of()).tasks.extend(ready(2))
        queue.line(key_of(priority=1)).tasks.extend(ready(3))

        assert len(queue) == 5


class TestMemory:
    def test_lines_that_ran_empty_are_forgotten_when_there_are_many(self) -> None:
        queue = ReadyQueue()
        for priority in range(3 * queue_module.LINES_KEPT):
            line = queue.line(key_of(priority=priority))
            queue.forget(line)

        assert len(queue._lines) <= queue_module.LINES_KEPT

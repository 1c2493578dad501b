"""Whatever tasks are said to take, and take, nothing is launched that is expected to end after the deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from rhapsody.abc import Report
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask, TaskOptions
from rhapsody.scheduling.queue import CHUNK_NS
from tests.scripted import Launch, Rig, ScriptedBackend, nodes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import Assignment
    from rhapsody.model.task import Task

MILLISECOND = 1_000_000
ROUNDING = 1_000
"""The clock ticks with each look at it."""


def quick(*_: object) -> None:
    """Do nothing."""


def slow(*_: object) -> None:
    """Do nothing either."""


class Judge(ScriptedBackend):
    """Notes as a violation what was launched and is expected to end too late."""

    rig: Rig
    end_ns: int

    def __init__(self) -> None:
        super().__init__()
        self._expected: dict[tuple[int, int], float] = {}

    @override
    def launch(self, batch: Sequence[Assignment]) -> None:
        for assignment in batch:
            ahead = [each.key for each in self.open.values() if each.placement is assignment.placement]
            due_ns = self.clock.now_ns + sum(self._expected[key] for key in ahead)
            for task in assignment.tasks:
                expected_ns = self.rig.scheduler._placer.costs.expected_ns(task)  # type: ignore[arg-type]
                count = assignment.items[1] - assignment.items[0] if assignment.items else 1
                due_ns += (expected_ns or 0) * count
                if expected_ns is not None and due_ns > self.end_ns + ROUNDING:
                    self.violations.append(f"{task} is expected to end {due_ns - self.end_ns} ns too late")
                self._expected[task.number, assignment.attempt or task.attempt] = (expected_ns or 0) * count
        super().launch(batch)


class Campaign:
    """A rig with a deadline, and tasks of known and unknown durations."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.rig = Rig(nodes_of(2))
        judge = Judge()
        judge.rig, judge.end_ns = self.rig, judge.clock.now_ns + self.draw(st.integers(0, 500)) * MILLISECOND
        judge.listener = self.rig.scheduler
        self.judge = self.rig.backend = self.rig.scheduler._backend = self.rig.scheduler._outbox._backend = judge
        self.rig.scheduler._clock = self.rig.scheduler._items._clock = judge.clock
        self.rig.scheduler.finish_by(judge.end_ns)
        self.tasks: list[Task] = []

    def make(self) -> Task:
        function = self.draw(st.sampled_from([quick, slow]))
        given_s = self.draw(st.sampled_from([None, None, 0.0005, 0.05, 0.3, 1.0]))
        kind = self.draw(st.sampled_from(["function", "function", "executable", "array", "wide"]))
        if kind == "array":
            chunk = self.draw(st.sampled_from([None, 20]))
            return ArrayTask(function, range(30), chunk=chunk, options=TaskOptions(duration_s=given_s))
        if kind == "executable":
            name, first = self.draw(st.sampled_from(["a", "b"])), self.draw(st.sampled_from(["x", "y"]))
            warn_s = self.draw(st.sampled_from([None, None, 0.1]))
            return ComputeTask(executable=name, arguments=[first], duration_s=given_s, warn_s=warn_s)
        resources = Resources(cores_per_rank=2 if kind == "wide" else 1)
        return ComputeTask(function, duration_s=given_s, resources=resources)

    async def step(self) -> None:
        match self.draw(st.sampled_from(["submit", "wait", "answer", "answer", "give back"])):
            case "submit":
                batch = [self.make() for _ in range(self.draw(st.integers(1, 30)))]
                self.tasks += batch
                await self.rig.submit(*batch)
            case "wait":
                self.judge.clock.now_ns += self.draw(st.integers(0, 100)) * MILLISECOND
            case "answer" if self.judge.open:
                launches = list(self.judge.open.values())
                self.judge.hear(*map(self.answer_to, launches[: self.draw(st.integers(1, 5))]))
            case "give back" if self.judge.open:
                launch = next(reversed(self.judge.open.values()))
                if launch.task.state is State.PLACED:
                    self.judge.hear(self.judge.given_back(launch))

    def answer_to(self, launch: Launch) -> Report:
        took_ns = int(self.draw(st.sampled_from([0.01, 1, 10, 80])) * MILLISECOND)
        started_ns = self.judge.clock()
        value: Any = [None] * (launch.items[1] - launch.items[0]) if launch.items else None
        return Report(
            launch.task.number, launch.attempt, State.DONE, started_ns, started_ns + took_ns, value, items=launch.items
        )

    def check_that_no_core_idles(self) -> None:
        """Check that what would end in time does not wait while there is room for it."""
        free, costs = self.rig.mapper.free_cores, self.rig.scheduler._placer.costs
        for task in self.tasks:
            if task.state is not State.READY or task.resources.cores_per_rank > free:
                continue
            expected_ns = costs.expected_ns(task) or 0  # type: ignore[arg-type]
            assert self.judge.clock.now_ns + expected_ns > self.judge.end_ns - 2 * CHUNK_NS, f"{task} waits for nothing"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_is_launched_that_is_expected_to_end_too_late_and_the_rest_is(data: st.DataObject) -> None:
    async def play() -> None:
        campaign = Campaign(data)
        for _ in range(data.draw(st.integers(1, 25))):
            await campaign.step()
            assert campaign.judge.violations == []
            campaign.check_that_no_core_idles()
        campaign.rig.scheduler.close("out of time")
        campaign.judge.finish_all()
        assert not campaign.rig.scheduler.tasks
        assert campaign.rig.is_all_free
        campaign.rig.scheduler.abandon("over")

    asyncio.run(play())

"""The scheduler against a backend that answers in any order, gives back, repeats itself, loses nodes, and dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.task import ComputeTask, Task, TaskOptions
from tests.scripted import Launch, Rig, nodes_of

if TYPE_CHECKING:
    from rhapsody.abc import Report

ANSWERS = ["done", "done", "done", "failed", "given back", "running", "canceled", "unknown"]
SMALL = [SERIAL, SERIAL, Resources(cores_per_rank=2)]
WIDE = Resources(ranks=3)
"""Takes two nodes."""
PLAIN_PATHS = {
    State.WAITING: {State.READY, State.FAILED, State.CANCELED, State.UNKNOWN},
    State.READY: {State.PLACED, State.FAILED, State.CANCELED},
    State.PLACED: {State.RUNNING, State.READY, State.FAILED, State.CANCELED, State.UNKNOWN},
    State.RUNNING: {State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN},
    State.FAILED: {State.WAITING},
    State.UNKNOWN: {State.WAITING},
    State.DONE: set(),
    State.CANCELED: set(),
}
"""What may follow a state; FAILED and UNKNOWN are followed by something only when another attempt is."""


def nothing(*_: object) -> None:
    """Do nothing."""


class Campaign:
    """A rig, its tasks, and how often each was told to have ended.

    Args:
        data: Decides what happens.
        loses_nodes: Whether one of the two nodes may be lost.
    """

    def __init__(self, data: st.DataObject, *, loses_nodes: bool = False) -> None:
        self.draw = data.draw
        self.rig = Rig(nodes_of(2, count=2))
        self.tasks: list[Task] = []
        self.told: Counter[Task] = Counter()
        self.heard: list[Report] = []
        """Final reports, to be repeated."""
        self.lost: set[int] = set()
        """Nodes."""
        self.actions = ["submit", "answer", "answer", "answer", "repeat", "cancel", *["lose"] * loses_nodes]

    def make(self) -> Task:
        options: dict[str, Any] = {
            "retry": self.draw(st.sampled_from([None, 1, 3])),
            "idempotent": self.draw(st.booleans()),
        }
        earlier = self.draw(st.lists(st.sampled_from(self.tasks), max_size=2)) if self.tasks else []
        if self.draw(st.integers(0, 5)) == 0:
            count = self.draw(st.integers(0, 9))
            task: Task = ArrayTask(nothing, range(count), chunk=3, options=TaskOptions(after=tuple(earlier), **options))
        else:
            task = ComputeTask(
                nothing,
                args=[earlier],
                resources=self.draw(st.sampled_from(SMALL if self.lost else [*SMALL, WIDE])),
                priority=self.draw(st.integers(0, 1)),
                when_dependency_fails=self.draw(st.sampled_from(["fail", "run"])),
                **options,
            )
        self.tasks.append(task)
        return task

    async def step(self) -> None:
        action = self.draw(st.sampled_from(self.actions))
        if action == "submit":
            batch = [self.make() for _ in range(self.draw(st.integers(1, 4)))]
            await self.rig.submit(*batch)
            for task in batch:
                task.watch(self.note)
        elif action == "answer" and self.rig.backend.open:
            launches = list(self.rig.backend.open.values())
            chosen = self.draw(st.lists(st.sampled_from(launches), unique_by=lambda each: each.key, min_size=1))
            reports = [self.answer_to(launch) for launch in chosen]
            self.heard += [report for report in reports if report.state.is_final]
            self.rig.backend.hear(*reports)
        elif action == "repeat" and self.heard:
            self.rig.backend.hear(self.draw(st.sampled_from(self.heard)))
        elif action == "cancel" and self.tasks:
            self.rig.scheduler.cancel([self.draw(st.sampled_from(self.tasks))])
        elif action == "lose" and not self.lost:
            self.lose(self.draw(st.integers(0, 1)), reports_first=self.draw(st.booleans()))

    def lose(self, node: int, *, reports_first: bool) -> None:
        """Lose a node, and all that runs there."""
        backend = self.rig.backend
        self.lost.add(node)
        gone = [launch for launch in backend.open.values() if node in launch.placement.nodes]
        reports = [backend.ended(launch, State.UNKNOWN, cause=Cause.LOST) for launch in gone]
        self.heard += reports
        if reports_first:
            backend.hear(*reports)
        self.rig.scheduler.nodes_lost([node], "nothing was heard of it")
        if not reports_first:
            backend.hear(*reports)
        stranded = [launch for launch in backend.open.values() if node in launch.placement.nodes]
        assert not stranded or reports_first
        backend.hear(*(backend.given_back(launch) for launch in stranded))

    def note(self, task: Task) -> None:
        self.told[task] += 1
        assert self.rig.sink.states_of(task)[-1] is task.state, "told before it was written"

    def answer_to(self, launch: Launch) -> Report:
        backend = self.rig.backend
        asked_to_stop = launch.key in backend.canceled
        match self.draw(st.sampled_from(ANSWERS)):
            case "failed":
                return backend.ended(launch, State.FAILED)
            case "canceled" if asked_to_stop:
                return backend.ended(launch, State.CANCELED)
            case "unknown":
                return backend.ended(launch, State.UNKNOWN, cause=Cause.LOST)
            case "given back" if launch.task.state is not State.RUNNING:
                return backend.given_back(launch)
            case "running" if launch.task.state is not State.RUNNING:
                return backend.started(launch)
            case _:
                return backend.ended(launch, value=None if launch.items else launch.attempt)

    def check(self) -> None:
        """Check what must hold between any two steps."""
        rig = self.rig
        assert rig.backend.violations == []
        assert not [launch for launch in rig.backend.open.values() if self.lost.intersection(launch.placement.nodes)]
        assert min(rig.scheduler.counts.values(), default=0) >= 0
        weights = Counter[str]()
        for task in self.tasks:
            if not isinstance(task, ArrayTask):
                weights[task.state] += 1
        items = sum(len(task) for task in self.tasks if isinstance(task, ArrayTask))
        assert sum(rig.counts.values()) == sum(weights.values()) + items
        assert all(rig.counts.get(state, 0) >= count for state, count in weights.items())
        assert {task for task in self.tasks if not task.is_final} == set(rig.scheduler.tasks)

    def check_end(self) -> None:
        """Check what must hold once nothing is open."""
        assert self.rig.mapper.free_cores == self.rig.mapper.usable_cores == 4 - 2 * len(self.lost)
        assert not self.rig.scheduler.tasks
        assert not self.rig.scheduler.running
        assert self.told == Counter(self.tasks)
        assert set(self.rig.counts) <= {"DONE", "FAILED", "CANCELED", "UNKNOWN"}
        for task in self.tasks:
            if not isinstance(task, ArrayTask):
                self.check_path(task)

    def check_path(self, task: Task) -> None:
        events = self.rig.sink.of(task)
        states = [state for state, _ in events]
        assert states[0] is State.WAITING
        assert states[-1] is task.state
        for before, after in pairwise(states):
            assert after in PLAIN_PATHS[before], states
        launched = [attempt for state, attempt in events if state is State.PLACED]
        assert launched == sorted(launched)
        if task.state is State.DONE:
            assert task.value == launched[-1], "a stale attempt completed the task"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_task_ends_exactly_once_whatever_the_backend_answers(data: st.DataObject) -> None:
    async def play() -> None:
        campaign = Campaign(data, loses_nodes=True)
        for _ in range(data.draw(st.integers(1, 25))):
            await campaign.step()
            campaign.check()
        for _ in range(1_000):
            if not campaign.rig.scheduler.tasks:
                break
            await asyncio.sleep(0)  # tries without delay are queued by a timer
            campaign.rig.backend.finish_all()
        campaign.check()
        campaign.check_end()

    asyncio.run(play())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(["close", "broken", "abandon"]))
def test_every_task_ends_exactly_once_when_the_session_ends_amid_the_run(data: st.DataObject, end: str) -> None:
    async def play() -> None:
        campaign = Campaign(data, loses_nodes=True)
        for _ in range(data.draw(st.integers(1, 15))):
            await campaign.step()
        if end == "close":
            campaign.rig.scheduler.close("the session drains")
            for _ in range(100):
                await asyncio.sleep(0)
                campaign.rig.backend.finish_all()
        elif end == "broken":
            backend = campaign.rig.backend
            lost = [backend.ended(launch, State.UNKNOWN, cause=Cause.LOST) for launch in backend.open.values()]
            backend.hear(*lost)
            campaign.rig.scheduler.broken("it is gone")
        else:
            campaign.rig.scheduler.abandon("nobody saw it")
        campaign.check()
        assert not campaign.rig.scheduler.tasks
        assert campaign.told == Counter(campaign.tasks)

    asyncio.run(play())

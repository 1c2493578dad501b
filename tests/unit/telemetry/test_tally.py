"""The tally of a journal says what the scheduler counted, and why tasks failed."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.reader import JournalReader
from rhapsody.telemetry.tally import OneCause, Tally
from tests.unit.scheduling.test_scheduler_properties import Campaign
from tests.unit.telemetry.twin import Twin, noop, square

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND_NS = 1_000_000_000
UNHAPPY = (State.FAILED, State.UNKNOWN)


class Follower:
    """Tallies a journal while it is written."""

    def __init__(self, folder: Path) -> None:
        self.reader = JournalReader(folder)
        self.tally = Tally(self.reader.uid_of)

    def look(self) -> Tally:
        """Take what is new; return the tally."""
        for found in self.reader:
            self.tally.take(found)
        return self.tally


def told_by(twin: Twin) -> Tally:
    twin.journal.close()
    return Follower(twin.folder).look()


class Tee:
    """Hands on what a scheduler tells a sink, to several."""

    def __init__(self, *sinks: object) -> None:
        self._sinks = sinks

    def __getattr__(self, name: str) -> Callable[..., None]:
        def hand_on(*args: object, **kwargs: object) -> None:
            for sink in self._sinks:
                getattr(sink, name)(*args, **kwargs)

        return hand_on


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_counts_are_those_of_the_scheduler_whatever_happens(data: st.DataObject) -> None:
    async def play(folder: Path) -> None:
        campaign = Campaign(data, loses_nodes=True)
        rig, journal = campaign.rig, Journal.create(folder, {"uid": "run"})
        scheduler = rig.scheduler
        scheduler._sink = scheduler._outbox._sink = scheduler._items._sink = Tee(rig.sink, journal)
        follower = Follower(folder)
        try:
            for _ in range(data.draw(st.integers(1, 15))):
                await campaign.step()
                counts = follower.look().counts
                assert sum(counts.values()) == sum(rig.counts.values())
                assert counts.get(State.DONE, 0) == rig.counts.get("DONE", 0)
            for _ in range(1_000):
                if not rig.scheduler.tasks:
                    break
                await asyncio.sleep(0)
                rig.backend.finish_all()
        finally:
            journal.close()
        tally = follower.look()
        at_once = Follower(folder).look()
        failed = Counter(str(task.failure.cause) for task in campaign.tasks if task.state in UNHAPPY and task.failure)
        assert tally.counts == rig.counts == at_once.counts
        assert {group.cause: group.tasks for group in tally.failures if group.cause != "item"} == failed
        assert tally.failures == at_once.failures
        assert tally.running == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


def test_a_failure_that_was_tried_again_is_none(tmp_path: Path) -> None:
    twin, (first, second) = Twin(tmp_path), (ComputeTask(noop, uid="first"), ComputeTask(noop, uid="second"))
    first.failure = second.failure = Failure(Cause.SIGNAL, "killed by signal 9")
    twin.accepted([first, second], 1, ready=True)
    twin.entered(State.FAILED, [first, second], 2)
    twin.entered(State.WAITING, [first], 3)

    tally = told_by(twin)

    assert tally.counts == {State.WAITING: 1, State.FAILED: 1}
    assert tally.failures == [OneCause("signal", 1, "killed by signal 9", "second")]


def test_failed_items_of_a_map_are_told_before_it_has_ended(tmp_path: Path) -> None:
    twin, array = Twin(tmp_path), ArrayTask(square, range(10), uid="squares")
    array.attempt = 1
    twin.accepted([array], 1, ready=True)
    twin.items_entered(State.FAILED, array, (3, 4), 2, "no such number")
    twin.items_entered(State.DONE, array, (0, 6), 3, "")

    tally = told_by(twin)

    assert tally.counts == {State.READY: 4, State.DONE: 5, State.FAILED: 1}
    assert tally.failures == [OneCause("item", 1, "item 3: no such number", "squares")]


def test_what_runs_is_told_by_label_the_longest_running_first(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    tasks = [ComputeTask(square), ComputeTask(noop), ComputeTask(square), ComputeTask(noop)]
    twin.accepted(tasks, 1, ready=True)
    twin.entered(State.RUNNING, tasks[:3], [9, 5, 7])

    kinds = told_by(twin).running

    assert [(kind.label, kind.tasks, kind.since_ns) for kind in kinds] == [("noop", 1, 5), ("square", 2, 7)]


def test_the_rate_is_that_of_the_last_seconds(tmp_path: Path) -> None:
    twin, tasks = Twin(tmp_path), [ComputeTask(noop) for _ in range(30)]
    twin.accepted(tasks, 1, ready=True)
    twin.entered(State.DONE, tasks[:20], 10 * SECOND_NS)
    twin.entered(State.DONE, tasks[20:], 20 * SECOND_NS)

    tally = told_by(twin)

    assert tally.last_ns == 20 * SECOND_NS
    assert tally.rate(21 * SECOND_NS) == 2.0
    assert tally.rate(40 * SECOND_NS) == 0.0


def test_tasks_whose_acceptance_is_lost_are_counted_all_the_same(tmp_path: Path) -> None:
    twin, task = Twin(tmp_path), ComputeTask(noop)
    twin.entered(State.DONE, [task], 2)

    tally = told_by(twin)

    assert tally.counts == {State.DONE: 1}

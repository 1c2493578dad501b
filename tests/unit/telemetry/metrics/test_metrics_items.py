"""The metrics of array tasks: their items count each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from tests.unit.telemetry.metrics.story import Story, array, task

if TYPE_CHECKING:
    from pathlib import Path

DONE, FAILED, READY, RUNNING = State.DONE, State.FAILED, State.READY, State.RUNNING


class TestItems:
    def test_items_count_each_beside_tasks(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(100)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 60), 1)
        story.launch(0, each, (60, 100), 2)
        story.items(DONE, 5, each, (0, 60), 1)
        story.items(DONE, 10, each, (60, 100), 2)
        story.done(10, each)
        story.whole(0, 1, 2, task())

        found = story.measured()

        assert found.tasks == {"DONE": 101}
        assert found.throughput == pytest.approx(10.1)
        assert [(family.kind, family.accepted, family.runs) for family in found.families] == [
            ("map", 100, 100),
            ("task", 1, 1),
        ]

    def test_items_under_way_are_counted_in_their_states(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(100)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(1, each, (0, 20), 1)
        story.launch(1, each, (20, 50), 2)
        story.items(RUNNING, 2, each, (20, 50), 2)
        story.items(DONE, 4, each, (20, 25), 2)

        assert story.measured().tasks == {"READY": 50, "PLACED": 20, "RUNNING": 25, "DONE": 5}

    def test_a_launch_whose_start_was_seen_runs_from_then_on(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        each = array(4)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 4), 1)
        story.items(RUNNING, 4, each, (0, 4), 1)
        story.items(DONE, 7, each, (0, 2), 1)
        story.items(DONE, 10, each, (2, 4), 1)
        story.done(10, each)

        found = story.measured()

        assert found.core_utilization == pytest.approx(0.6)
        assert found.width is not None
        assert found.width.mean == pytest.approx(0.6)

    def test_a_launch_whose_start_was_not_seen_runs_from_its_placement_on(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        each = array(4)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(2, each, (0, 4), 1)
        story.items(DONE, 10, each, (0, 4), 1)
        story.done(10, each)

        found = story.measured()

        assert found.core_utilization == pytest.approx(0.8)
        assert found.arrivals.count == 4

    def test_items_that_failed_are_left_out_of_the_range_that_is_done(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(10)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 10), 1)
        story.items(FAILED, 1, each, (3, 4), 1, "ValueError: no")
        story.items(FAILED, 1, each, (5, 6), 1, "ValueError: no")
        story.items(DONE, 1, each, (0, 10), 1)
        story.fail(2, each, text="2 of 10 items failed; the first is item 3: ValueError: no")

        found = story.measured()

        assert found.tasks == {"DONE": 8, "FAILED": 2}
        assert [(group.cause, group.count) for group in found.failures] == [("exception", 2)]
        assert found.failures[0].example == "2 of 10 items failed; the first is item 3: ValueError: no"

    def test_an_item_that_is_tried_again_counts_once_and_arrives_once(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(3)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 3), 1)
        story.items(FAILED, 1, each, (1, 2), 1, "ValueError: no")
        story.items(DONE, 1, each, (0, 3), 1)
        story.launch(2, each, (1, 2), 2)
        story.items(DONE, 3, each, (1, 2), 2)
        story.done(3, each)

        found = story.measured()

        assert found.tasks == {"DONE": 3}
        assert found.arrivals.count == 3
        assert found.failures == []

    def test_items_that_are_given_back_arrive_when_they_run(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(10)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 10), 1)
        story.items(RUNNING, 0, each, (0, 10), 1)
        story.items(FAILED, 4, each, (0, 1), 1, "ended by SIGSEGV")
        story.items(READY, 4, each, (1, 10), 1)
        story.launch(5, each, (1, 10), 2)
        story.items(DONE, 10, each, (1, 10), 2)
        story.fail(10, each, cause=Cause.SIGNAL)

        found = story.measured()

        assert found.tasks == {"DONE": 9, "FAILED": 1}
        assert found.arrivals.count == 10
        assert found.core_utilization == pytest.approx((4 + 5) / (4 * 10))

    def test_items_that_were_never_launched_end_with_their_array_task(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each, other = array(100), array(7)
        story.submit(0, each, other)
        story.ready(0, each)
        story.launch(0, each, (0, 10), 1)
        story.items(DONE, 1, each, (0, 10), 1)
        story.enter(State.CANCELED, 2, each)
        story.fail(2, other, cause=Cause.DEPENDENCY, text="task.000001 failed")

        found = story.measured()

        assert found.tasks == {"DONE": 10, "FAILED": 7, "CANCELED": 90}
        assert [(group.cause, group.count) for group in found.failures] == [("dependency", 7)]

    def test_why_items_failed_is_not_known_before_their_array_task_has_ended(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(10)
        story.submit(0, each)
        story.ready(0, each)
        story.launch(0, each, (0, 5), 1)
        story.items(FAILED, 1, each, (2, 3), 1, "ValueError: no")

        failures = story.measured().failures

        assert [(group.cause, group.count, group.example) for group in failures] == [
            (None, 1, "item 2: ValueError: no")
        ]

    def test_an_array_task_without_items_counts_nothing(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.submit(0, each := array(0))
        story.ready(0, each)
        story.done(1, each)

        assert story.measured().tasks == {}

"""The metrics of runs with several sessions, of those that crashed, and of damaged journals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.model.resources import Resources
from rhapsody.telemetry.frames import Restored, encode_frame
from rhapsody.telemetry.metrics import Metrics, measure
from rhapsody.telemetry.reader import JournalReader, Newcomers, Opened
from tests.unit.telemetry.metrics.story import T0, S, Story, array, task
from tests.unit.telemetry.twin import offsets_of, only_segment

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.model.task import Task
    from rhapsody.telemetry.frames import Range


def restore(story: Story, at: float, each: Task, items: Range | None = None) -> None:
    """Record that a task, or some items, were done in an earlier session."""
    journal = story.journal
    record = Restored(1, T0 + round(at * S), [each.number], 1, [] if items is None else [items], 0, 0)
    journal._frames.append(encode_frame(journal._index, record))
    journal._index += 1


class TestSessions:
    def test_the_time_between_sessions_does_not_count(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=2)
        story.whole(0, 0, 10, task(), task())
        story.resume()
        story.whole(1_000, 1_005, 1_010, task())

        found = story.measured()

        assert found.makespan_s == 20.0
        assert found.throughput == pytest.approx(3 / 20)
        assert found.core_utilization == pytest.approx((2 * 10 + 5) / (2 * 20))
        assert found.width is not None
        assert found.width.mean == pytest.approx(15 / 20)

    def test_restored_tasks_stay_done_and_do_not_count_as_done_again(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        first, second, third = task(), task(), task()
        story.whole(0, 0, 10, first, second)
        story.resume()
        again, more = task(), task()
        story.submit(100, again, more, third)
        restore(story, 101, again)
        restore(story, 101, more)
        story.place(105, third)
        story.run_from(105, third)
        story.done(110, third)

        found = story.measured()

        assert found.tasks == {"DONE": 3}
        assert found.done == 3
        assert found.throughput == pytest.approx(3 / 20)
        assert [(each.done, each.restored) for each in found.sessions] == [(2, 0), (1, 2)]

    def test_restored_items_stay_done(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.resume()
        each = array(10)
        story.submit(0, each)
        restore(story, 0, each, (0, 6))
        story.ready(1, each)
        story.launch(1, each, (6, 10), 1)
        story.items(State.DONE, 5, each, (6, 10), 1)
        story.done(5, each)

        found = story.measured()

        assert found.tasks == {"DONE": 10}
        assert (found.done, found.sessions[-1].restored) == (4, 6)
        assert found.arrivals.count == 4

    def test_a_session_that_crashed_ends_with_its_last_event(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        done, running, waiting = task(), task(), task()
        story.whole(0, 0, 4, done)
        story.submit(4, running, waiting)
        story.place(5, running)
        story.run_from(6, running)
        story.ready(10, waiting)
        story.resume()
        story.whole(100, 100, 110, task(), task())

        found = story.measured()

        assert found.makespan_s == 20.0
        assert found.core_utilization == pytest.approx((4 + 4 + 20) / 20)
        assert found.tasks == {"DONE": 2}
        assert found.sessions[0].tasks == {"READY": 1, "RUNNING": 1, "DONE": 1}

    def test_what_was_under_way_is_in_its_state_if_nothing_followed(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        done, running = task(), task()
        story.whole(0, 0, 4, done)
        story.submit(0, running)
        story.place(5, running)
        story.run_from(6, running)

        assert story.measured().tasks == {"RUNNING": 1, "DONE": 1}

    def test_numbers_and_types_begin_anew_in_each_session(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        wide = task(Resources(ranks=2))
        story.whole(0, 0, 10, wide)
        story.resume()
        narrow = task()
        narrow.number = wide.number
        story.whole(50, 50, 60, narrow)

        found = story.measured()

        assert found.width is not None
        assert (found.width.peak, found.width.mean) == (1, 1.0)
        assert [each.type_name for each in found.families] == ["mpi-cpu-2", "serial-cpu-1"]
        assert found.arrivals.series[0] > 0
        assert found.arrivals.count == 2


class TestDamage:
    def test_a_journal_that_breaks_off_is_measured_up_to_there(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 1, 2, task())
        story.whole(0, 3, 4, task())
        story.journal.close()
        path = only_segment(tmp_path)
        path.write_bytes(path.read_bytes()[:-3])

        assert measure(tmp_path).tasks == {"RUNNING": 1, "DONE": 1}

    def test_damage_is_an_error_unless_somebody_asks_to_be_told(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        for second in range(5):
            story.whole(second, second, second + 1, task())
        story.journal.close()
        path = only_segment(tmp_path)
        data = bytearray(path.read_bytes())
        at = offsets_of(path)[8]
        data[at + 20] ^= 0xFF
        path.write_bytes(data)
        told: list[int] = []

        found = measure(tmp_path, lambda damage: told.append(damage.offset))

        assert told == [at]
        assert sum(found.tasks.values()) == 5
        with pytest.raises(JournalError, match=f"at offset {at}"):
            measure(tmp_path)

    def test_tasks_whose_acceptance_is_lost_are_counted_and_not_measured(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        each = array(5)
        story.whole(0, 0, 4, task(), task())
        story.submit(0, each)
        story.ready(0, each)
        story.launch(1, each, (0, 5), 1)
        story.items(State.DONE, 2, each, (0, 5), 1)
        story.journal.close()
        metrics = Metrics()

        for found in JournalReader(tmp_path):
            if not isinstance(found, Newcomers) and getattr(found, "state", None) is not State.WAITING:
                metrics.take(found)
        result = metrics.result()

        assert result.tasks == {"DONE": 7}
        assert (result.throughput, result.core_utilization, result.arrivals.count) == (None, None, 5)

    def test_a_journal_without_its_beginning_is_folded_all_the_same(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 4, task())
        story.journal.close()
        metrics = Metrics()

        for found in JournalReader(tmp_path):
            if not isinstance(found, Opened):
                metrics.take(found)
        result = metrics.result()

        assert (result.run, result.tasks, result.throughput, result.core_utilization) == ({}, {"DONE": 1}, 0.25, None)

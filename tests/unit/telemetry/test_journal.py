"""The journal: everything recorded is read back, in bounded frames."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import TYPE_CHECKING

import pytest

from rhapsody.abc import Assignment
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.resources import Placement, Resources, Slot
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import frames
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.reader import JournalTail, read_events, read_run, read_tasks
from tests.unit.telemetry.twin import DETAILED, RUN, Twin, noop, offsets_of, on_core, only_segment, square

if TYPE_CHECKING:
    from pathlib import Path

READY, DONE, FAILED, RUNNING = State.READY, State.DONE, State.FAILED, State.RUNNING


def accepted_in(folder: Path) -> list[frames.Accepted]:
    """Return the records of accepted tasks as they are in the file."""
    with only_segment(folder).open("rb") as file:
        records: list[frames.AnyRecord] = []
        while isinstance(frame := frames.read_any_frame(file), frames.Frame):
            records.append(frames.decode_record(frame.payload))
    return [record for record in records if isinstance(record, frames.Accepted)]


class TestReadingBack:
    def test_every_event_comes_back_in_order_with_all_that_was_recorded(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop) for _ in range(600)]
        odd = [ComputeTask(executable="/bin/true", uid="the-first"), tasks[7], ComputeTask(noop, uid="2nd", priority=3)]
        scattered = tasks[5:300:7] + tasks[1:4]
        gang = Placement(tuple(Slot(node, (0, 1), (node,)) for node in range(4)), nodes_held=(0, 1, 2, 3))
        twin.accepted(tasks, 10)
        twin.accepted([odd[0], odd[2]], 11)
        twin.entered(READY, tasks, 12)
        for task in tasks[3:500]:
            task.attempt = 1
        tasks[8].attempt = 2
        twin.placed([Assignment(on_core(1), tasks[:256]), Assignment(on_core(2, node=9), tasks[256:500])], 13)
        twin.placed([Assignment(gang, [odd[0]])], 14)
        twin.placed([Assignment(on_core(core), [task]) for core, task in enumerate(scattered)], 15)
        twin.entered(RUNNING, scattered, range(1_000, 1_000 + len(scattered)))
        twin.entered(READY, odd[1:2], 16)
        twin.entered(DONE, tasks[:256], [2_000 - at for at in range(256)])
        twin.journal.close()

        events = twin.read_back()

        assert events == twin.expected
        assert len(events) == 600 + 2 + 600 + 500 + 1 + len(scattered) * 2 + 1 + 256

    def test_tasks_keep_the_order_in_which_they_were_given(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        first, second, third, fourth = tasks = [ComputeTask(noop) for _ in range(4)]

        twin.accepted(tasks, 1)
        twin.entered(READY, [first, third, second, fourth], 2)
        twin.entered(RUNNING, tasks[::-1], [3, 4, 5, 6])
        twin.placed([Assignment(on_core(0), []), Assignment(on_core(1), [second, first])], 7)
        twin.journal.close()

        assert twin.read_back() == twin.expected

    @pytest.mark.parametrize("state", DETAILED)
    def test_why_a_task_did_not_end_well_comes_back(self, state: State, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop) for _ in range(3)]
        tasks[0].failure = Failure(Cause.TIMEOUT, "ended after 5 s")
        tasks[1].failure = Failure(Cause.EXCEPTION, "ä" * 5_000)

        twin.accepted(tasks, 1)
        twin.entered(state, tasks, 2)
        twin.journal.close()

        assert twin.read_back() == twin.expected
        assert [len(event.detail) for event in twin.expected[3:]] == [24, 2_000, 0]

    def test_a_text_that_is_no_unicode_is_written_out(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        task = ComputeTask(executable="/data/\udcff.sh")
        task.failure = Failure(Cause.LAUNCH, "no file \udcff.sh")

        twin.journal.accepted([task], 1)
        twin.journal.entered(FAILED, [task], 2)
        twin.journal.close()

        assert [event.detail for event in twin.read_back()] == ["", r"launch: no file \udcff.sh"]
        assert [record.label for record in read_tasks(tmp_path)] == [r"/data/\udcff.sh"]

    def test_array_tasks_come_back_with_ranges_and_launches(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        task, named = ArrayTask(square, range(100)), ArrayTask(square, [], uid="squares")
        task.attempt = 4

        twin.accepted([task, named], 1)
        twin.placed([Assignment(on_core(0), [task], (0, 50), 4), Assignment(on_core(1), [task], (50, 99), 5)], 2)
        twin.items_entered(DONE, task, (0, 50), 3, "")
        twin.items_entered(FAILED, task, (50, 51), 4, "it raised")
        twin.journal.close()

        assert twin.read_back() == twin.expected
        assert [(record.uid, record.item_count) for record in read_tasks(tmp_path)] == [
            (f"map.{task.number:06d}", 100),
            ("squares", 0),
        ]

    def test_one_function_in_tasks_of_several_kinds_is_told_apart(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(square), ArrayTask(square, [1]), ComputeTask(square), ArrayTask(square, [1, 2])]

        twin.accepted(tasks, 1)
        twin.accepted(tasks[1:3], 2)
        twin.journal.close()

        assert twin.read_back() == twin.expected
        assert [record.kind for record in read_tasks(tmp_path)] == ["task", "map", "task", "map", "map", "task"]

    def test_what_tasks_ask_for_comes_back(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        wide = Resources(ranks=64, cores_per_rank=2, gpus_per_rank=1, memory_per_rank="2GiB", ranks_per_node=8)
        whole = Resources(mpi=True, exclusive=True)
        tasks = [
            ComputeTask(noop),
            ComputeTask(executable="gmx_mpi", resources=wide, uid="md"),
            ComputeTask(noop, resources=whole, priority=-2),
            ComputeTask(noop),
        ]

        twin.accepted(tasks, 1)
        twin.journal.close()
        found = list(read_tasks(tmp_path))

        assert [(t.number, t.uid, t.priority) for t in tasks] == [(r.number, r.uid, r.priority) for r in found]
        assert [record.label for record in found] == ["noop", "gmx_mpi", "noop", "noop"]
        assert [str(task.resources) for task in tasks] == [str(record.resources) for record in found]
        assert [task.resources.task_type for task in tasks] == [record.resources.task_type for record in found]

    def test_labels_without_end_come_back_and_older_ones_are_forgotten_while_writing(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        count = 2 * frames.MAX_EVENTS + 100
        tasks = [ComputeTask(executable=f"/bin/{number % count}") for number in range(count + 50)]

        for first in range(0, len(tasks), 5_000):
            twin.journal.accepted(tasks[first : first + 5_000], 1)
        twin.journal.accepted(tasks, 2)
        twin.journal.close()

        labels = [task.label for task in tasks]
        assert [record.label for record in read_tasks(tmp_path)] == labels * 2
        assert max(record.first_definition for record in accepted_in(tmp_path)) <= frames.MAX_EVENTS

    def test_the_run_is_described_as_it_was_given(self, tmp_path: Path) -> None:
        run = {**RUN, "argv": ["campaign.py", "\udcff"], "nodes": 3}

        Journal.create(tmp_path, run).close()

        assert read_run(tmp_path) == run
        assert list(read_events(tmp_path)) == []

    def test_a_journal_that_is_still_written_can_be_read(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tails: list[JournalTail] = []
        tasks = [ComputeTask(noop) for _ in range(3)]
        twin.accepted(tasks, 1)
        twin.journal.commit()
        twin.journal.entered(READY, tasks, 2)

        events = list(read_events(tmp_path, tails.append))
        twin.journal.close()

        assert events == twin.expected
        assert tails == []


class TestBounds:
    def test_a_huge_batch_is_cut_into_bounded_frames(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop) for _ in range(100_000)]

        twin.accepted(tasks, 1, ready=True)
        twin.placed([Assignment(on_core(0), tasks[:70_000]), Assignment(on_core(1), tasks[70_000:])], 2)
        twin.entered(DONE, tasks, range(100_000))
        twin.ran(tasks, range(100_000), range(100_000, 200_000))
        twin.journal.close()

        assert len(offsets_of(only_segment(tmp_path))) >= 1 + 3 * 100_000 // frames.MAX_EVENTS
        assert twin.read_back() == twin.expected

    def test_many_ranks_and_long_failures_are_cut_into_bounded_frames(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop) for _ in range(3_000)]
        gangs = [Placement(tuple(Slot(rank, (0,)) for rank in range(1_000 * size))) for size in (1, 17, 20)]
        for task in tasks:
            task.failure = Failure(Cause.EXCEPTION, "x" * 3_000)

        twin.accepted(tasks, 1)
        twin.placed([Assignment(gang, [task]) for gang, task in zip(gangs, tasks, strict=False)], 2)
        twin.entered(FAILED, tasks, 3)
        twin.journal.close()

        assert len(offsets_of(only_segment(tmp_path))) == 1 + 1 + 3 + 2
        assert twin.read_back() == twin.expected

    def test_reading_takes_no_more_memory_for_more_events(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop) for _ in range(100_000)]
        twin.journal.accepted(tasks, 1)
        twin.journal.entered(READY, tasks, 2)
        twin.journal.close()

        tracemalloc.start()
        count = sum(1 for _ in read_events(tmp_path))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert count == 200_000
        assert peak_bytes < 8 << 20  # a list of these events takes ten times as much

    def test_recording_keeps_no_function_alive(self, tmp_path: Path) -> None:
        def local() -> None:
            """Do nothing."""

        watched = weakref.ref(local)
        with_journal = Journal.create(tmp_path, RUN)

        with_journal.accepted([ComputeTask(local)], 1)
        del local
        gc.collect()
        with_journal.close()

        assert watched() is None

    def test_times_that_are_not_one_per_task_are_refused(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop), ComputeTask(noop)]
        twin.accepted(tasks, 1)

        with pytest.raises(ValueError, match="3 times where there must be 2"):
            twin.journal.entered(DONE, tasks, [1, 2, 3])
        twin.entered(DONE, tasks, [1, 2])
        twin.journal.close()

        assert twin.read_back() == twin.expected

    def test_no_tasks_leave_no_trace(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)

        twin.journal.accepted([], 1)
        twin.journal.entered(READY, [], [])
        twin.journal.placed([], 2)
        twin.journal.close()

        assert len(offsets_of(only_segment(tmp_path))) == 1
        assert twin.read_back() == []

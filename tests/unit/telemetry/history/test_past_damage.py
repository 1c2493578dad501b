"""Damaged journals: what may have run behind the damage is unknown, and nothing is invented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.abc import Report
from rhapsody.model.event import State
from rhapsody.telemetry.frames import HEADER_BYTES, Frame, decode_record, read_any_frame
from tests.unit.telemetry.history.sessions import Sessions, array, follower, task
from tests.unit.telemetry.twin import offsets_of

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.model.task import ComputeTask

READY, DONE, UNKNOWN = State.READY, State.DONE, State.UNKNOWN


def damage(path: Path, kind: str, which: int = 0) -> int:
    """Damage a record of a kind; return where it stands."""
    found = []
    with path.open("rb") as file:
        while isinstance(frame := read_any_frame(file), Frame):
            if type(decode_record(frame.payload)).__name__ == kind:
                found.append(frame.offset)
    damage_at(path, found[which])
    return found[which]


def damage_at(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset + HEADER_BYTES)
        (byte,) = file.read(1)
        file.seek(offset + HEADER_BYTES)
        file.write(bytes([byte ^ 1]))


def journal(folder: Path, number: int = 1) -> Path:
    return folder / "journal" / f"{number:06d}.log"


class TestLostRecords:
    def test_damage_is_told_with_its_place(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first = task(1)
        run.submit(first)
        run.whole({first: 1})
        offset = damage(journal(tmp_path), "Placed")

        run.die()

        assert run.past is not None
        assert [(place.segment, place.offset) for place in run.past.damages] == [("000001.log", offset)]

    @pytest.mark.parametrize("options", [{}, {"uid": "mine"}])
    def test_a_task_whose_acceptance_is_lost_is_unknown(self, options: Any, tmp_path: Path) -> None:  # noqa: ANN401
        run = Sessions(tmp_path)
        first, other, again = task(1, **options), task(2), task(1, **options)
        run.submit(first, number=1)
        run.submit(other, number=2)
        run.whole({first: 1})
        damage(journal(tmp_path), "Accepted")

        run.die()
        run.submit(again, number=1)

        assert run.recalled(again) == (UNKNOWN, 0)
        failure = run.known[again].failure
        assert failure is not None
        assert "nobody knows whether it ran: the journal of this run is damaged" in failure.message

    @pytest.mark.parametrize("options", [{"idempotent": True}, {}])
    def test_it_runs_when_that_does_no_harm(self, options: Any, tmp_path: Path) -> None:  # noqa: ANN401
        run = Sessions(tmp_path)
        first, again = task(1), task(1, **options)
        run.submit(first, number=1)
        run.submit(task(2), number=2)
        run.place(first)
        damage(journal(tmp_path), "Accepted")

        run.die(rerun_unknown=not options)
        run.submit(again, number=1)

        assert run.recalled(again) is None

    def test_a_task_that_may_have_been_placed_in_the_lost_record_is_unknown(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.place(first)
        run.submit(task(2))
        damage(journal(tmp_path), "Placed")

        run.die(complete=True)
        run.submit(again)

        assert run.recalled(again) == (UNKNOWN, 0)
        failure = run.known[again].failure
        assert failure is not None
        assert "the journal of this run is damaged" in failure.message

    def test_a_task_that_was_accepted_behind_the_damage_runs(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, later, again = task(1), task(2), task(2)
        run.submit(first)
        run.whole({first: 1})
        run.submit(later)
        damage(journal(tmp_path), "Placed")

        run.die()
        run.submit(again)

        assert run.recalled(again) is None

    def test_a_task_whose_end_is_lost_is_unknown(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.whole({first: 1})
        run.submit(task(2))
        damage(journal(tmp_path), "Ran")

        run.die(complete=True)
        run.submit(again)

        assert run.recalled(again) == (UNKNOWN, 1)

    def test_what_the_backend_saw_end_is_restored_all_the_same(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.place(first)
        run.submit(task(2))
        damage(journal(tmp_path), "Placed")

        run.die(Report(first.number, 1, DONE, 1, 2, "saved"))
        run.submit(again)

        assert run.recalled(again) == (DONE, "saved")

    def test_items_that_may_have_been_launched_in_the_lost_record_are_unknown(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(6), array(6)
        run.submit(first)
        run.launch(first, (0, 2), 1)
        run.items(DONE, first, (0, 2), ["a", "b"])
        run.launch(first, (2, 4), 2)
        run.items(DONE, first, (2, 4), ["c", "d"])
        damage(journal(tmp_path), "Placed", 1)

        run.die(complete=True)
        run.submit(again)

        assert run.items_of(again) == ([((0, 2), ["a", "b"]), ((2, 4), ["c", "d"])], [(4, 6)])

    def test_a_task_that_depends_on_a_lost_one_is_unknown(self, tmp_path: Path) -> None:
        def pair() -> list[ComputeTask]:
            needed = task(1, uid="needed")
            return [needed, follower("dependent", needed)]

        run = Sessions(tmp_path)
        old, new = pair(), pair()
        run.submit(old[0], number=1)
        run.submit(old[1], number=2)
        run.whole({old[0]: 1})
        run.place(old[1])
        damage(journal(tmp_path), "Accepted")

        run.die()
        run.submit(*new, number=1)

        assert [run.recalled(each) for each in new] == [(UNKNOWN, 0), (UNKNOWN, 0)]


class TestSessions:
    def test_damage_of_an_older_session_says_nothing_of_the_last_one(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, second = task(1), task(2)
        run.submit(first, number=1)
        run.whole({first: 1})
        run.submit(task(9), number=9)
        run.die()
        run.submit(second, number=50)
        run.place(second)
        damage(journal(tmp_path), "Ran")

        run.die(complete=True)
        again, unheard_of = task(2), task(3)
        run.submit(again, number=50)
        known = run.recalled(again)
        run.submit(unheard_of, number=40)

        assert (known, run.recalled(unheard_of)) == ((READY, 1), None)

    def test_what_an_older_session_may_have_run_stays_unknown(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first, number=1)
        run.submit(task(2), number=2)
        run.whole({first: 1})
        damage(journal(tmp_path), "Accepted")
        run.die()
        run.submit(task(3), number=7)

        run.die()
        run.submit(again, number=1)

        assert run.recalled(again) == (UNKNOWN, 0)

    def test_a_task_that_failed_and_was_perhaps_placed_again_in_the_lost_record_is_unknown(
        self, tmp_path: Path
    ) -> None:
        run = Sessions(tmp_path)
        first, second, last = task(1), task(1), task(1)
        run.submit(first)
        run.start(first)
        run.fail(first)
        run.die()
        run.submit(second)
        run.place(second)
        run.submit(task(2))
        damage(journal(tmp_path, 2), "Placed")

        run.die(complete=True)
        run.submit(last)

        assert run.recalled(last) == (UNKNOWN, 1)

    def test_a_task_that_failed_and_was_perhaps_accepted_again_in_the_lost_record_is_unknown(
        self, tmp_path: Path
    ) -> None:
        run = Sessions(tmp_path)
        first, second, last = (task(1, uid="mine") for _ in range(3))
        run.submit(first)
        run.start(first)
        run.fail(first)
        run.die()
        run.submit(second)
        run.place(second)
        run.submit(task(2))
        damage(journal(tmp_path, 2), "Accepted")

        run.die()
        run.submit(last)

        assert run.recalled(last) == (UNKNOWN, 1)


class TestCutOff:
    @pytest.mark.parametrize("uid", ["mine", None])
    def test_whatever_was_not_done_before_the_cut_is_unknown(self, uid: str | None, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks = [task(1), task(2), task(3, uid=uid)]
        run.submit(*tasks[:2])
        run.whole({tasks[0]: 10})
        size = journal(tmp_path).stat().st_size
        run.whole({tasks[1]: 20})
        run.submit(tasks[2])
        run.whole({tasks[2]: 30})
        run.journal.close()
        with journal(tmp_path).open("r+b") as file:
            file.truncate(size)
        again = [task(1), task(2), task(3, uid=uid)]

        run.die(complete=True)
        run.submit(*again)

        assert [run.recalled(each) for each in again] == [(DONE, 10), (UNKNOWN, 0), (UNKNOWN, 0)]
        assert run.past is not None
        assert "the file was cut off" in run.past.damages[0].reason


def five_tasks() -> list[ComputeTask]:
    """Return tasks with the numbers that they have in each session."""
    tasks = [task(at, uid="two" if at == 2 else None) for at in range(5)]
    for number, each in enumerate(tasks, 1):
        each.number = number
    return tasks


def two_sessions(folder: Path) -> Sessions:
    """Return a run whose sessions did three of five tasks, and were at the fourth when they ended."""
    run = Sessions(folder)
    for values in ({0: "a", 1: "b"}, {2: "c"}):
        tasks = five_tasks()
        run.submit(*tasks[:3])
        run.submit(*tasks[3:])
        for at, value in values.items():
            run.whole({tasks[at]: value})
        if 2 in values:
            run.start(tasks[3])
        run.die(complete=True)
    run.journal.close()
    return run


class TestEveryPlace:
    def test_damage_anywhere_invents_nothing_and_runs_nothing_twice(self, tmp_path: Path) -> None:
        (tmp_path / "whole").mkdir()
        whole = two_sessions(tmp_path / "whole")
        places = [
            (path.name, offset) for path in sorted(whole.folder.glob("journal/*.log")) for offset in offsets_of(path)
        ]
        outcomes: set[object] = set()

        for at, (name, offset) in enumerate(places[1:]):
            (tmp_path / str(at)).mkdir()
            run = two_sessions(tmp_path / str(at))
            damage_at(run.folder / "journal" / name, offset)
            past = run.look_back()
            tasks = five_tasks()
            run.known = past.recall(tasks, {})
            told = [run.recalled(each) for each in tasks]

            assert past.damages or past.tail
            for value, known in zip("abc", told, strict=False):
                assert known in ((DONE, value), (UNKNOWN, 0), (UNKNOWN, 1))
            assert told[3] in ((UNKNOWN, 0), (UNKNOWN, 1))
            outcomes |= set(told)

        assert outcomes == {(DONE, "a"), (DONE, "b"), (DONE, "c"), (UNKNOWN, 0), (UNKNOWN, 1), None}

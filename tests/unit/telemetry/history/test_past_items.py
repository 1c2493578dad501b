"""What a session is told of the items of array tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.abc import Report
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from tests.unit.telemetry.history.sessions import Sessions, Unkept, array, follower

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.abc import RecalledItems
    from rhapsody.model.array import ArrayTask

READY, RUNNING, DONE, FAILED, UNKNOWN = State.READY, State.RUNNING, State.DONE, State.FAILED, State.UNKNOWN


def _items(run: Sessions, each: ArrayTask) -> RecalledItems:
    found = run.known[each].items
    assert found is not None
    return found


class TestItems:
    def test_ranges_that_were_done_are_restored_with_their_values(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(10), array(10)
        run.submit(first)
        run.launch(first, (0, 4), 1)
        run.items(DONE, first, (0, 4), ["a", "b", "c", "d"])
        run.launch(first, (6, 8), 2)
        run.items(DONE, first, (6, 8), [[6], [7]])

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([((0, 4), ["a", "b", "c", "d"]), ((6, 8), [[6], [7]])], [])
        assert run.recalled(again) == (READY, 2)

    def test_values_that_are_all_none_are_restored(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(3), array(3)
        run.submit(first)
        run.launch(first, (0, 3), 1)
        run.items(DONE, first, (0, 3), [None] * 3)

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([((0, 3), [None] * 3)], [])

    def test_items_that_failed_run_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(6), array(6)
        run.submit(first)
        run.launch(first, (0, 6), 1)
        run.items(FAILED, first, (2, 3))
        run.items(DONE, first, (0, 5), ["a", "b", None, "d", "e"])
        run.items(State.CANCELED, first, (5, 6))

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([((0, 2), ["a", "b"]), ((3, 5), ["d", "e"])], [])

    def test_items_that_were_given_back_or_never_launched_run(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(6), array(6)
        run.submit(first)
        run.launch(first, (0, 3), 1)
        run.items(READY, first, (0, 3))

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([], [])

    @pytest.mark.parametrize("complete", [False, True])
    def test_items_that_were_under_way_are_unknown_unless_the_backend_knows_of_all_that_ran(
        self, *, complete: bool, tmp_path: Path
    ) -> None:
        run = Sessions(tmp_path)
        first, again = array(9), array(9)
        run.submit(first)
        run.launch(first, (0, 3), 1)
        run.launch(first, (3, 6), 2)
        run.items(RUNNING, first, (3, 6))
        run.items(DONE, first, (3, 4), ["d"])

        run.die(complete=complete)
        run.submit(again)

        unknown = [] if complete else [(0, 3), (4, 6)]
        assert run.items_of(again) == ([((3, 4), ["d"])], unknown)
        assert all(failure.cause is Cause.LOST for _, failure in _items(run, again).unknown)
        assert run.past is not None
        assert run.past.tally.unknown == sum(stop - start for start, stop in unknown)

    def test_items_of_an_idempotent_task_run_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(4), array(4, idempotent=True)
        run.submit(first)
        run.launch(first, (0, 3), 1)

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([], [])
        assert run.past is not None
        assert run.past.tally.repeated == 3

    def test_values_are_found_by_range_after_two_resumes(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, second, third, last = (array(8) for _ in range(4))
        run.submit(first)
        run.launch(first, (0, 5), 1)
        run.items(DONE, first, (0, 5), [[at] for at in range(5)])
        run.die()
        run.submit(second)
        run.launch(second, (5, 7), 1)
        run.items(DONE, second, (5, 7), [[5], [6]])
        run.die()
        run.submit(third)
        run.die()

        run.submit(last)

        done, unknown = run.items_of(last)
        assert [value for (start, stop), values in done for value in values] == [[at] for at in range(7)]
        assert [items for items, _ in done] == [(0, 5), (5, 7)]
        assert unknown == []

    def test_an_item_that_was_done_at_its_second_try_has_that_value(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(4), array(4)
        run.submit(first)
        run.launch(first, (0, 4), 1)
        run.items(FAILED, first, (1, 2))
        run.items(DONE, first, (0, 4), ["a", None, "c", "d"])
        run.launch(first, (1, 2), 2)
        run.items(DONE, first, (1, 2), ["second"])

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([((0, 1), ["a"]), ((1, 2), ["second"]), ((2, 4), ["c", "d"])], [])

    def test_a_dependent_is_restored_when_all_items_are(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        for count, expected in ((2, None), (3, None), (3, (DONE, "sum"))):
            items = array(3)
            dependent = follower(None, items)
            run.submit(items, dependent)
            known = run.recalled(dependent)
            done = run.items_of(items)[0] if items in run.known else []
            if not done:
                run.launch(items, (0, count), 1)
                run.items(DONE, items, (0, count), list(range(count)))
            elif len(done) == 1 and done[0][0] == (0, 2):
                run.launch(items, (2, 3), 1)
                run.items(DONE, items, (2, 3), [2])
                run.whole({dependent: "sum"})
            run.die()

            assert known == expected

    def test_items_whose_values_were_not_kept_fail_in_every_session(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first = array(4)
        run.submit(first)
        run.launch(first, (0, 2), 1)
        run.items(DONE, first, (0, 2), [Unkept(), 1])
        run.launch(first, (2, 4), 2)
        run.items(DONE, first, (2, 4), [2, 3])

        for _ in range(3):
            run.die()
            again = array(4)
            run.submit(again)

            assert run.items_of(again) == ([((2, 4), [2, 3])], [(0, 2)])
            ((_, failure),) = _items(run, again).unknown
            assert failure.cause is Cause.RESULT
            assert "it was DONE in an earlier session of this run, but its value of type list could" in failure.message

    def test_items_whose_values_were_not_kept_run_again_if_idempotent(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(2), array(2, idempotent=True)
        run.submit(first)
        run.launch(first, (0, 2), 1)
        run.items(DONE, first, (0, 2), [Unkept(), 1])

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([], [])

    def test_an_empty_array_is_restored(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(0), array(0)
        run.submit(first)
        run.done(first, [])

        run.die()
        run.submit(again)

        assert run.items_of(again) == ([], [])


class TestSalvaged:
    def test_items_that_the_backend_saw_end_are_restored(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(10), array(10)
        run.submit(first)
        run.launch(first, (0, 10), 1)
        run.items(DONE, first, (0, 3), ["a", "b", "c"])

        run.die(
            Report(first.number, 1, FAILED, items=(6, 7)),
            Report(first.number, 1, DONE, 1, 2, ["B", "C", "d", "e", "f", None, "h"], items=(1, 8)),
            Report(first.number, 1, RUNNING, items=(8, 9)),
            complete=True,
        )
        run.submit(again)

        done = [((0, 3), ["a", "b", "c"]), ((3, 6), ["d", "e", "f"]), ((7, 8), ["h"])]
        assert run.items_of(again) == (done, [(8, 9)])

    def test_they_are_kept_from_then_on(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again, last = (array(4) for _ in range(3))
        run.submit(first)
        run.launch(first, (0, 4), 1)
        run.die(Report(first.number, 1, DONE, 1, 2, [[0], [1], [2]], items=(0, 3)))
        run.submit(again)
        run.aftermaths.clear()

        run.die()
        run.submit(last)

        assert run.items_of(last) == ([((0, 3), [[0], [1], [2]])], [(3, 4)])

    @pytest.mark.parametrize("state", [RUNNING, FAILED, READY])
    def test_what_the_journal_knows_better_stays(self, state: State, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(4), array(4)
        run.submit(first)
        run.launch(first, (0, 4), 1)
        run.items(DONE, first, (0, 3), ["a", "b", "c"])

        run.die(Report(first.number, 1, state, items=(0, 4)), complete=True)
        run.submit(again)

        assert run.items_of(again) == ([((0, 3), ["a", "b", "c"])], [(3, 4)] if state is RUNNING else [])

    def test_a_report_on_no_items_says_nothing(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = array(4), array(4)
        run.submit(first)
        run.launch(first, (0, 2), 1)

        run.die(Report(first.number, 1, DONE, 1, 2, ["?"]))
        run.submit(again)

        assert run.items_of(again) == ([], [(0, 2)])

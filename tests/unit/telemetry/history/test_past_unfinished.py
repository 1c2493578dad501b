"""What a session is told of tasks that were under way, were saved by the backend, or left no value that was kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.abc import Report
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Stdio
from rhapsody.telemetry import results
from tests.unit.telemetry.history.sessions import Sessions, Unkept, follower, task

if TYPE_CHECKING:
    from pathlib import Path

READY, RUNNING, DONE, FAILED, UNKNOWN = State.READY, State.RUNNING, State.DONE, State.FAILED, State.UNKNOWN


class TestUnderWay:
    @pytest.mark.parametrize("is_seen_running", [False, True])
    def test_a_task_that_was_under_way_is_unknown(self, *, is_seen_running: bool, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        (run.start if is_seen_running else run.place)(first)

        run.die()
        run.submit(again)

        assert run.recalled(again) == (UNKNOWN, 1)
        failure = run.known[again].failure
        assert failure is not None
        assert failure.cause is Cause.LOST
        assert "attempt 1 was under way when an earlier session of this run ended" in failure.message
        assert "--rerun-unknown, or make it idempotent=True" in failure.message

    def test_it_stays_unknown_in_the_next_session(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again, last = task(1), task(1), task(1)
        run.submit(first)
        run.place(first)
        run.die()
        run.submit(again)

        run.die(complete=True)
        run.submit(last)

        assert run.recalled(last) == (UNKNOWN, 1)

    def test_a_task_that_was_placed_runs_when_the_backend_knows_of_all_that_ran(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.place(first)

        run.die(complete=True)
        run.submit(again)

        assert run.recalled(again) == (READY, 1)

    def test_a_task_that_was_seen_running_is_unknown_all_the_same(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.start(first)

        run.die(complete=True)
        run.submit(again)

        assert run.recalled(again) == (UNKNOWN, 1)

    def test_an_idempotent_task_runs_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1, idempotent=True)
        run.submit(first)
        run.start(first)

        run.die()
        run.submit(again)

        assert run.recalled(again) == (READY, 1)
        assert run.past is not None
        assert (run.past.tally.repeated, run.past.tally.unknown) == (1, 0)

    def test_it_runs_again_when_the_user_says_so(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.start(first)

        run.die(rerun_unknown=True)
        run.submit(again)

        assert run.recalled(again) == (READY, 1)

    def test_a_task_that_was_never_placed_runs_as_if_new(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)

        run.die()
        run.submit(again)

        assert run.recalled(again) is None

    def test_a_task_that_was_given_back_runs(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.place(first)
        first.attempt = 0
        run.journal.entered(READY, [first], 7)

        run.die()
        run.submit(again)

        assert run.recalled(again) is None

    @pytest.mark.parametrize("state", [FAILED, State.CANCELED])
    def test_what_did_not_end_well_runs_again_and_its_attempts_are_counted_on(
        self, state: State, tmp_path: Path
    ) -> None:
        run = Sessions(tmp_path)
        for attempt in (0, 1, 2):
            each = task(1)
            run.submit(each)
            assert run.recalled(each) == ((READY, attempt) if attempt else None)
            run.start(each)
            run.fail(each, state)
            run.die()

    def test_a_task_that_waited_for_its_next_attempt_runs(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.start(first)
        run.fail(first, UNKNOWN, Cause.LOST)
        run.journal.entered(State.WAITING, [first], 8)

        run.die()
        run.submit(again)

        assert run.recalled(again) == (READY, 1)


class TestSalvaged:
    def test_what_the_backend_saw_end_is_restored(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        old, new = [task(at) for at in range(4)], [task(at) for at in range(4)]
        run.submit(*old)
        run.start(*old)

        run.die(
            Report(old[0].number, 1, DONE, 1, 2, "saved", stdio=Stdio("said")),
            Report(old[1].number, 1, FAILED),
            Report(old[2].number, 1, RUNNING),
            complete=True,
        )
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, "saved"), (READY, 1), (UNKNOWN, 1), (UNKNOWN, 1)]
        assert run.known[new[0]].stdio == Stdio("said")

    def test_it_is_kept_from_then_on(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again, last = task(1), task(1), task(1)
        run.submit(first)
        run.place(first)
        run.die(Report(first.number, 1, DONE, 1, 2, ["saved"]))
        run.submit(again)
        run.aftermaths.clear()

        run.die()
        run.submit(last)

        assert run.recalled(last) == (DONE, ["saved"])

    def test_it_is_told_once_more_when_nobody_asked_for_it(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, last = task(1), task(1)
        run.submit(first)
        run.place(first)
        run.die(Report(first.number, 1, DONE, 1, 2, ["saved"]))

        run.die()
        run.submit(last)

        assert run.recalled(last) == (DONE, ["saved"])

    def test_what_the_journal_knows_better_stays(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        old, new = [task(at) for at in range(3)], [task(at) for at in range(3)]
        run.submit(*old)
        run.start(*old)
        run.done(old[0], "of the journal")
        run.fail(old[1])
        run.start(old[2])

        run.die(*(Report(each.number, 1, DONE, 1, 2, "stale") for each in old))
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, "of the journal"), (READY, 1), (UNKNOWN, 2)]

    def test_a_value_of_a_later_session_takes_the_place_of_a_saved_one(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        for value in ("saved", "later"):
            needed = task(1, idempotent=True)
            dependent = follower(None, needed)
            run.submit(needed, dependent)
            run.whole({needed: Unkept() if value == "saved" else 1})
            run.place(dependent)
            if value == "later":
                run.done(dependent, value)
            run.die(*([Report(dependent.number, 1, DONE, 1, 2, value)] if value == "saved" else []))
        needed = task(1, idempotent=True)
        dependent = follower(None, needed)

        run.submit(needed, dependent)

        assert run.recalled(dependent) == (DONE, "later")

    def test_numbers_that_no_task_had_are_left_alone(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)

        run.die(Report(first.number + 1_000, 1, DONE, 1, 2, "of nobody"))
        run.submit(again)

        assert run.recalled(again) is None


class TestUnreadable:
    @pytest.mark.parametrize("options", [{}, {"uid": "mine"}])
    def test_a_task_whose_value_was_not_kept_fails_and_says_why(self, options: Any, tmp_path: Path) -> None:  # noqa: ANN401
        run = Sessions(tmp_path)
        first, again = task(1, **options), task(1, **options)
        run.submit(first)
        run.whole({first: Unkept()})

        run.die()
        run.submit(again)

        failure = run.known[again].failure
        assert run.recalled(again) == (FAILED, 1)
        assert failure is not None
        assert failure.cause is Cause.RESULT
        assert failure.message == (
            "it was DONE in an earlier session of this run, but its value of type Unkept could not be kept:"
            " RuntimeError: only here; with idempotent=True it would run again"
        )
        assert run.past is not None
        assert [uid for uid, _ in run.past.tally.unreadable] == [again.uid]

    def test_it_fails_in_every_session_and_never_runs_twice(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first = task(1)
        run.submit(first)
        run.whole({first: Unkept()})

        for _ in range(3):
            run.die()
            again = task(1)
            run.submit(again)

            assert run.recalled(again) == (FAILED, 1)

    def test_an_idempotent_one_runs_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again, last = (task(1, idempotent=True) for _ in range(3))
        run.submit(first)
        run.whole({first: Unkept()})
        run.die()
        run.submit(again)
        found = run.recalled(again)
        run.whole({again: 7})

        run.die()
        run.submit(last)

        assert found == (READY, 1)
        assert run.recalled(last) == (DONE, 7)

    def test_a_value_above_the_limit_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "LIMIT_BYTES", 100)
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.whole({first: [b"x" * 200]})

        run.die()
        run.submit(again)

        failure = run.known[again].failure
        assert failure is not None
        assert "return the path of a file instead" in failure.message

    def test_a_value_that_never_came_to_disk_is_not_taken_for_a_later_one(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, other, again = task(1), task(2), task(1)
        run.submit(first)
        run.whole({first: ["lost"]})
        (tmp_path / "results" / "000001.kept").write_bytes(b"")
        run.die()
        run.submit(other)
        run.whole({other: ["of the other"]})

        run.die()
        run.submit(again)

        assert run.recalled(again) == (FAILED, 1)

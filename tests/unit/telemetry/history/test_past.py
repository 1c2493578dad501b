"""What a session is told of those before: what was done stays done, what may have run is said, the rest runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.errors import JournalError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Completed, Stdio
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.history.past import Past
from tests.unit.telemetry.history.sessions import Sessions, Unkept, array, follower, other_work, task, work

READY, DONE, UNKNOWN = State.READY, State.DONE, State.UNKNOWN


class TestDone:
    @pytest.mark.parametrize("value", [None, 5, "text", [1, {2}], Completed(0, "out", "err", "/")])
    def test_a_task_that_was_done_is_restored_with_its_value(self, value: object, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.whole({first: value})

        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, value)
        assert run.known[again].attempt == 1

    @pytest.mark.parametrize("value", [5, None, [1]])
    def test_what_it_printed_is_restored_too(self, value: object, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.start(first)
        run.done(first, value, Stdio("said", "warned"))

        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, value)
        assert run.known[again].stdio == Stdio("said", "warned")

    def test_it_is_still_done_after_many_sessions(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        named, plain = task(1, uid="named"), task([2])
        run.submit(named, plain)
        run.whole({named: 10, plain: [20]})

        for _ in range(4):
            run.die()
            named, plain = task(1, uid="named"), task([2])
            run.submit(plain, named)

            assert (run.recalled(named), run.recalled(plain)) == ((DONE, 10), (DONE, [20]))

    def test_a_session_that_did_not_ask_for_it_changes_nothing(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1)
        run.submit(first)
        run.whole({first: 10})

        run.die()
        run.submit(task(2))
        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, 10)

    def test_equal_tasks_are_found_in_their_order(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        old, new = [task("x") for _ in range(4)], [task("x") for _ in range(5)]
        run.submit(*old)
        run.whole({old[0]: 0, old[1]: 1, old[3]: 3})

        run.die()
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, 0), (DONE, 1), None, (DONE, 3), None]

    def test_equal_tasks_that_came_in_later_sessions_are_found_behind(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        for count in (1, 3, 4):
            tasks = [task("x") for _ in range(count)]
            run.submit(*tasks)
            run.whole({each: at for at, each in enumerate(tasks) if each not in run.known})
            run.die()
        tasks = [task("x") for _ in range(5)]

        run.submit(*tasks)

        assert [run.recalled(each) for each in tasks] == [(DONE, 0), (DONE, 1), (DONE, 2), (DONE, 3), None]

    def test_two_tasks_are_not_given_the_same_one(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, one, other = task("x"), task("x"), task("x")
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(one)
        found = run.recalled(one)
        run.submit(other)

        assert (found, run.recalled(other)) == ((DONE, 1), None)

    def test_how_often_and_how_long_it_is_tried_does_not_count(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(1), task(1, retry=3, timeout_s=60, priority=9)
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, 1)

    def test_what_was_done_is_counted(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks = [task(at) for at in range(5)]
        run.submit(*tasks)
        run.whole({tasks[0]: 1, tasks[1]: None})
        run.place(tasks[2])

        run.die()

        assert run.past is not None
        assert (len(run.past), run.past.count_done(), run.past.count_lost()) == (5, 2, 1)

    def test_what_was_done_and_is_not_asked_for_is_named(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks = [task(1), task(2), ComputeTask(other_work), ComputeTask(executable="/bin/true")]
        run.submit(*tasks)
        run.whole({tasks[1]: 2, tasks[2]: 3})

        run.die()
        run.submit(task(2))

        assert run.past is not None
        assert list(run.past.not_asked_for()) == ["other_work"]


class TestChanged:
    @pytest.mark.parametrize(
        "again",
        [
            lambda: ComputeTask(other_work, args=(1,), uid="mine"),
            lambda: task(2, uid="mine"),
            lambda: task(1, uid="mine", env={"A": "1"}),
            lambda: ComputeTask(executable="work", uid="mine"),
            lambda: array(3, "mine"),
        ],
    )
    def test_a_uid_with_changed_code_or_inputs_runs_and_is_named(self, again: Any, tmp_path: Path) -> None:  # noqa: ANN401
        run = Sessions(tmp_path)
        first, changed = task(1, uid="mine"), again()
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(changed)

        assert run.recalled(changed) is None
        assert run.past is not None
        assert run.past.tally.changed == ["mine"]

    def test_what_runs_is_named_where_there_is_no_uid(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first = task(1)
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(task(2), task(3))

        assert run.past is not None
        assert set(run.past.tally.changed) == {"work"}
        assert run.past.tally.restored == 0

    def test_a_uid_whose_inputs_cannot_be_told_apart_is_found_by_its_uid(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(Unkept(), uid="mine"), task(Unkept(), uid="mine")
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, 1)

    @pytest.mark.parametrize(("before", "after"), [(None, 3), (3, None), (3, 2), (2, 3)])
    def test_such_a_uid_is_not_found_where_its_kind_or_length_changed(
        self, before: int | None, after: int | None, tmp_path: Path
    ) -> None:
        def made(length: int | None) -> Any:  # noqa: ANN401 - either kind
            if length is None:
                return task(Unkept(), uid="mine")
            return ArrayTask(work, [Unkept()] * length, uid="mine")

        run = Sessions(tmp_path)
        first, again = made(before), made(after)
        run.submit(first)
        if before is None:
            run.whole({first: 1})
        else:
            run.launch(first, (0, before), 1)
            run.items(DONE, first, (0, before), list(range(before)))

        run.die()
        run.submit(again)

        assert run.recalled(again) is None
        assert run.past is not None
        assert run.past.tally.changed == ["mine"]

    def test_a_task_that_cannot_be_told_apart_runs_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again = task(Unkept()), task(Unkept())
        run.submit(first)
        run.whole({first: 1})

        run.die()
        run.submit(again)

        assert run.recalled(again) is None

    def test_the_changed_task_is_the_one_that_later_sessions_find(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, changed, again = task(1, uid="mine"), task(2, uid="mine"), task(2, uid="mine")
        run.submit(first)
        run.whole({first: 1})
        run.die()
        run.submit(changed)
        run.whole({changed: 2})

        run.die()
        run.submit(again)

        assert run.recalled(again) == (DONE, 2)


class TestDependencies:
    @pytest.mark.parametrize("uids", [("a", "b"), (None, None)])
    @pytest.mark.parametrize("is_reversed", [False, True])
    def test_a_dependent_is_restored_with_what_it_depends_on(
        self, uids: tuple[str | None, str | None], *, is_reversed: bool, tmp_path: Path
    ) -> None:
        def pair() -> list[ComputeTask]:
            first = task(1, uid=uids[0])
            return [first, follower(uids[1], first)]

        run = Sessions(tmp_path)
        old, new = pair(), pair()
        run.submit(*(old[::-1] if is_reversed else old))
        run.whole({old[0]: 1})
        run.whole({old[1]: [2]})

        run.die()
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, 1), (DONE, [2])]

    def test_a_long_chain_that_was_submitted_backwards_is_restored(self, tmp_path: Path) -> None:
        def chain() -> list[ComputeTask]:
            found = [task(0)]
            for _ in range(50):
                found.append(follower(None, found[-1], found[0]))
            return found

        run = Sessions(tmp_path)
        old, new = chain(), chain()
        run.submit(*old[::-1])
        for at, each in enumerate(old):
            run.whole({each: at})

        run.die()
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, at) for at in range(51)]

    def test_equal_dependents_of_equal_tasks_are_told_apart_by_them(self, tmp_path: Path) -> None:
        def pairs() -> list[ComputeTask]:
            one, other = task("x"), task("x")
            return [one, other, follower(None, one), follower(None, other)]

        run = Sessions(tmp_path)
        old, new = pairs(), pairs()
        run.submit(*old)
        run.whole({old[0]: 0, old[1]: 1})
        run.whole({old[3]: 3})

        run.die()
        run.submit(*new)

        assert [run.recalled(each) for each in new] == [(DONE, 0), (DONE, 1), None, (DONE, 3)]

    @pytest.mark.parametrize("uid", ["b", None])
    def test_a_dependent_runs_again_when_what_it_depends_on_is_new(self, uid: str | None, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        old, new = task(1, uid="a"), task(2, uid="a")
        old_dependent, new_dependent = follower(uid, old), follower(uid, new)
        run.submit(old, old_dependent)
        run.whole({old: 1})
        run.whole({old_dependent: 2})

        run.die()
        run.submit(new, new_dependent)

        assert run.recalled(new) is None
        assert run.recalled(new_dependent) in (None, (READY, 1))

    def test_a_dependent_runs_again_when_what_it_depends_on_does(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        old, new = task(1, idempotent=True), task(1, idempotent=True)
        old_dependent, new_dependent = follower(None, old), follower(None, new)
        run.submit(old, old_dependent)
        run.whole({old: Unkept()})
        run.whole({old_dependent: 2})

        run.die()
        run.submit(new, new_dependent)

        assert (run.recalled(new), run.recalled(new_dependent)) == ((READY, 1), (READY, 1))

    def test_a_dependent_that_did_not_run_since_what_it_depends_on_did_runs_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        for value in (Unkept(), "other"):
            first = task(1, idempotent=True)
            dependent = follower(None, first)
            run.submit(first, dependent)
            run.whole({first: value})
            if not run.known:
                run.whole({dependent: "of the first"})
            run.die()
        first = task(1, idempotent=True)
        dependent = follower(None, first)

        run.submit(first, dependent)

        assert (run.recalled(first), run.recalled(dependent)) == ((DONE, "other"), (READY, 1))

    def test_an_array_task_runs_again_when_what_it_comes_after_does(self, tmp_path: Path) -> None:
        def pair() -> tuple[ComputeTask, Any]:
            first, items = task(1, idempotent=True), array(3)
            items.options = task(after=[first]).options
            return first, items

        run = Sessions(tmp_path)
        (old, old_items), (new, new_items) = pair(), pair()
        run.submit(old, old_items)
        run.whole({old: Unkept()})
        run.launch(old_items, (0, 3), 1)
        run.items(DONE, old_items, (0, 3), [1, 2, 3])

        run.die()
        run.submit(new, new_items)

        assert run.items_of(new_items) == ([], [])


class TestWhereItBreaksOff:
    def test_tasks_whose_restoring_was_not_recorded_are_restored_all_the_same(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, again, last = task(1), task(1), task(1)
        run.submit(first)
        run.whole({first: [1]})
        run.die()
        run.journal.accepted([again], 1)

        run.die()
        run.submit(last)

        assert run.recalled(last) == (DONE, [1])

    def test_the_next_session_begins_where_the_torn_one_ends(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks = [task(at) for at in range(3)]
        run.submit(*tasks)
        run.whole({tasks[0]: [1]})
        path = tmp_path / "journal" / "000001.log"
        with path.open("ab") as file:
            file.write(path.read_bytes()[:15])
        run.die()
        again = [task(at) for at in range(3)]

        run.submit(*again)
        run.whole({again[1]: [2]})
        run.die()
        last = [task(at) for at in range(3)]
        run.submit(*last)

        assert [run.recalled(each) for each in last] == [(DONE, [1]), (DONE, [2]), None]
        assert run.past is not None
        assert (run.past.damages, run.past.tail) == ([], None)

    def test_a_folder_without_journal_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match="there is no journal"):
            Past(tmp_path, {})


CHOICES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["done", "place", "fail", "give back"])), max_size=8)


class TestWhateverHappens:
    @settings(max_examples=40, deadline=None)
    @given(sessions=st.lists(st.tuples(CHOICES, st.booleans()), min_size=1, max_size=4))
    def test_what_was_done_stays_done_and_nothing_that_may_have_run_runs_again(
        self, sessions: list[tuple[list[tuple[int, str]], bool]]
    ) -> None:
        values: dict[int, object] = {}
        lost: set[int] = set()
        with tempfile.TemporaryDirectory() as name:
            run = Sessions(Path(name))
            for choices, complete in [*sessions, ([], True)]:
                tasks = [task(at // 2, uid=f"u{at}" if at % 2 else None) for at in range(5)]
                run.submit(*tasks)
                told = {at: run.recalled(each) for at, each in enumerate(tasks)}
                assert {at for at, known in told.items() if known and known[0] is DONE} == set(values)
                assert {at: told[at] for at in values} == {at: (DONE, value) for at, value in values.items()}
                assert {at for at, known in told.items() if known and known[0] is UNKNOWN} == lost
                under_way = play(run, tasks, choices, values, lost)
                run.die(complete=complete)
                lost |= set() if complete else under_way
            run.journal.close()


def play(
    run: Sessions, tasks: list[ComputeTask], choices: list[tuple[int, str]], values: dict[int, object], lost: set[int]
) -> set[int]:
    """Let things happen to tasks; return which are under way at the end."""
    placed: set[int] = set()
    over = set(values) | lost
    for at, what in choices:
        each = tasks[at]
        if at in over:
            continue
        if at not in placed:
            run.place(each)
        placed.discard(at)
        if what == "done":
            values[at] = [at, each.number]
            run.done(each, values[at])
            over.add(at)
        elif what == "fail":
            run.fail(each)
            over.add(at)
        elif what == "give back":
            each.attempt -= 1
            run.journal.entered(READY, [each], 7)
        else:
            placed.add(at)
    return placed

"""Replicas of services are in the journal, but are no tasks; requests to models are, but take no cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.abc import Assignment, Report
from rhapsody.model.ai import AITask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.service import ReplicaTask
from rhapsody.scheduling.asking import NOWHERE
from rhapsody.telemetry.history.register import Register
from rhapsody.telemetry.metrics import measure
from rhapsody.telemetry.reader import JournalReader, read_tasks
from rhapsody.telemetry.tally import OneKind, Tally
from tests.unit.telemetry.history.sessions import Sessions, follower, task

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.model.task import Task

DONE, FAILED, RUNNING, UNKNOWN, READY = State.DONE, State.FAILED, State.RUNNING, State.UNKNOWN, State.READY


def replica(number: int = 0, start: int = 1, service: str = "llm") -> ReplicaTask:
    return ReplicaTask(service, number, start, executable="serve")


def request(prompt: str = "hello", **options: object) -> AITask:
    return AITask(prompt, model="m", **options)  # type: ignore[arg-type]


def tally_of(folder: Path) -> Tally:
    reader = JournalReader(folder)
    tally = Tally(reader.uid_of)
    for found in reader:
        tally.take(found)
    return tally


class TestReplicas:
    def test_they_are_not_counted_whatever_becomes_of_them(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        first, broken, works, running = replica(), replica(1), task(1), task(2)
        run.submit(first, broken)
        run.submit(works, running)
        run.start(first, broken, works, running)
        run.fail(broken)
        run.done(first)
        run.done(works, 5)

        tally = tally_of(tmp_path)

        assert tally.counts == {DONE: 1, RUNNING: 1}
        assert tally.running == [OneKind("work", 1, 5)]
        assert tally.failures == []
        figures = measure(tmp_path)
        assert figures.tasks == {"RUNNING": 1, "DONE": 1}
        assert figures.services == {"DONE": 1, "FAILED": 1}

    def test_one_record_may_tell_of_both(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks: list[Task] = [task(1), replica(), task(2), replica(1)]
        run.submit(*tasks)
        for each in tasks:
            each.attempt = 1
            each.failure = Failure(Cause.EXIT_CODE, f"{each.uid} broke")
        run.journal.entered(RUNNING, tasks, [11, 12, 13, 14])
        run.journal.entered(FAILED, tasks, 20)
        run.journal.close()

        tally = tally_of(tmp_path)

        assert tally.counts == {FAILED: 2}
        (cause,) = tally.failures
        assert (cause.cause, cause.tasks, cause.example_uid) == ("exit_code", 2, tasks[0].uid)
        assert measure(tmp_path).services == {"FAILED": 2}

    def test_two_services_that_run_the_same_program_keep_their_names(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks: list[Task] = [replica(), replica(1), replica(service="other")]
        run.submit(*tasks)
        run.journal.close()

        assert [(each.uid, each.label) for each in read_tasks(tmp_path)] == [
            ("service.llm.0.1", "llm"),
            ("service.llm.1.1", "llm"),
            ("service.other.0.1", "other"),
        ]

    def test_a_resumed_run_neither_recalls_nor_settles_them(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        ended, running, works = replica(), replica(1), task(1)
        run.submit(ended, running)
        run.submit(works)
        run.start(ended, running, works)
        run.fail(ended)
        run.done(works, 5)

        run.die(Report(running.number, 1, UNKNOWN))
        assert run.past is not None
        counted = run.past.count_done(), run.past.count_lost()
        again = [replica(), replica(1)]
        run.submit(*again)
        unknown = [run.recalled(each) for each in again]
        run.submit(same := task(1))

        assert counted == (1, 0)
        assert unknown == [None, None]
        assert run.recalled(same) == (DONE, 5)
        assert list(run.past.not_asked_for()) == []
        assert run.past.tally.unknown == 0

    def test_their_numbers_are_not_missing_where_the_journal_is_damaged(self) -> None:
        register = Register()
        register.add(1, None, b"key", "work", None)
        register.pass_over([2, 5])
        register.row_of(4)

        assert register.missing_numbers() == {3, 4}
        assert register.highest == 5


class TestRequests:
    def test_they_are_told_apart_by_the_model_that_they_ask(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks: list[Task] = [AITask("a", model="m"), AITask("a", model="other"), AITask("b", model="m"), task(1)]
        run.submit(*tasks)
        run.journal.close()

        found = [(each.uid, each.kind, each.label) for each in read_tasks(tmp_path)]

        assert [row[1:] for row in found] == [("ai", "m"), ("ai", "other"), ("ai", "m"), ("task", "work")]
        assert [row[0] for row in found] == [each.uid for each in tasks]

    def test_what_is_placed_nowhere_is_read_back(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        tasks = [request(str(number)) for number in range(3)]
        run.submit(*tasks)
        for each in tasks:
            each.attempt = 1
        run.journal.placed([Assignment(NOWHERE, tasks)], 4)
        run.journal.entered(RUNNING, tasks, 5)
        run.journal.close()

        assert tally_of(tmp_path).counts == {RUNNING: 3}
        figures = measure(tmp_path)
        assert (figures.decisions.count, figures.arrivals.count) == (3, 0)
        assert [family.cores for family in figures.families] == [0]

    def test_an_answer_is_restored_and_with_it_what_was_made_of_it(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        asked = request()
        after = follower(None, asked)
        run.submit(asked, after)
        run.start(asked)
        run.done(asked, "an answer")
        run.start(after)
        run.done(after, "made of it")

        run.die()
        asked = request()
        run.submit(asked, after := follower(None, asked))

        assert run.recalled(asked) == (DONE, "an answer")
        assert run.recalled(after) == (DONE, "made of it")

    def test_a_changed_prompt_is_asked_anew(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        run.submit(asked := request("hello", uid="mine"))
        run.start(asked)
        run.done(asked, "an answer")

        run.die()
        run.submit(other := request("hello, you", uid="mine"))

        assert run.recalled(other) is None
        assert run.past is not None
        assert run.past.tally.changed == ["mine"]

    def test_one_that_was_asked_when_the_session_died_is_asked_again(self, tmp_path: Path) -> None:
        run = Sessions(tmp_path)
        usual, once = request("usual"), request("once", idempotent=False)
        run.submit(usual, once)
        run.start(usual, once)

        run.die()
        run.submit(usual := request("usual"), once := request("once", idempotent=False))

        assert run.recalled(usual) == (READY, 1)
        assert run.recalled(once) == (UNKNOWN, 1)

"""Model requests in the scheduler: they take no slot, and all else is as for other tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SessionClosedError, SpecError, TaskFailed
from rhapsody.model.ai import AITask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy, Retry
from rhapsody.scheduling import outbox
from rhapsody.scheduling.intake import SLICE
from tests.eventually import eventually
from tests.scripted import Rig, nodes_of, plain

if TYPE_CHECKING:
    from rhapsody.abc import Report

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN
PATH = [WAITING, READY, PLACED, RUNNING]


def asks(**options: object) -> AITask:
    return AITask("hello", **options)  # type: ignore[arg-type]


class TestLaunching:
    async def test_all_that_are_ready_are_launched_together_and_take_no_slot(self) -> None:
        rig = Rig(nodes_of(1))
        busy, queued, requests = plain(), plain(), [asks() for _ in range(SLICE + 7)]

        await rig.submit(busy, *requests, queued)

        assert {task.state for task in requests} == {PLACED}
        assert (busy.state, queued.state) == (PLACED, READY)
        assert rig.counts == {"PLACED": SLICE + 8, "READY": 1}
        assert rig.mapper.free_cores == 0
        assert all(launch.placement.slots == () for launch in rig.backend.launches if launch.task is not busy)

    async def test_reports_are_taken_in_batches_and_in_their_order(self) -> None:
        rig = Rig()
        first, second = asks(), asks()
        await rig.submit(first, second)
        one, two = (rig.backend.launch_of(task) for task in (first, second))

        rig.backend.hear(rig.backend.started(one), rig.backend.started(two), rig.backend.ended(two, value="two"))

        assert (first.state, second.state, second.response) == (RUNNING, DONE, "two")
        assert rig.scheduler.running == {first.number: first}
        assert rig.scheduler.tasks == [first]
        rig.backend.hear(rig.backend.ended(one, value="one"))
        assert (first.state, first.value) == (DONE, "one")
        assert rig.sink.states_of(first) == rig.sink.states_of(second) == [*PATH, DONE]
        assert (rig.counts, rig.scheduler.running, rig.scheduler.tasks) == ({"DONE": 2}, {}, [])

    async def test_an_end_without_a_beginning_says_that_it_ran(self) -> None:
        rig = Rig()
        task = asks()
        await rig.submit(task)

        rig.backend.done(task, value="answer")

        assert (await task).return_value == "answer"
        assert rig.sink.states_of(task) == [*PATH, DONE]

    async def test_values_flow_to_it_and_from_it(self) -> None:
        rig = Rig()
        before = plain()
        task = AITask("{}".format, args=[before])
        after = plain(args=[task])
        await rig.submit(before, task, after)

        assert [each.state for each in (before, task, after)] == [PLACED, WAITING, WAITING]
        rig.backend.done(before, value="a prompt")
        assert [each.state for each in (before, task, after)] == [DONE, PLACED, WAITING]
        rig.backend.done(task, value="an answer")
        assert [each.state for each in (before, task, after)] == [DONE, DONE, PLACED]

    async def test_an_old_attempt_says_nothing_of_the_new_one(self) -> None:
        rig = Rig()
        task = asks(retry=2)
        await rig.submit(task)
        old = rig.backend.launch_of(task)
        rig.backend.fail(task, Cause.MODEL)

        rig.scheduler.hear([_done_by(rig, old.task, 1)])

        assert (task.state, task.attempt) == (PLACED, 2)
        rig.backend.done(task, value="second")
        assert task.response == "second"


class TestFailing:
    async def test_a_failed_one_is_asked_again_as_its_policy_says(self) -> None:
        rig = Rig(policy=Policy(retry=Retry(attempts=2)))
        task = asks()
        await rig.submit(task)

        rig.backend.fail(task, Cause.MODEL)
        assert (task.state, task.attempt) == (PLACED, 2)
        rig.backend.fail(task, Cause.MODEL)

        with pytest.raises(TaskFailed, match="scripted model"):
            await task
        assert rig.sink.states_of(task) == [*PATH, FAILED, *PATH, FAILED]
        assert rig.counts == {"FAILED": 1}

    async def test_a_refused_one_is_not_asked_again(self) -> None:
        rig = Rig()
        task = asks(retry=5)
        await rig.submit(task)

        rig.backend.fail(task, Cause.REFUSED)

        assert (task.state, task.attempt) == (FAILED, 1)

    async def test_one_of_which_nobody_knows_is_asked_again_unless_told_otherwise(self) -> None:
        rig = Rig()
        usual, once = asks(), asks(idempotent=False)
        await rig.submit(usual, once)

        for task in (usual, once):
            rig.backend.fail(task, Cause.LOST, UNKNOWN)

        assert (usual.state, usual.attempt) == (PLACED, 2)
        assert once.state is UNKNOWN

    async def test_what_depends_on_a_failed_one_fails_with_it(self) -> None:
        rig = Rig()
        task = asks()
        after = AITask(task)
        await rig.submit(task, after)

        rig.backend.fail(task, Cause.REFUSED)

        assert after.state is FAILED
        assert after.failure is not None
        assert after.failure.cause is Cause.DEPENDENCY

    async def test_the_desk_is_told_when_the_runtime_is_gone(self) -> None:
        rig = Rig()
        asked, waiting = asks(), asks(after=[(busy := plain())])
        await rig.submit(busy, asked, waiting)

        rig.scheduler.broken("it crashed")

        assert (asked.state, waiting.state) == (FAILED, FAILED)
        assert rig.backend.canceled == [(asked.number, 1)]

    async def test_lost_nodes_are_none_of_its_business(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        task = asks()
        await rig.submit(task)

        rig.scheduler.nodes_lost([0], "it burned")
        rig.backend.done(task, value="answer")

        assert task.state is DONE


class TestEnding:
    async def test_one_that_is_asked_ends_when_the_desk_says_so(self) -> None:
        rig = Rig()
        task = asks()
        await rig.submit(task)

        rig.scheduler.cancel([task])
        assert (task.state, rig.backend.canceled) == (PLACED, [(task.number, 1)])
        rig.backend.fail(task, state=CANCELED)

        assert task.state is CANCELED
        assert rig.counts == {"CANCELED": 1}

    async def test_a_session_that_drains_asks_no_more_and_waits_for_answers(self) -> None:
        rig = Rig()
        asked, queued = asks(), asks()
        waiting = asks(after=[asked])
        await rig.submit(asked, queued, waiting)
        rig.backend.hear(rig.backend.started(rig.backend.launch_of(asked)))

        rig.scheduler.close("the session drains")
        rig.backend.fail(queued, state=CANCELED)
        rig.backend.done(asked)

        assert rig.backend.canceled == [(queued.number, 1)]
        assert (asked.state, queued.state, waiting.state) == (DONE, CANCELED, CANCELED)
        with pytest.raises(SessionClosedError):
            await rig.submit(asks())

    async def test_nothing_is_asked_while_the_journal_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "JOURNAL_RETRY_S", 0.01)
        rig = Rig()
        first, second = asks(), asks()
        await rig.submit(first)
        after = asks(after=[first, second])
        await rig.submit(second, after)
        rig.sink.full = True

        rig.backend.done(first, second)
        await asyncio.sleep(0)
        assert after.state is not RUNNING
        assert after not in rig.backend.running
        rig.sink.full = False

        await eventually(lambda: after in rig.backend.running)


class TestRefusals:
    async def test_routing_is_the_sessions(self) -> None:
        with pytest.raises(SpecError, match=r"routing is the session's: Session\(policy=Policy\(routing=…\)\)"):
            await Rig().submit(asks(policy=Policy(routing="random")))

    async def test_what_the_backend_refuses_is_not_accepted_nor_is_the_rest(self) -> None:
        rig = Rig()
        rig.backend.refusal = SpecError("there is no model to ask")
        task, other = asks(), asks()

        with pytest.raises(SpecError, match="no model to ask"):
            await rig.submit(task, other)

        assert (task.state, other.state, rig.counts) == (State.NEW, State.NEW, {})

    async def test_one_that_was_submitted_before_is_refused(self) -> None:
        rig = Rig()
        await rig.submit(task := asks())

        with pytest.raises(SpecError, match="make a new AITask"):
            await rig.submit(task)


def _done_by(rig: Rig, task: object, attempt: int) -> Report:
    """Return a report of an attempt that is over already."""
    launch = next(each for each in rig.backend.launches if each.task is task and each.attempt == attempt)
    return rig.backend.ended(launch, value="first")


def test_causes_of_model_requests_are_failures() -> None:
    assert Failure(Cause.MODEL, "no answer").state is FAILED
    assert Failure(Cause.REFUSED, "too long").state is FAILED

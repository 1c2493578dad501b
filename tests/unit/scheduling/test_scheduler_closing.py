"""The scheduler: cancelling, closing, and a journal that cannot be written."""

from __future__ import annotations

import asyncio

import pytest

from rhapsody.errors import JournalError, SessionClosedError, TaskCanceled
from rhapsody.model.event import State
from rhapsody.model.policy import Retry
from rhapsody.scheduling import intake, outbox
from tests.eventually import eventually
from tests.scripted import Rig, nodes_of, plain

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN
PATH = [WAITING, READY, PLACED, RUNNING]


class TestCancelling:
    async def test_a_task_that_waits_ends_at_once(self) -> None:
        rig = Rig(nodes_of(1))
        running, ready = plain(), plain()
        waiting = plain(args=[running])
        await rig.submit(running, ready, waiting)

        rig.scheduler.cancel([ready, waiting])

        assert (ready.state, waiting.state) == (CANCELED, CANCELED)
        assert rig.backend.canceled == []
        assert rig.sink.states_of(ready) == [WAITING, READY, CANCELED]
        assert rig.counts == {"PLACED": 1, "CANCELED": 2}

    async def test_a_task_that_runs_ends_when_the_backend_says_so(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.scheduler.cancel([task])
        asked = (task.state, list(rig.backend.canceled))
        rig.backend.fail(task, state=CANCELED)

        assert asked == (PLACED, [(task.number, 1)])
        with pytest.raises(TaskCanceled, match="cancel"):
            await task
        assert rig.is_all_free

    async def test_a_canceled_task_that_comes_back_unstarted_is_not_launched_again(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.scheduler.cancel([task])
        rig.backend.hear(rig.backend.given_back(rig.backend.launch_of(task)))

        assert task.state is CANCELED
        assert len(rig.backend.launches) == 1
        assert rig.counts == {"CANCELED": 1}
        assert rig.is_all_free

    async def test_a_canceled_task_that_failed_first_is_not_tried_again(self) -> None:
        rig = Rig()
        task = plain(retry=3, idempotent=True)
        await rig.submit(task)

        rig.scheduler.cancel([task])
        rig.backend.fail(task)

        assert task.state is FAILED
        assert len(rig.backend.launches) == 1

    async def test_a_task_between_two_attempts_ends_at_once(self) -> None:
        rig = Rig()
        task = plain(retry=Retry(attempts=2, delay_s=60))
        await rig.submit(task)
        rig.backend.fail(task)

        rig.scheduler.cancel([task])

        assert task.state is CANCELED
        assert rig.counts == {"CANCELED": 1}

    async def test_a_task_that_was_done_before_stays_done(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.scheduler.cancel([task])
        rig.backend.done(task, value=3)
        rig.scheduler.cancel([task])

        assert (await task).value == 3


class TestClosing:
    async def test_what_waits_is_canceled_and_what_runs_goes_on(self) -> None:
        rig = Rig(nodes_of(1))
        running, ready = plain(), plain()
        waiting = plain(args=[running])
        await rig.submit(running, ready, waiting)

        rig.scheduler.close("the session drains")
        states = (running.state, ready.state, waiting.state)
        rig.backend.done(running)

        assert states == (PLACED, CANCELED, CANCELED)
        assert running.state is DONE
        with pytest.raises(SessionClosedError, match="the session drains"):
            await rig.submit(plain())

    async def test_a_task_given_back_while_closing_is_canceled_and_counted_once(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.scheduler.close("the session drains")
        rig.backend.hear(rig.backend.given_back(rig.backend.launch_of(task)))

        assert task.state is CANCELED
        assert rig.counts == {"CANCELED": 1}

    async def test_a_failed_attempt_while_closing_is_the_last(self) -> None:
        rig = Rig()
        task = plain(retry=5)
        await rig.submit(task)

        rig.scheduler.close("the session drains")
        rig.backend.fail(task)

        assert task.state is FAILED

    async def test_tasks_on_their_way_in_are_canceled_too(self) -> None:
        rig = Rig()
        tasks = [plain() for _ in range(3 * intake.SLICE)]
        async with asyncio.TaskGroup() as group:
            group.create_task(rig.submit(*tasks))
            await eventually(lambda: tasks[0].state is not State.NEW)
            rig.scheduler.close("the session drains")
        rig.backend.finish_all()

        assert all(task.is_final for task in tasks)
        assert tasks[-1].state is CANCELED
        assert not rig.scheduler.tasks


class TestJournalTrouble:
    async def test_nothing_is_launched_or_told_until_the_journal_can_be_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "JOURNAL_RETRY_S", 0.01)
        rig = Rig(nodes_of(1))
        first, second = plain(), plain()
        await rig.submit(first, second)
        told: list[str] = []
        first.watch(lambda task: told.append(task.uid))

        rig.sink.full = True
        rig.backend.done(first)
        for _ in range(3):
            rig.scheduler.hear([])
        await eventually(lambda: rig.said)
        meanwhile = (list(told), list(rig.backend.running))
        rig.sink.full = False
        await eventually(lambda: told)

        assert meanwhile == ([], [])
        assert rig.backend.running == [second]
        assert [State.DONE in rig.sink.states_of(first), rig.sink.states_of(second)[-1]] == [True, PLACED]

    async def test_the_user_hears_once_of_the_trouble_and_once_of_its_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "JOURNAL_RETRY_S", 0.001)
        rig = Rig()
        task = plain()
        await rig.submit(task)
        tries: list[int] = []
        commit = rig.sink.commit

        def count_and_commit() -> None:
            tries.append(1)
            commit()

        monkeypatch.setattr(rig.sink, "commit", count_and_commit)

        rig.sink.full = True
        rig.backend.done(task)
        for _ in range(5):
            rig.scheduler.hear([])
        await eventually(lambda: len(tries) > 12)
        rig.sink.full = False
        await eventually(lambda: len(rig.said) > 1)

        assert len(rig.said) == 2
        assert "the disk is full" in rig.said[0]
        assert "again" in rig.said[1]

    async def test_a_submission_in_the_meantime_is_refused(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.sink.full = True
        rig.backend.done(task)

        with pytest.raises(JournalError):
            await rig.submit(plain())
        rig.scheduler.abandon("the test is over")

    async def test_a_submission_returns_only_once_it_is_in_the_journal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "JOURNAL_RETRY_S", 0.01)
        rig = Rig()
        rig.sink.full = True
        task = plain()

        async with asyncio.TaskGroup() as group:
            submission = group.create_task(rig.submit(task))
            await eventually(lambda: rig.said)
            returned_early = submission.done()
            rig.sink.full = False

        assert not returned_early
        assert rig.sink.states_of(task) == [WAITING, READY, PLACED]

    async def test_a_task_canceled_before_its_launch_could_be_written_is_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "JOURNAL_RETRY_S", 0.01)
        rig = Rig()
        task = plain()

        async with asyncio.TaskGroup() as group:
            rig.sink.full = True
            group.create_task(rig.submit(task))
            await eventually(lambda: rig.said)
            rig.scheduler.cancel([task])
            rig.sink.full = False
        await eventually(lambda: rig.backend.launches)

        assert rig.backend.canceled[-1] == (task.number, 1)

"""Waiting for tasks: await, wait, as_completed, futures, cancel, drain, closing; the backend answers on command."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import ComputeTask, Policy, Session, SessionClosedError, SpecError, State
from rhapsody import TaskCanceled as Canceled
from rhapsody import TaskFailed as Failed
from rhapsody.errors import JournalError
from rhapsody.session.waiting import Countdown
from tests.eventually import eventually
from tests.scripted import ScriptedBackend, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def session(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[Session]:
    made = await Session(backend=backend, cores=2, runs=tmp_path, notify=lambda _: None)
    try:
        yield made
    finally:
        backend.finish_all()
        await made.aclose()


class TestAwaiting:
    async def test_a_new_task_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"never submitted; pass it to Session\.submit"):
            await plain()

    async def test_several_coroutines_may_await_one_task(self, session: Session, backend: ScriptedBackend) -> None:
        async def read(task: ComputeTask) -> Any:  # noqa: ANN401 - its value
            return (await task).value

        task = plain()
        await session.submit(task)

        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read(task)) for _ in range(5)]
            await eventually(lambda: task.watchers is not None)
            backend.done(task, value=7)

        assert [reader.result() for reader in readers] == [7] * 5

    async def test_a_coroutine_that_gives_up_does_not_cancel_the_task(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        task = plain()
        await session.submit(task)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.001)
        backend.done(task, value=1)

        assert (await task).value == 1
        assert backend.canceled == []

    async def test_awaiting_again_gives_the_same(self, session: Session, backend: ScriptedBackend) -> None:
        good, bad = plain(), plain()
        await session.submit([good, bad])
        backend.done(good)
        backend.fail(bad)

        for _ in range(2):
            assert await good is good
            with pytest.raises(Failed, match="scripted exception"):
                await bad


class TestWait:
    async def test_true_means_that_all_have_ended_however(self, session: Session, backend: ScriptedBackend) -> None:
        good, bad = plain(), plain()
        await session.submit([good, bad])
        backend.done(good)
        backend.fail(bad)

        assert await session.wait([good, bad])
        assert session.unseen_failures == 0

    async def test_false_means_that_the_time_is_over(self, session: Session) -> None:
        task = plain()
        await session.submit(task)

        assert not await session.wait([task], timeout_s=0.001)
        assert not await session.wait(timeout_s=0.001)
        assert not task.is_final

    async def test_looking_again_and_again_leaves_nothing_at_the_task(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        task = plain()
        await session.submit(task)
        ended: list[object] = []
        task.watch(ended.append)

        for _ in range(20):
            await session.wait([task], timeout_s=0)
            await session.wait(timeout_s=0)

        assert not isinstance(task.watchers, list) or len(task.watchers) == 1
        backend.done(task)
        assert ended == [task]

    async def test_without_tasks_it_waits_for_those_submitted_meanwhile_too(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        first, second = plain(), plain()
        await session.submit(first)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(session.wait())
            await eventually(lambda: isinstance(first.watchers, Countdown))
            await session.submit(second)
            backend.done(first)
            await asyncio.sleep(0)
            returned_early = waiting.done()
            backend.done(second)

        assert not returned_early
        assert waiting.result()

    async def test_a_new_task_among_them_is_refused(self, session: Session) -> None:
        with pytest.raises(SpecError, match="never submitted"):
            await session.wait([plain()])

    async def test_nothing_to_wait_for_is_over_at_once(self, session: Session) -> None:
        assert await session.wait()
        assert await session.wait([])


class TestAsCompleted:
    async def test_tasks_come_in_the_order_in_which_they_end(self, session: Session, backend: ScriptedBackend) -> None:
        first, second, third = plain(), plain(), plain()
        await session.submit([first, second, third])
        arrivals = session.as_completed([third, first, second])

        backend.done(second)
        backend.fail(first)
        backend.done(third)

        assert [task async for task in arrivals] == [second, first, third]
        assert session.unseen_failures == 0

    async def test_tasks_that_have_ended_come_at_once_and_each_once(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        task = plain()
        await session.submit(task)
        backend.done(task)

        assert [each async for each in session.as_completed([task, task])] == [task]

    async def test_what_is_submitted_from_results_can_be_followed_too(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        first = plain()
        await session.submit(first)
        backend.done(first, value=3)
        seen = []

        async for task in session.as_completed([first]):
            following = plain(args=[task.value])
            await session.submit(following)
            backend.done(following)
            seen.append(await following)

        assert [task.args for task in seen] == [(3,)]

    async def test_two_readers_share_one_iterator(self, session: Session, backend: ScriptedBackend) -> None:
        async def read(arrivals: AsyncIterator[Any]) -> list[Any]:
            return [task async for task in arrivals]

        tasks = [plain() for _ in range(2)]
        await session.submit(tasks)
        arrivals = session.as_completed(tasks)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            readers = [group.create_task(read(arrivals)) for _ in range(3)]
            await asyncio.sleep(0)
            backend.done(tasks[0])
            await asyncio.sleep(0)
            backend.done(tasks[1])

        seen = [task for reader in readers for task in reader.result()]
        assert sorted(task.number for task in seen) == [task.number for task in tasks]

    async def test_a_new_task_among_them_is_refused(self, session: Session) -> None:
        with pytest.raises(SpecError, match="never submitted"):
            session.as_completed([plain()])


class TestFutures:
    async def test_futures_give_the_task_or_its_error(self, session: Session, backend: ScriptedBackend) -> None:
        good, bad = plain(), plain()

        first, second = await session.submit_tasks([good, bad])
        backend.done(good)
        backend.fail(bad)

        assert await first is good
        with pytest.raises(Failed):
            await second


class TestCancel:
    async def test_it_returns_when_the_tasks_have_ended(self, session: Session, backend: ScriptedBackend) -> None:
        running = plain()
        waiting = plain(args=[running])
        await session.submit([running, waiting])

        async with asyncio.TaskGroup() as group:
            canceling = group.create_task(session.cancel([running, waiting]))
            await eventually(lambda: backend.canceled)
            returned_early = canceling.done()
            backend.fail(running, state=State.CANCELED)

        assert not returned_early
        for task in (running, waiting):
            with pytest.raises(Canceled):
                await task

    async def test_a_task_that_has_ended_is_left_as_it_is(self, session: Session, backend: ScriptedBackend) -> None:
        task = plain()
        await session.submit(task)
        backend.done(task)

        await session.cancel(task)

        assert task.state is State.DONE

    def test_the_errors_are_never_asyncios_own(self) -> None:
        assert not issubclass(Canceled, asyncio.CancelledError)

    @pytest.mark.parametrize("wrong", [5, None])
    async def test_what_is_no_task_is_refused(self, session: Session, wrong: Any) -> None:  # noqa: ANN401 - anything
        with pytest.raises(SpecError, match=r"cancel\(\) takes a task or a list of tasks"):
            await session.cancel(wrong)


class TestDrain:
    async def test_waiting_tasks_are_canceled_and_running_ones_end(
        self, session: Session, backend: ScriptedBackend
    ) -> None:
        running, other, ready = plain(), plain(), plain()
        waiting = plain(args=[running])
        await session.submit([running, other, ready, waiting])

        async with asyncio.TaskGroup() as group:
            draining = group.create_task(session.drain())
            await eventually(lambda: ready.is_final)
            returned_early = draining.done()
            backend.done(running, other)

        assert not returned_early
        assert [task.state for task in (running, other, ready, waiting)] == ["DONE", "DONE", "CANCELED", "CANCELED"]
        with pytest.raises(SessionClosedError):
            await session.submit(plain())


class TestClosing:
    async def test_leaving_the_context_waits_for_everything(self, tmp_path: Path, backend: ScriptedBackend) -> None:
        loop = asyncio.get_running_loop()

        async with Session(backend=backend, cores=2, runs=tmp_path) as session:
            first = plain()
            second = plain(args=[first])
            await session.submit([first, second])
            loop.call_later(0.01, backend.done, first)
            loop.call_later(0.02, backend.done, second)

        assert (first.state, second.state) == (State.DONE, State.DONE)
        assert backend.closed

    async def test_an_exception_inside_cancels_what_is_left(self, tmp_path: Path, backend: ScriptedBackend) -> None:
        running = plain()
        waiting = plain(args=[running])

        async def leave_by_an_exception() -> None:
            async with Session(backend=backend, cores=2, runs=tmp_path) as session:
                await session.submit([running, waiting])
                asyncio.get_running_loop().call_later(0.01, lambda: backend.fail(running, state=State.CANCELED))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await leave_by_an_exception()
        assert backend.canceled == [(running.number, 1)]
        assert (running.state, waiting.state) == (State.CANCELED, State.CANCELED)
        assert backend.closed

    async def test_closing_twice_does_nothing_more_and_nothing_is_taken_afterwards(self, session: Session) -> None:
        await session.aclose()
        await session.aclose()

        with pytest.raises(SessionClosedError, match="closed; make a new one"):
            await session.submit(plain())

    async def test_a_session_that_was_never_opened_can_be_closed(self, tmp_path: Path) -> None:
        await Session(runs=tmp_path).aclose()

        assert list(tmp_path.iterdir()) == []

    async def test_nobody_hangs_when_the_journal_cannot_be_written_to_the_end(
        self, session: Session, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: object) -> None:
            raise JournalError("the disk is full")

        monkeypatch.setattr("rhapsody.session.session.STOP_LIMIT_S", 0.05)
        task, other = plain(), plain()
        await session.submit([task, other])
        told: list[object] = []
        task.watch(told.append)
        other.watch(told.append)
        with monkeypatch.context() as patch:
            patch.setattr(session._run.journal, "commit", fail)
            backend.done(task)

            with pytest.raises(JournalError, match="the disk is full"):
                await session.aclose()

        assert told == [task, other]

    async def test_tasks_that_the_user_dropped_are_gone(self, session: Session, backend: ScriptedBackend) -> None:
        class Value:
            """Something a weak reference can point to."""

        async def run_one(end: State) -> weakref.ref[Value]:
            value = Value()
            task = plain(kwargs={"value": value}, policy=Policy(priority=len(end)))
            await session.submit(task)
            backend.hear(backend.ended(backend.launch_of(task), end))
            await session.wait([task])
            return weakref.ref(value)

        values = [await run_one(end) for end in (State.DONE, State.FAILED, State.CANCELED)]
        backend.launches.clear()
        gc.collect()

        assert [value() for value in values] == [None, None, None]


class TestLooking:
    async def test_counts_tasks_and_failures_tell_how_it_goes(self, session: Session, backend: ScriptedBackend) -> None:
        good, bad, running, ready = plain(), plain(uid="bad"), plain(), plain()
        await session.submit([good, bad, running, ready])
        backend.done(good)
        backend.fail(bad)
        backend.hear(backend.started(backend.launch_of(running)))

        assert session.counts == {"PLACED": 1, "RUNNING": 1, "DONE": 1, "FAILED": 1}
        assert session.tasks == [running, ready]
        assert session.running == [running]
        group = session.failures["exception"]
        assert (group.count, group.example, group.example_uid) == (1, "scripted exception", "bad")
        assert session.unseen_failures == 1
        backend.finish_all()

    async def test_failures_of_dependents_are_counted_apart(self, session: Session, backend: ScriptedBackend) -> None:
        first = plain()
        await session.submit([first, *(plain(args=[first]) for _ in range(3))])

        backend.fail(first)

        assert {cause: group.count for cause, group in session.failures.items()} == {"exception": 1, "dependency": 3}
        assert session.unseen_failures == 1

"""The scheduler: states, order, failures, attempts; with a backend that answers on command."""

from __future__ import annotations

import gc
import time
import weakref

import pytest

from rhapsody.errors import BackendError, TaskCanceled, TaskFailed, TaskUnknown
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy, Retry
from rhapsody.model.resources import Resources
from tests.eventually import eventually
from tests.scripted import Rig, nodes_of, plain

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN
PATH = [WAITING, READY, PLACED, RUNNING]


class TestStates:
    async def test_a_plain_task_passes_every_state_in_order(self) -> None:
        rig = Rig()
        task = plain()

        await rig.submit(task)
        rig.backend.done(task, value=7)

        assert rig.sink.of(task) == [(WAITING, 0), (READY, 0), (PLACED, 1), (RUNNING, 1), (DONE, 1)]
        assert (await task).value == 7
        assert rig.counts == {"DONE": 1}
        assert rig.is_all_free

    async def test_a_diamond_runs_in_the_order_of_its_edges(self) -> None:
        rig = Rig()
        top = plain()
        left, right = plain(args=[top]), plain(args=[top])
        bottom = plain(args=[left], kwargs={"other": right})

        await rig.submit(bottom, right, left, top)
        rig.backend.done(top)
        rig.backend.done(left)
        before_right = list(rig.backend.running)
        rig.backend.done(right)

        assert before_right == [right]
        assert rig.backend.running == [bottom]
        assert [launch.task for launch in rig.backend.launches] == [top, right, left, bottom]

    async def test_a_task_seen_running_is_listed_until_it_ends(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.backend.hear(rig.backend.started(rig.backend.launch_of(task)))
        during = (task.state, list(rig.scheduler.running.values()), rig.counts)
        rig.backend.done(task)

        assert during == (RUNNING, [task], {"RUNNING": 1})
        assert not rig.scheduler.running
        assert rig.sink.states_of(task) == [*PATH, DONE]

    async def test_a_completion_is_committed_before_it_is_told(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)
        known: list[list[State]] = []
        task.watch(lambda ended: known.append(rig.sink.states_of(ended)))

        rig.backend.done(task)

        assert known == [[*PATH, DONE]]

    async def test_a_dependency_that_has_ended_is_no_reason_to_wait(self) -> None:
        rig = Rig()
        first = plain()
        await rig.submit(first)
        rig.backend.done(first)
        second = plain(args=[first])

        await rig.submit(second)

        assert rig.backend.running == [second]

    async def test_after_only_orders(self) -> None:
        rig = Rig()
        first = plain()
        second = plain(after=[first])

        await rig.submit(first, second)
        before = list(rig.backend.running)
        rig.backend.done(first)

        assert before == [first]
        assert rig.backend.running == [second]


class TestFailures:
    async def test_a_failure_fails_the_whole_chain_and_names_its_root(self) -> None:
        rig = Rig()
        root = plain(uid="root")
        middle = plain(args=[root], uid="middle")
        last = plain(args=[middle], uid="last")
        await rig.submit(root, middle, last)

        rig.backend.fail(root)

        with pytest.raises(TaskFailed, match=r"last: .*root.*FAILED: scripted exception") as caught:
            await last
        assert caught.value.cause == Cause.DEPENDENCY
        assert rig.sink.states_of(last) == [WAITING, FAILED]
        assert rig.counts == {"FAILED": 3}

    async def test_a_canceled_dependency_cancels(self) -> None:
        rig = Rig()
        first = plain()
        second = plain(args=[first])
        await rig.submit(first, second)

        rig.scheduler.cancel([first])
        rig.backend.fail(first, state=CANCELED)

        with pytest.raises(TaskCanceled):
            await second
        assert rig.counts == {"CANCELED": 2}

    async def test_a_task_that_says_so_runs_although_its_dependency_failed(self) -> None:
        rig = Rig()
        first = plain()
        second = plain(args=[first], when_dependency_fails="run")
        await rig.submit(first, second)

        rig.backend.fail(first)

        assert rig.backend.running == [second]
        assert isinstance(first.exception, TaskFailed)

    async def test_a_task_submitted_after_its_dependency_failed_fails_at_once(self) -> None:
        rig = Rig()
        first = plain(uid="first")
        await rig.submit(first)
        rig.backend.fail(first)
        second = plain(args=[first])

        await rig.submit(second)

        with pytest.raises(TaskFailed, match="first"):
            await second

    async def test_twenty_thousand_dependents_fail_quickly_and_in_little_memory(self) -> None:
        rig = Rig()
        chain = [plain()]
        for _ in range(20_000):
            chain.append(plain(args=[chain[-1]]))
        await rig.submit(*chain)

        began = time.process_time()
        rig.backend.fail(chain[0])
        spent_s = time.process_time() - began

        assert rig.counts == {"FAILED": 20_001}
        assert spent_s < 5
        assert chain[-1].failure is not None
        assert len(chain[-1].failure.message) < 300
        assert chain[0].uid in chain[-1].failure.message

    async def test_a_task_whose_end_nobody_saw_is_unknown_and_not_run_again(self) -> None:
        rig = Rig(policy=Policy())
        task = plain()
        await rig.submit(task)

        rig.backend.fail(task, Cause.LOST, UNKNOWN)

        with pytest.raises(TaskUnknown):
            await task
        assert len(rig.backend.launches) == 1

    @pytest.mark.parametrize("retry", [3, Retry(attempts=5)])
    async def test_a_retry_alone_does_not_run_again_what_nobody_saw_end(self, retry: int | Retry) -> None:
        rig = Rig()
        task = plain(retry=retry)
        await rig.submit(task)

        rig.backend.fail(task, Cause.LOST, UNKNOWN)

        assert task.state is UNKNOWN
        assert len(rig.backend.launches) == 1

    async def test_a_lost_idempotent_task_runs_again_but_not_for_ever(self) -> None:
        rig = Rig()
        task = plain(idempotent=True)
        await rig.submit(task)

        while not task.is_final:
            rig.backend.fail(task, Cause.LOST, UNKNOWN)

        assert [launch.attempt for launch in rig.backend.launches] == [1, 2, 3]
        assert task.state is UNKNOWN
        assert rig.is_all_free

    async def test_a_dead_runtime_fails_what_is_left_and_takes_nothing_more(self) -> None:
        rig = Rig()
        tasks = [plain() for _ in range(5)]
        await rig.submit(*tasks)

        rig.scheduler.broken("node n0 is gone")

        assert {task.state for task in tasks} == {FAILED}
        assert rig.counts == {"FAILED": 5}
        with pytest.raises(TaskFailed, match="node n0 is gone"):
            await tasks[0]
        with pytest.raises(BackendError, match="node n0 is gone"):
            await rig.submit(plain())


class TestAttempts:
    async def test_a_failed_attempt_is_journaled_and_followed_by_another(self) -> None:
        rig = Rig()
        task = plain(retry=2)
        await rig.submit(task)

        rig.backend.fail(task)
        rig.backend.done(task, value=5)

        first = [(WAITING, 0), (READY, 0), (PLACED, 1), (RUNNING, 1), (FAILED, 1)]
        assert rig.sink.of(task) == [*first, (WAITING, 1), (READY, 1), (PLACED, 2), (RUNNING, 2), (DONE, 2)]
        assert (await task).value == 5
        assert task.failure is None
        assert rig.counts == {"DONE": 1}

    async def test_attempts_end_with_the_last_that_the_policy_allows(self) -> None:
        rig = Rig()
        task = plain(retry=3)
        await rig.submit(task)

        while not task.is_final:
            rig.backend.fail(task)

        assert [launch.attempt for launch in rig.backend.launches] == [1, 2, 3]
        assert rig.sink.states_of(task).count(FAILED) == 3
        assert rig.sink.states_of(task)[-1] is FAILED

    async def test_a_cause_that_is_not_listed_is_not_tried_again(self) -> None:
        rig = Rig()
        task = plain(retry=Retry(attempts=5, causes=frozenset({Cause.SIGNAL})))
        await rig.submit(task)

        rig.backend.fail(task, Cause.SIGNAL)
        rig.backend.fail(task, Cause.EXCEPTION)

        assert task.state is FAILED
        assert task.attempt == 2

    async def test_a_users_retry_policy_is_asked_with_attempt_and_failure(self) -> None:
        class Twice:
            asked: list[tuple[int, str]] = []  # noqa: RUF012 - one instance

            def delay_before_next(self, attempt: int, failure: Failure) -> float | None:
                self.asked.append((attempt, failure.message))
                return 0.0 if attempt < 2 else None

        rig = Rig(policy=Policy(retry=Twice()))
        task = plain()
        await rig.submit(task)

        rig.backend.fail(task)
        rig.backend.fail(task)

        assert Twice.asked == [(1, "scripted exception"), (2, "scripted exception")]
        assert task.state is FAILED

    @pytest.mark.parametrize("answer", [ValueError("boom"), "soon", float("nan"), -1.0])
    async def test_a_users_retry_policy_that_misbehaves_fails_its_task_alone(self, answer: object) -> None:
        class Wrong:
            def delay_before_next(self, attempt: int, failure: Failure) -> float | None:  # noqa: ARG002 - the contract has it
                if isinstance(answer, Exception):
                    raise answer
                return answer  # type: ignore[return-value]

        rig = Rig()
        wrong, fine = plain(retry=Wrong()), plain()
        await rig.submit(wrong, fine)

        rig.backend.hear(
            rig.backend.ended(rig.backend.launch_of(wrong), FAILED), rig.backend.ended(rig.backend.launch_of(fine))
        )

        assert fine.state is DONE
        with pytest.raises(TaskFailed, match=r"scripted exception.*retry policy"):
            await wrong
        assert rig.is_all_free

    async def test_a_delayed_attempt_waits_and_leaves_its_core_to_others(self) -> None:
        rig = Rig(nodes_of(1))
        slow, other = plain(retry=Retry(attempts=2, delay_s=0.02)), plain()
        await rig.submit(slow, other)

        rig.backend.fail(slow)
        meanwhile = (slow.state, list(rig.backend.running), rig.counts)
        rig.backend.done(other)
        await eventually(lambda: rig.backend.running == [slow])

        assert meanwhile == (WAITING, [other], {"WAITING": 1, "PLACED": 1})
        assert slow.attempt == 2

    async def test_a_task_overrides_the_sessions_retry(self) -> None:
        rig = Rig(policy=Policy(retry=5))
        task = plain(retry=1)
        await rig.submit(task)

        rig.backend.fail(task)

        assert task.state is FAILED

    async def test_a_late_report_of_an_earlier_attempt_is_dropped(self) -> None:
        rig = Rig()
        task = plain(idempotent=True)
        await rig.submit(task)
        first = rig.backend.launch_of(task)
        rig.backend.fail(task, Cause.LOST, UNKNOWN)

        rig.backend.hear(rig.backend.ended(first, value="stale"))

        assert task.state is PLACED
        rig.backend.done(task, value="fresh")
        assert task.value == "fresh"
        assert rig.counts == {"DONE": 1}
        assert rig.is_all_free

    async def test_a_task_given_back_is_launched_again_under_the_same_number(self) -> None:
        rig = Rig()
        task = plain()
        await rig.submit(task)

        rig.backend.hear(rig.backend.given_back(rig.backend.launch_of(task)))
        rig.backend.done(task)

        assert [launch.attempt for launch in rig.backend.launches] == [1, 1]
        assert rig.sink.states_of(task) == [WAITING, READY, PLACED, READY, PLACED, RUNNING, DONE]
        assert rig.counts == {"DONE": 1}

    async def test_tasks_given_back_together_keep_their_order(self) -> None:
        rig = Rig(nodes_of(3))
        tasks = [plain() for _ in range(3)]
        await rig.submit(*tasks)

        rig.backend.hear(*(rig.backend.given_back(launch) for launch in list(rig.backend.open.values())))

        assert rig.backend.running == tasks


class TestMemory:
    async def test_the_scheduler_keeps_nothing_of_what_has_ended(self) -> None:
        class Value:
            """Something a weak reference can point to."""

        async def run_three(rig: Rig) -> weakref.ref[Value]:
            first = plain()
            second = plain(args=[first], policy=Policy(colocate_with=first))
            failed = plain(args=[second])
            await rig.submit(first, second, failed)
            value = Value()
            rig.backend.done(first, value=value)
            rig.backend.done(second)
            rig.backend.fail(failed)
            return weakref.ref(value)

        rig = Rig()
        values = [await run_three(rig) for _ in range(3)]
        rig.backend.launches.clear()
        gc.collect()

        assert [value() for value in values] == [None] * 3


class TestBigTasks:
    async def test_a_big_task_is_not_starved_by_an_endless_stream(self) -> None:
        rig = Rig(nodes_of(4))
        big = plain(resources=Resources(cores_per_rank=4))
        await rig.submit(*(plain() for _ in range(4)))
        await rig.submit(big)

        for _ in range(200):
            rig.backend.done(rig.backend.running[0])
            if big.state is not State.READY:
                break
            await rig.submit(plain())

        assert big.attempt == 1

    async def test_small_tasks_fill_holes_that_a_big_one_leaves(self) -> None:
        rig = Rig(nodes_of(4))
        half = Resources(cores_per_rank=3)
        first, big, small = plain(resources=half), plain(resources=half), plain()

        await rig.submit(first, big, small)

        assert rig.backend.running == [first, small]

    async def test_a_higher_priority_goes_before_a_big_task_that_waits(self) -> None:
        rig = Rig(nodes_of(2))
        running = [plain(), plain()]
        await rig.submit(*running)
        big, urgent = plain(resources=Resources(cores_per_rank=2)), plain(priority=1)
        await rig.submit(big, urgent)

        rig.backend.done(running[0])

        assert rig.backend.running == [running[1], urgent]

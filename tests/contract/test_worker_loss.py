"""Workers and their parent killed from outside: what they were at is blamed, and nothing else."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody import BackendError, ComputeTask, Session, SessionClosedError, State, TaskFailed
from tests.contract import work
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.leftovers import Process


async def kill_at_the_stopper(ledger: Path) -> float:
    """Kill the worker that the stopper runs on; return when, on the loop's clock."""
    pid = ledger.with_name("pid")
    await eventually(lambda: work.lines(pid), within_s=10, what="the stopper runs")
    os.kill(int(work.lines(pid)[0]), signal.SIGKILL)
    return asyncio.get_running_loop().time()


async def learn(session: Session, ledger: Path) -> None:
    """Let the session learn that the function is quick, so that it sends many at a time."""
    await session.submit(ComputeTask(work.stop_here, args=(ledger.with_name("warm-up"), n, -1)) for n in range(100))
    await session.wait()


async def test_death_in_the_middle_of_a_chunk_fails_the_task_it_was_at_within_a_second(
    session: Session, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    await learn(session, ledger)
    tasks = await session.submit(ComputeTask(work.stop_here, args=(ledger, n, 20)) for n in range(200))

    killed_at = await kill_at_the_stopper(ledger)
    await session.wait([tasks[20]])
    noticed_after_s = asyncio.get_running_loop().time() - killed_at
    await session.wait()

    assert noticed_after_s < 1.0
    assert [n for n, task in enumerate(tasks) if task.state is not State.DONE] == [20]
    assert Counter(work.lines(ledger)) == Counter(f"{n} 1" for n in range(200))
    with pytest.raises(TaskFailed, match=r"worker process \d+ .* signal 9"):
        await tasks[20]


async def test_task_that_its_worker_died_with_is_tried_again_as_its_policy_says(
    session: Session, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    await learn(session, ledger)
    tasks = await session.submit(ComputeTask(work.stop_here, args=(ledger, n, 20), retry=2) for n in range(200))

    await kill_at_the_stopper(ledger)
    await session.wait()

    assert {task.state for task in tasks} == {State.DONE}
    assert (tasks[20].attempt, tasks[19].attempt) == (2, 1)
    assert Counter(work.lines(ledger)) == Counter([*(f"{n} 1" for n in range(200)), "20 2"])


async def test_death_at_any_moment_costs_at_most_the_task_that_ran(session: Session, tmp_path: Path) -> None:
    chance = random.Random(20)  # noqa: S311 - moments, not secrets

    for episode in range(20):
        ledger = tmp_path / f"ledger-{episode}"
        tasks = await session.submit(ComputeTask(work.log_start_and_end, args=(ledger, n)) for n in range(60))
        moment = chance.randrange(1, 80)
        await eventually(lambda: len(work.lines(ledger)) >= moment, within_s=10, what="so many began or ended")  # noqa: B023 - asked at once
        os.kill(int(work.lines(ledger)[-1].split()[2]), signal.SIGKILL)
        await session.wait()

        failed = {n for n, task in enumerate(tasks) if task.state is not State.DONE}
        begun = Counter(int(line.split()[1]) for line in work.lines(ledger) if line.startswith("start"))
        ended = Counter(int(line.split()[1]) for line in work.lines(ledger) if line.startswith("end"))
        assert len(failed) <= 1
        assert all("signal 9" in str(tasks[n].exception) for n in failed)
        assert set(begun.values()) | set(ended.values()) == {1}
        assert set(range(60)) - failed <= ended.keys()
        assert begun.keys() | failed == set(range(60))


async def test_death_of_idle_workers_harms_nobody(session: Session) -> None:
    for _ in range(5):
        tasks = await session.submit(ComputeTask(os.getpid) for _ in range(20))
        await session.wait()

        for pid in {task.return_value for task in tasks}:
            os.kill(pid, signal.SIGKILL)
        after = await session.submit(ComputeTask(os.getpid) for _ in range(20))
        await session.wait()

        assert {task.state for task in tasks + after} == {State.DONE}


async def test_dead_workers_leave_no_descriptor_open_in_the_session(narrow_session: Session) -> None:
    [first] = await narrow_session.submit(ComputeTask(abs, args=(-1,)))
    await first
    before = len(list(Path("/proc/self/fd").iterdir()))

    await narrow_session.submit(ComputeTask(work.kill_itself) for _ in range(10))
    await narrow_session.wait()
    [last] = await narrow_session.submit(ComputeTask(abs, args=(-1,)))
    await last

    assert narrow_session.counts == {"DONE": 2, "FAILED": 10}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_worker_stopped_and_continued_loses_nothing(narrow_session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    tasks = await narrow_session.submit(ComputeTask(work.log_start_and_end, args=(ledger, n)) for n in range(300))
    await eventually(lambda: len(work.lines(ledger)) > 50, what="some have run")
    pid = int(work.lines(ledger)[-1].split()[2])

    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: work.state_of(pid) == "T", what="it has stopped")
    os.kill(pid, signal.SIGCONT)
    await narrow_session.wait()

    assert {task.state for task in tasks} == {State.DONE}
    assert Counter(line.split()[0] for line in work.lines(ledger)) == {"start": 300, "end": 300}


async def test_death_of_the_workers_parent_settles_every_task_and_is_said(
    session: Session, tmp_path: Path, messages: list[str], living: Callable[[], list[Process]]
) -> None:
    pids = tmp_path / "pids"
    [parent] = await session.submit(ComputeTask(os.getppid))
    await parent
    running, program = await session.submit(
        [ComputeTask(work.hang, args=(pids,)), ComputeTask(executable="sleep", arguments=[600])]
    )
    waiting = await session.submit(ComputeTask(abs, args=(-n,)) for n in range(100))
    await eventually(lambda: pids.exists() and len(living()) >= 5, what="both run")

    os.kill(parent.return_value, signal.SIGKILL)
    settled = await session.wait(timeout_s=10)

    assert settled
    assert running.state is State.UNKNOWN
    assert State.DONE not in {task.state for task in [program, *waiting]}
    assert any("signal 9 (SIGKILL)" in message for message in messages)
    await eventually(lambda: not living(), what="nothing of the session is left")
    with pytest.raises((BackendError, SessionClosedError), match="is gone"):
        await session.submit(ComputeTask(abs, args=(-1,)))


async def test_slow_task_does_not_hold_back_quick_ones_of_its_chunk(session: Session) -> None:
    await session.submit(ComputeTask(work.spin, args=(0.0,)) for _ in range(300))
    await session.wait()

    slow = ComputeTask(work.spin, args=(0.6,))
    quick = [ComputeTask(work.spin, args=(0.0,)) for _ in range(200)]
    await session.submit([slow, *quick])
    order = [task async for task in session.as_completed([slow, *quick])]

    assert order[-1] is slow
    assert session.counts == {"DONE": 501}

"""Cancelling: wherever a task is on its way, it ends CANCELED, and nothing of it is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, Session, State, Task, TaskCanceled
from tests.contract import work
from tests.eventually import eventually
from tests.requirements import needs_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.conftest import NewSession


async def test_cancelled_task_raises_its_own_error_and_not_that_of_asyncio(session: Session, tmp_path: Path) -> None:
    [task] = await session.submit(ComputeTask(work.wait_for, args=(tmp_path / "never",), uid="unlucky"))

    async with asyncio.TaskGroup() as group:
        outcome = group.create_task(_outcome(task))
        await session.cancel(task)

    error = outcome.result()
    assert isinstance(error, TaskCanceled)
    assert not isinstance(error, asyncio.CancelledError)
    assert (error.uid, error.cause) == ("unlucky", "canceled")


async def test_waiting_task_is_cancelled_before_it_runs(session: Session, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    first = ComputeTask(work.wait_for, args=(gate,))
    second = ComputeTask(work.note, args=(ledger, "second"), after=[first])
    await session.submit([first, second])

    await session.cancel(second)
    gate.touch()
    await session.wait()

    assert (first.state, second.state) == (State.DONE, State.CANCELED)
    assert work.lines(ledger) == []


async def test_dependents_of_a_cancelled_task_are_cancelled_with_its_name(session: Session, tmp_path: Path) -> None:
    first = ComputeTask(work.wait_for, args=(tmp_path / "never",), uid="first")
    second = ComputeTask(abs, args=(first,))
    await session.submit([first, second])

    await session.cancel(first)

    assert second.state is State.CANCELED
    with pytest.raises(TaskCanceled, match="first, which it depends on"):
        await second


async def test_ready_task_is_cancelled_before_it_runs(narrow_session: Session, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    first = ComputeTask(work.wait_for, args=(gate,))
    second = ComputeTask(work.note, args=(ledger, "second"), priority=-1)
    await narrow_session.submit([first, second])
    assert second.state is State.READY

    await narrow_session.cancel(second)
    gate.touch()
    await narrow_session.wait()

    assert (first.state, second.state) == (State.DONE, State.CANCELED)
    assert work.lines(ledger) == []


async def test_placed_task_behind_a_long_one_is_cancelled_and_its_neighbours_run(
    narrow_session: Session, tmp_path: Path
) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    await narrow_session.submit(ComputeTask(work.note_behind, args=(None, ledger, -1)) for _ in range(100))
    await narrow_session.wait()
    long = ComputeTask(work.note_behind, args=(gate, ledger, 0))
    behind = [ComputeTask(work.note_behind, args=(None, ledger, n)) for n in range(1, 21)]
    await narrow_session.submit([long, *behind])
    assert {task.state for task in behind[:9]} == {State.PLACED}

    await narrow_session.cancel([behind[3], behind[8]])
    gate.touch()
    await narrow_session.wait()

    assert [n for n, task in enumerate(behind) if task.state is State.CANCELED] == [3, 8]
    expected = [0, *(n for n in range(1, 21) if n not in (4, 9))]
    assert sorted(int(line) for line in work.lines(ledger) if line != "-1") == expected


async def test_task_cancelled_before_its_worker_has_started_never_runs(new_session: NewSession, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    session = await new_session()
    tasks = await session.submit(ComputeTask(work.note, args=(ledger, n)) for n in range(20))

    await session.cancel(tasks)
    [after] = await session.submit(ComputeTask(abs, args=(-1,)))
    await after

    assert {task.state for task in tasks} == {State.CANCELED}
    assert work.lines(ledger) == []
    await session.aclose()


@pytest.mark.parametrize("pause", range(0, 40, 4))
async def test_cancelled_tasks_either_ran_to_their_end_or_never_began(
    session: Session, tmp_path: Path, pause: int
) -> None:
    ledger = tmp_path / "ledger"
    tasks = await session.submit(ComputeTask(work.note, args=(ledger, n)) for n in range(2_000))
    await eventually(lambda: len(work.lines(ledger)) >= pause, what="some have run")

    await session.cancel(tasks)

    done = [n for n, task in enumerate(tasks) if task.state is State.DONE]
    canceled = [n for n, task in enumerate(tasks) if task.state is State.CANCELED]
    ran = sorted(map(int, work.lines(ledger)))
    assert len(done) + len(canceled) == 2_000
    assert set(done) <= set(ran)
    assert len(ran) == len(set(ran)) <= len(done) + 2  # one per worker may have been killed just behind its note


async def test_storm_of_cancellations_runs_no_task_twice_and_none_too_few(session: Session, tmp_path: Path) -> None:
    ledger, chance = tmp_path / "ledger", random.Random(5)  # noqa: S311 - choices, not secrets
    tasks = [ComputeTask(work.log_start_and_end, args=(ledger, n)) for n in range(400)]
    await session.submit(tasks)

    async with asyncio.TaskGroup() as group:
        while left := session.tasks:
            group.create_task(session.cancel(chance.sample(left, min(2, len(left)))))
            seen = len(work.lines(ledger))
            await eventually(lambda: len(work.lines(ledger)) > seen or not session.tasks, what="one more began")  # noqa: B023 - asked at once

    done = {n for n, task in enumerate(tasks) if task.state is State.DONE}
    begun = Counter(int(line.split()[1]) for line in work.lines(ledger) if line.startswith("start"))
    ended = {int(line.split()[1]) for line in work.lines(ledger) if line.startswith("end")}
    assert set(begun.values()) <= {1}
    assert done <= ended
    assert 0 < len(done) < 400
    assert session.counts == {"DONE": len(done), "CANCELED": 400 - len(done)}


async def test_running_function_is_gone_with_its_children_when_cancel_returns(session: Session, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    [task] = await session.submit(ComputeTask(work.hang, args=(pids,)))
    await eventually(pids.exists, what="it runs")

    await session.cancel(task)

    assert task.state is State.CANCELED
    assert [work.is_alive(pid) for pid in work.noted_pids(pids)] == [False, False]


async def test_running_executable_is_gone_with_a_grandchild_that_ignores_sigterm(
    session: Session, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    stubborn = f"trap '' TERM; sh -c 'echo $$ >> {pids}; exec sleep 600'"
    [task] = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", f"({stubborn}) & setsid sleep 600 & echo $! >> {pids}; wait"])
    )
    await eventually(lambda: len(work.lines(pids)) == 2, what="both grandchildren run")

    await session.cancel(task)

    assert task.state is State.CANCELED
    assert [work.is_alive(pid) for pid in work.noted_pids(pids)] == [False, False]


async def test_executable_gets_the_chance_to_end_by_itself(session: Session, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap 'echo saved; exit 0' TERM; touch {ready}; while :; do sleep 0.01; done"
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", script]))
    await eventually(ready.exists, what="it runs")

    await session.cancel(task)

    assert (task.state, task.stdout) == (State.CANCELED, "saved\n")


@needs_command("mpiexec", package="openmpi-bin")
async def test_mpi_task_is_gone_with_all_its_ranks(new_session: NewSession, tmp_path: Path) -> None:
    session = await new_session(cores=4)
    pids = tmp_path / "pids"
    [task] = await session.submit(
        ComputeTask(
            executable="sh", arguments=["-c", f"echo $$ >> {pids}; exec sleep 600"], resources=Resources(ranks=4)
        )
    )
    await eventually(lambda: len(work.lines(pids)) == 4, within_s=20, what="all ranks run")

    await session.cancel(task)

    assert task.state is State.CANCELED
    assert [pid for pid in work.noted_pids(pids) if work.is_alive(pid)] == []
    await session.aclose()


async def test_cancelling_a_task_that_has_ended_changes_nothing(session: Session) -> None:
    tasks = await session.submit([ComputeTask(abs, args=(-1,)), ComputeTask(work.exit_softly)])
    await session.wait()

    await session.cancel(tasks)
    await session.cancel(tasks[0])

    assert [str(task.state) for task in tasks] == ["DONE", "FAILED"]
    assert tasks[0].return_value == 1
    assert session.counts == {"DONE": 1, "FAILED": 1}


async def test_array_cancelled_half_way_starts_no_further_item(session: Session, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"

    def pass_until_50(item: int) -> int:
        work.note(ledger, item)
        if item >= 50:
            work.wait_for(gate)
        return item

    array = await session.map(pass_until_50, range(1_000), chunk=10)
    await eventually(lambda: {"50", "60"} <= set(work.lines(ledger)), what="both workers are half-way")

    await session.cancel(array)
    gate.touch()
    [after] = await session.submit(ComputeTask(abs, args=(-1,)))
    await after

    assert array.state is State.CANCELED
    assert len(work.lines(ledger)) == 52
    assert array.return_value[:50] == list(range(50))
    assert session.tasks == []
    with pytest.raises(TaskCanceled):
        await array


async def _outcome(task: Task) -> BaseException | None:
    try:
        await task
    except BaseException as exc:  # noqa: BLE001 - what is tested is its type
        return exc
    return None

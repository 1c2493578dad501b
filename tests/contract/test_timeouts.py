"""Time limits: the attempt is ended, with all its processes, and counts as failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, TaskFailed
from tests.contract import work
from tests.requirements import needs_command

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody import Session
    from tests.contract.conftest import NewSession

LIMIT_S = 0.3


async def test_function_that_takes_too_long_is_ended_with_its_children(session: Session, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    slow, fine = await session.submit(
        [ComputeTask(work.hang, args=(pids,), timeout_s=2.0), ComputeTask(abs, args=(-1,), timeout_s=60.0)]
    )

    with pytest.raises(TaskFailed, match=r"longer than timeout_s=2 ") as caught:
        await slow

    assert caught.value.cause == "timeout"
    assert [pid for pid in work.noted_pids(pids) if work.is_alive(pid)] == []
    assert (await fine).return_value == 1


async def test_tasks_behind_one_that_takes_too_long_run_all_the_same(narrow_session: Session) -> None:
    quick = [ComputeTask(work.spin, args=(0.0,), timeout_s=LIMIT_S) for _ in range(20)]
    await narrow_session.submit(quick)
    await narrow_session.wait()

    tasks = [ComputeTask(work.spin, args=(30.0 if n == 3 else 0.0,), timeout_s=LIMIT_S) for n in range(20)]
    await narrow_session.submit(tasks)
    await narrow_session.wait()

    assert [n for n, task in enumerate(tasks) if str(task.state) == "FAILED"] == [3]
    assert str(tasks[3].exception).count("timeout_s=0.3") == 1


async def test_executable_that_takes_too_long_is_ended(session: Session) -> None:
    [task] = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", "echo begun; exec sleep 600"], timeout_s=LIMIT_S)
    )

    with pytest.raises(TaskFailed, match=r"sh ran longer than timeout_s=0.3") as caught:
        await task

    assert caught.value.cause == "timeout"
    assert (task.stdout, task.exit_code) == ("begun\n", -15)


async def test_executable_that_never_stops_talking_is_ended(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="yes", timeout_s=LIMIT_S))

    with pytest.raises(TaskFailed, match=r"timeout_s=0\.3"):
        await task

    assert task.stdout.endswith("y\ny\n")


@needs_command("mpiexec", package="openmpi-bin")
async def test_mpi_task_that_takes_too_long_is_ended_with_all_its_ranks(
    new_session: NewSession, tmp_path: Path
) -> None:
    session = await new_session(cores=4)
    script = f"echo $$ >> {tmp_path}/pids; exec sleep 600"
    [task] = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", script], resources=Resources(ranks=4), timeout_s=3.0)
    )

    with pytest.raises(TaskFailed, match="timeout_s=3 "):
        await task

    ranks = work.noted_pids(tmp_path / "pids")
    assert len(ranks) == 4
    assert [pid for pid in ranks if work.is_alive(pid)] == []
    await session.aclose()


async def test_item_of_an_array_that_takes_too_long_is_ended_and_the_other_items_run(session: Session) -> None:
    array = await session.map(lambda item: work.spin(30.0 if item == 5 else 0.0), range(12), chunk=1, timeout_s=LIMIT_S)

    with pytest.raises(TaskFailed, match=r"1 of 12 items failed.*item 5.*timeout_s=0.3") as caught:
        await array

    assert caught.value.cause == "timeout"
    assert list(array.failures) == [5]


async def test_timed_out_attempt_is_tried_again_when_its_retry_says_so(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def hang_once() -> str:
        work.note(ledger, "here")
        if len(work.lines(ledger)) == 1:
            work.spin(30.0)
        return "done"

    [task] = await session.submit(ComputeTask(hang_once, timeout_s=LIMIT_S, retry=2))
    await task

    assert (task.return_value, task.attempt, len(work.lines(ledger))) == ("done", 2, 2)

"""The end of a session, however it comes: nothing of it is left, and every task knows how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, Session, SessionClosedError, State
from tests.contract import work
from tests.eventually import eventually
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import NewSession
    from tests.leftovers import Process

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = """
import asyncio, sys
from pathlib import Path
from tests.contract.over import session_over
from tests.contract.test_session_end import fill

async def main(backend, folder):
    async with session_over(backend, folder, cores=3) as session:
        await fill(session, folder)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty folder that is the temporary one meanwhile; its path is short, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def shared_memory() -> set[str]:
    """Return the names of the shared memory that sessions or MPI libraries may have made."""
    names = os.listdir("/dev/shm")  # noqa: PTH208, S108 - looked at, not used
    return {name for name in names if name.startswith(("rhapsody", "vader", "ompi", "osc_", "sm_", "mpich", "psm"))}


async def fill(session: Session, folder: Path) -> list[ComputeTask]:
    """Have a function, an executable and a forked child run, with children of their own, and others wait."""
    script = f"setsid sleep 600 & echo $! > {folder}/part; mv {folder}/part {folder}/program; wait"
    tasks = [
        ComputeTask(work.hang, args=(folder / "function",)),
        ComputeTask(executable="sh", arguments=["-c", script]),
        ComputeTask(work.leave_fork, args=(folder / "fork",)),
        *(ComputeTask(work.wait_for, args=(folder / "never",), priority=-1) for _ in range(10)),
    ]
    await session.submit(tasks)
    await eventually(lambda: all_run(folder), within_s=20, what="all three run")
    return tasks


def all_run(folder: Path) -> bool:
    """Return whether the three have said that they run."""
    return all((folder / name).exists() for name in ("function", "program", "fork"))


async def test_closing_ends_all_and_leaves_nothing(
    new_session: NewSession, tmp_path: Path, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    memory_before = shared_memory()
    session = await new_session(cores=3)
    tasks = await fill(session, tmp_path)
    await tasks[2]  # its child goes on

    await session.aclose()

    assert {task.state for task in tasks[:2] + tasks[3:]} == {State.CANCELED}
    assert tasks[2].state is State.DONE
    assert living() == []
    assert list(temporary.iterdir()) == []
    await eventually(lambda: shared_memory() <= memory_before, what="no shared memory is left")
    with pytest.raises(SessionClosedError):
        await session.submit(ComputeTask(abs, args=(-1,)))


async def test_leaving_by_an_exception_ends_all_and_leaves_nothing(
    new_session: NewSession, tmp_path: Path, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    tasks: list[ComputeTask] = []

    async def campaign() -> None:
        async with new_session(cores=3) as session:
            tasks.extend(await fill(session, tmp_path))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await campaign()

    assert all(task.is_final for task in tasks)
    assert living() == []
    assert list(temporary.iterdir()) == []


async def test_cancelled_campaign_ends_all_and_leaves_nothing(
    new_session: NewSession, tmp_path: Path, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    tasks: list[ComputeTask] = []

    async def campaign() -> None:
        async with new_session(cores=3) as session:
            tasks.extend(await fill(session, tmp_path))

    async with asyncio.TaskGroup() as group:
        running = group.create_task(campaign())
        await eventually(lambda: len(tasks) > 0, within_s=20, what="the campaign is under way")
        running.cancel()

    assert running.cancelled()
    assert all(task.is_final for task in tasks)
    assert living() == []
    assert list(temporary.iterdir()) == []


async def test_leaving_normally_waits_for_everything(
    new_session: NewSession, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    async with new_session() as session:
        tasks = await session.submit(ComputeTask(work.spin, args=(0.01,)) for _ in range(40))

    assert {task.state for task in tasks} == {State.DONE}
    assert living() == []
    assert list(temporary.iterdir()) == []


async def test_session_that_ran_nothing_closes_at_once_and_twice(
    new_session: NewSession, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    session = await new_session()

    await session.aclose()
    await session.aclose()

    assert living() == []
    assert list(temporary.iterdir()) == []


async def test_session_works_where_the_temporary_folder_has_a_long_path(
    new_session: NewSession, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_one = temporary / ("x" * 120)
    long_one.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long_one))

    async with new_session() as session:
        [task] = await session.submit(ComputeTask(abs, args=(-1,)))

    assert task.return_value == 1
    assert list(long_one.iterdir()) == []


@needs_command("mpiexec", package="openmpi-bin")
async def test_closing_ends_mpi_tasks_and_leaves_nothing(
    new_session: NewSession, tmp_path: Path, temporary: Path, living: Callable[[], list[Process]]
) -> None:
    memory_before = shared_memory()
    session = await new_session()
    pids = tmp_path / "pids"
    await session.submit(
        [
            ComputeTask(
                executable="sh",
                arguments=["-c", f"echo $$ >> {pids}; exec sleep 600"],
                resources=Resources(ranks=2),
            )
        ]
    )
    await eventually(lambda: len(work.lines(pids)) == 2, within_s=20, what="both ranks run")

    await session.aclose()

    assert living() == []
    assert list(temporary.iterdir()) == []
    await eventually(lambda: shared_memory() <= memory_before, what="no shared memory is left")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_killed_session_process_leaves_nothing_within_five_seconds(
    backend: str, tmp_path: Path, temporary: Path, living: Callable[[], list[Process]], number: signal.Signals
) -> None:
    memory_before = shared_memory()
    command = [sys.executable, "-c", CAMPAIGN, backend, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - a moment
        await eventually(lambda: all_run(tmp_path), within_s=30, what="all three run")
        assert len(living()) >= 7

        process.send_signal(number)
        await eventually(lambda: not living(), within_s=5 if number == signal.SIGKILL else 10, what="all is gone")

    assert list(temporary.iterdir()) == []
    assert shared_memory() <= memory_before


async def test_draining_lets_running_tasks_end_and_starts_no_other(narrow_session: Session, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    running = ComputeTask(work.note_behind, args=(gate, ledger, 1))
    waiting = [ComputeTask(work.note, args=(ledger, 2), priority=-1) for _ in range(10)]
    await narrow_session.submit([running, *waiting])
    await eventually(lambda: running.state is State.RUNNING, what="the first runs")

    async with asyncio.TaskGroup() as group:
        group.create_task(narrow_session.drain())
        await eventually(lambda: all(task.is_final for task in waiting), what="the waiting ones have ended")
        gate.touch()

    assert running.state is State.DONE
    assert {task.state for task in waiting} == {State.CANCELED}
    assert work.lines(ledger) == ["1"]


async def test_sessions_one_after_another_and_at_the_same_time_do_not_disturb_each_other(
    new_session: NewSession, living: Callable[[], list[Process]]
) -> None:
    for _ in range(3):
        async with new_session() as one, new_session(cores=1) as other:
            first = await one.submit(ComputeTask(abs, args=(-n,)) for n in range(100))
            second = await other.submit(ComputeTask(abs, args=(-n,)) for n in range(100))
        assert {task.state for task in first + second} == {State.DONE}

    assert living() == []


async def test_children_left_by_functions_end_with_the_session(
    new_session: NewSession, tmp_path: Path, living: Callable[[], list[Process]]
) -> None:
    pids = tmp_path / "pids"

    def leave_child() -> None:
        child = subprocess.Popen(["sleep", "600"])  # noqa: S607 - any sleep will do
        work.note(pids, child.pid)

    async with new_session() as session:
        await session.submit(ComputeTask(leave_child) for _ in range(5))
        [forked] = await session.submit(ComputeTask(work.leave_fork, args=(tmp_path / "fork",)))
        await forked
        await session.wait()
        alive_before = [work.is_alive(pid) for pid in work.noted_pids(pids)]

    assert alive_before == [True] * 5
    assert [work.is_alive(pid) for pid in work.noted_pids(pids)] == [False] * 5
    assert living() == []

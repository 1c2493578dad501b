"""Sessions whose allocation ends soon: what is started, what is warned, and that all is over in time."""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING

import pytest

import rhapsody
from rhapsody import ComputeTask, Resources, Session, SessionClosedError, SpecError, TaskCanceled
from tests.contract import work
from tests.eventually import eventually
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.conftest import NewSession
    from tests.leftovers import Process

TRAPS = """
trap 'echo warned-$RHAPSODY_RANK >> "$1"' USR1
echo up >> "$1"
while [ ! -e "$2" ]; do sleep 0.02; done
"""


def trapping(ledger: Path, gate: Path, **options: object) -> ComputeTask:
    """Return an executable that notes its start and each signal, until there is a gate."""
    # The loop's `sleep` is a child of the same group: it gets the signal too, and the loop goes on.
    return ComputeTask(executable="sh", arguments=["-c", TRAPS, "sh", ledger, gate], **options)  # type: ignore[arg-type]


async def test_tasks_see_the_time_that_the_session_has_left(new_session: NewSession) -> None:
    async with new_session(walltime_s=500) as session:
        function = ComputeTask(rhapsody.time_left)
        ranks = ComputeTask(executable="printenv", arguments=["RHAPSODY_DEADLINE"])
        await session.submit([function, ranks])
        await session.wait()
        left_s = session.time_left()

        assert left_s <= function.return_value <= 490
        assert abs(float(ranks.stdout) - time.time() - left_s) < 5


async def test_without_an_end_there_is_time_for_ever(session: Session) -> None:
    [task] = await session.submit(ComputeTask(rhapsody.time_left))

    await task

    assert (task.return_value, session.time_left(), session.out_of_time) == (math.inf, math.inf, False)


async def test_nothing_that_runs_longer_than_expected_of_its_like_is_begun_and_not_ended(
    new_session: NewSession, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"

    def step(number: int) -> None:
        work.note(ledger, f"start {number}")
        work.spin(0.3)
        work.note(ledger, f"end {number}")

    async with new_session(cores=1, walltime_s=6) as session:
        await session.submit(ComputeTask(step, args=(number,)) for number in range(100))
        await session.wait()

    begun = [line.split()[1] for line in work.lines(ledger) if line.startswith("start")]
    over = [line.split()[1] for line in work.lines(ledger) if line.startswith("end")]
    assert begun == over
    assert 1 < len(begun) < 100
    assert session.counts == {"DONE": len(over), "CANCELED": 100 - len(over)}
    assert session.left_undone == 100 - len(over)


async def test_items_of_an_array_are_begun_only_where_they_end_in_time(new_session: NewSession, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def step(number: int) -> None:
        work.note(ledger, f"start {number}")
        work.spin(0.1)
        work.note(ledger, f"end {number}")

    async with new_session(cores=1, walltime_s=6) as session:
        array = await session.map(step, range(200), chunk=200, duration_s=0.2)
        await session.wait()

    notes = work.lines(ledger)
    begun = sum(note.startswith("start") for note in notes)
    assert begun == len(notes) - begun
    assert 1 < begun < 200  # the chunk asked for was cut
    assert str(array.state) == "CANCELED"
    assert session.counts == {"DONE": begun, "CANCELED": 200 - begun}


async def test_what_still_runs_shortly_before_the_end_is_ended_and_the_campaign_canceled(
    new_session: NewSession, living: Callable[[], list[Process]], messages: list[str]
) -> None:
    tasks = [ComputeTask(work.spin, args=(600,)), ComputeTask(executable="sleep", arguments=["600"])]
    began = time.monotonic()

    async def campaign() -> None:
        async with new_session(walltime_s=3) as session:
            await session.submit(tasks)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await campaign()
    took_s = time.monotonic() - began

    assert [str(task.state) for task in tasks] == ["CANCELED", "CANCELED"]
    assert took_s < 5  # the workers' own end included
    assert living() == []
    assert messages[-1] == "out of time: running tasks are ended"


async def test_out_of_time_a_session_takes_nothing_more(new_session: NewSession) -> None:
    async with new_session(walltime_s=30, drain_s=29.5) as session:
        await eventually(lambda: session.out_of_time, within_s=10)

        with pytest.raises(SessionClosedError, match=r"out of time: the allocation ends in 29\.5 s"):
            await session.submit(ComputeTask(abs, args=(-1,)))


async def test_task_that_was_not_started_says_why(new_session: NewSession) -> None:
    async with new_session(cores=1, walltime_s=30, drain_s=29) as session:
        [task] = await session.submit(ComputeTask(abs, args=(-1,), duration_s=600))

        with pytest.raises(TaskCanceled, match="out of time: the allocation ends in 29"):
            await task


async def test_executable_is_warned_once_and_only_if_it_asks_for_it(new_session: NewSession, tmp_path: Path) -> None:
    asks, silent, gate = tmp_path / "asks", tmp_path / "silent", tmp_path / "gate"

    async with new_session(walltime_s=100, drain_s=50) as session:
        # What is left until tasks are ended is 95 s, so the warning comes after 5 s.
        await session.submit([trapping(asks, gate, warn_s=90, duration_s=1), trapping(silent, gate)])
        await eventually(lambda: "warned-" in work.lines(asks), within_s=10)
        gate.touch()
        await session.wait()

        assert work.lines(asks) == ["up", "warned-"]
        assert work.lines(silent) == ["up"]
        assert session.counts == {"DONE": 2}


@needs_command("mpiexec", package="openmpi-bin")
async def test_each_rank_of_an_executable_is_warned_once(new_session: NewSession, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"

    async with new_session(walltime_s=100, drain_s=50) as session:
        [task] = await session.submit(trapping(ledger, gate, warn_s=90, duration_s=1, resources=Resources(ranks=2)))
        await eventually(lambda: len(work.lines(ledger)) >= 4, within_s=20)
        gate.touch()
        await task

        assert sorted(work.lines(ledger)) == ["up", "up", "warned-0", "warned-1"]


async def test_signal_for_a_function_leaves_it_alone(session: Session, tmp_path: Path) -> None:
    [task] = await session.submit(ComputeTask(work.wait_for, args=(tmp_path / "gate",)))
    await eventually(lambda: str(task.state) == "RUNNING")

    session._backend.warn([(task.number, 1)])
    (tmp_path / "gate").touch()
    await task

    assert (str(task.state), task.attempt) == ("DONE", 1)


async def test_function_cannot_be_warned() -> None:
    with pytest.raises(SpecError, match=r"warn_s=5: only executables .* a function calls rhapsody.time_left\(\)"):
        ComputeTask(os.getpid, warn_s=5)

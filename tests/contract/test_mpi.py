"""Tasks of several ranks: executables and functions through the MPI launcher."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, Session, State, TaskFailed
from tests.contract import work
from tests.requirements import needs_command, needs_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.conftest import NewSession

pytestmark = needs_command("mpiexec", package="openmpi-bin")
FOUR = Resources(ranks=4)


@pytest.fixture
async def wide(new_session: NewSession) -> AsyncIterator[Session]:
    """Return an open session of four cores."""
    session = await new_session(cores=4)
    try:
        yield session
    finally:
        await session.aclose()


async def test_executable_runs_once_per_rank(wide: Session) -> None:
    script = 'echo "rank $RHAPSODY_RANK of $RHAPSODY_RANKS in $RHAPSODY_TASK_UID"'
    [task] = await wide.submit(ComputeTask(executable="sh", arguments=["-c", script], resources=FOUR, uid="md"))

    await task

    assert sorted(task.stdout.splitlines()) == [f"rank {n} of 4 in md" for n in range(4)]
    assert task.return_value.exit_code == 0


async def test_value_of_a_function_is_the_list_by_rank(wide: Session) -> None:
    [task] = await wide.submit(
        ComputeTask(
            lambda base, *, factor: base + factor * work.rank(), args=(100,), kwargs={"factor": 10}, resources=FOUR
        )
    )

    await task

    assert task.return_value == [100, 110, 120, 130]


async def test_function_finds_uid_attempt_and_run_folder_on_every_rank(wide: Session) -> None:
    names = ("RHAPSODY_TASK_UID", "RHAPSODY_ATTEMPT", "RHAPSODY_RUN_DIR", "RHAPSODY_RANKS")
    [task] = await wide.submit(
        ComputeTask(lambda: [os.environ[name] for name in names], resources=Resources(ranks=2), uid="pair")
    )

    await task

    assert task.return_value == [["pair", "1", str(wide.run_dir), "2"]] * 2


async def test_function_gets_env_and_cwd_on_every_rank(wide: Session, tmp_path: Path) -> None:
    [task] = await wide.submit(
        ComputeTask(
            lambda: (os.environ["FLAVOUR"], os.getcwd()),  # noqa: PTH109 - a text travels as it is
            resources=Resources(ranks=2),
            env={"FLAVOUR": "sour"},
            cwd=tmp_path,
        )
    )

    await task

    assert task.return_value == [("sour", str(tmp_path))] * 2


@needs_module("mpi4py", install="mpi4py")
async def test_ranks_reduce_among_each_other(wide: Session) -> None:
    def reduce() -> tuple[int, int]:
        from mpi4py import MPI  # noqa: PLC0415 - starts MPI, on the ranks only

        world = MPI.COMM_WORLD
        return world.Get_rank(), world.allreduce(world.Get_rank() + 1)

    [task] = await wide.submit(ComputeTask(reduce, resources=FOUR))
    await task

    assert task.return_value == [(n, 10) for n in range(4)]


async def test_one_rank_through_mpi_has_a_list_of_one(wide: Session) -> None:
    [task] = await wide.submit(ComputeTask(work.rank, resources=Resources(mpi=True)))

    await task

    assert task.return_value == [0]


async def test_rank_that_raises_is_named_with_its_traceback(wide: Session) -> None:
    def fail_on_two() -> None:
        if work.rank() == 2:
            raise ZeroDivisionError("no temperature")

    [task] = await wide.submit(ComputeTask(fail_on_two, resources=FOUR))

    with pytest.raises(TaskFailed, match="rank 2 of 4: ZeroDivisionError: no temperature") as caught:
        await task
    assert caught.value.cause == "exception"
    assert "in fail_on_two" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_rank_that_dies_by_a_signal_fails_the_task_with_it(wide: Session) -> None:
    def die_on_one() -> None:
        if work.rank() == 1:
            work.segfault()

    dying, after = await wide.submit(
        [ComputeTask(die_on_one, resources=FOUR), ComputeTask(work.rank, resources=Resources(ranks=2))]
    )
    await wide.wait()

    assert (dying.state, after.state) == (State.FAILED, State.DONE)
    assert "signal 11" in str(dying.exception)
    assert after.return_value == [0, 1]


async def test_rank_whose_program_fails_fails_the_task_with_its_exit_code(wide: Session) -> None:
    [task] = await wide.submit(
        ComputeTask(executable="sh", arguments=["-c", '[ "$RHAPSODY_RANK" != 1 ] || exit 5'], resources=FOUR)
    )

    with pytest.raises(TaskFailed, match="code 5") as caught:
        await task

    assert caught.value.cause == "exit_code"


async def test_value_of_a_rank_that_cannot_be_sent_fails_the_task(wide: Session) -> None:
    [task] = await wide.submit(ComputeTask(work.return_lock, resources=Resources(ranks=2)))

    with pytest.raises(TaskFailed, match=r"rank 0 of 2: .*cannot be sent back") as caught:
        await task

    assert caught.value.cause == "result"


async def test_program_that_is_not_there_is_refused(wide: Session) -> None:
    with pytest.raises(ValueError, match="no-such-program"):
        await wide.submit(ComputeTask(executable="no-such-program", resources=FOUR))

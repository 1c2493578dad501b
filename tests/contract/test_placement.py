"""Where tasks run, and when: cores and GPUs of their own, one after another where there is one core."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, Session, SpecError, State
from rhapsody.telemetry.reader import read_events
from tests.contract import work
from tests.eventually import eventually
from tests.requirements import needs_command

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody import Event
    from tests.contract.conftest import NewSession

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def moments(session: Session, state: State) -> dict[str, int]:
    """Return when each task entered a state for the last time, from the journal."""
    events: list[Event] = list(read_events(session.run_dir))
    return {event.uid: event.time_ns for event in events if event.state is state}


@pytest.mark.usefixtures("two_cpus")
async def test_functions_that_run_at_the_same_time_have_cpus_of_their_own(session: Session, tmp_path: Path) -> None:
    def cpus_when_together(name: str) -> set[int]:
        work.meet(tmp_path, f"here-{name}", 2 + 1)  # the run folder is there too
        return os.sched_getaffinity(0)

    one, other = await session.submit(ComputeTask(cpus_when_together, args=(name,)) for name in "ab")
    await session.wait()

    assert len(one.return_value) == len(other.return_value) == 1
    assert one.return_value.isdisjoint(other.return_value)


@pytest.mark.usefixtures("two_cpus")
async def test_executables_that_run_at_the_same_time_have_cpus_of_their_own(session: Session, tmp_path: Path) -> None:
    script = "touch $0; while [ ! -e a ] || [ ! -e b ]; do sleep 0.01; done; grep Cpus_allowed_list /proc/self/status"
    one, other = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", script, name], cwd=tmp_path, timeout_s=work.DEADLINE_S)
        for name in "ab"
    )
    await session.wait()

    cpus = {task.stdout.split()[-1] for task in (one, other)}
    assert len(cpus) == 2
    assert cpus <= {str(cpu) for cpu in os.sched_getaffinity(0)}


@pytest.mark.usefixtures("two_cpus")
async def test_function_of_two_cores_is_bound_to_both_and_the_next_one_is_not(session: Session) -> None:
    def cpus() -> set[int]:
        return os.sched_getaffinity(0)

    wide, narrow = await session.submit(
        [ComputeTask(cpus, resources=Resources(cores_per_rank=2), priority=1), ComputeTask(cpus)]
    )
    after = await session.submit(ComputeTask(cpus) for _ in range(10))
    await session.wait()

    assert len(wide.return_value) == 2
    assert {len(task.return_value) for task in [narrow, *after]} == {1}


@pytest.mark.usefixtures("two_cpus")
@needs_command("mpiexec", package="openmpi-bin")
async def test_ranks_have_cpus_of_their_own(session: Session) -> None:
    [task] = await session.submit(ComputeTask(lambda: os.sched_getaffinity(0), resources=Resources(ranks=2)))

    await task

    assert [len(cpus) for cpus in task.return_value] == [1, 1]
    assert task.return_value[0].isdisjoint(task.return_value[1])


async def test_gpu_tasks_see_one_gpu_each_and_others_see_none(new_session: NewSession, tmp_path: Path) -> None:
    session = await new_session(cores=4, gpus=2)

    def gpu_when_together(name: str) -> str | None:
        (tmp_path / "place").mkdir(exist_ok=True)
        work.meet(tmp_path / "place", name, 3)
        return os.environ.get(GPU_VARIABLE)

    one_gpu = Resources(gpus_per_rank=1)
    one, other, none = await session.submit(
        [
            ComputeTask(gpu_when_together, args=("a",), resources=one_gpu),
            ComputeTask(gpu_when_together, args=("b",), resources=one_gpu),
            ComputeTask(gpu_when_together, args=("c",)),
        ]
    )
    await session.wait()

    assert sorted([one.return_value, other.return_value]) == ["0", "1"]
    assert none.return_value == ""
    await session.aclose()


async def test_gpu_executables_see_their_gpus(new_session: NewSession) -> None:
    session = await new_session(cores=2, gpus=2)
    script = f'echo "[${GPU_VARIABLE}]"'
    both, none = await session.submit(
        [
            ComputeTask(executable="sh", arguments=["-c", script], resources=Resources(gpus_per_rank=2)),
            ComputeTask(executable="sh", arguments=["-c", script]),
        ]
    )
    await session.wait()

    assert (both.stdout, none.stdout) == ("[0,1]\n", "[]\n")
    await session.aclose()


@needs_command("mpiexec", package="openmpi-bin")
async def test_ranks_see_the_gpus_of_their_own_slot(new_session: NewSession) -> None:
    session = await new_session(cores=2, gpus=2)
    [task] = await session.submit(
        ComputeTask(lambda: os.environ[GPU_VARIABLE], resources=Resources(ranks=2, gpus_per_rank=1))
    )

    await task

    assert sorted(task.return_value) == ["0", "1"]
    await session.aclose()


async def test_request_that_can_never_fit_is_refused(session: Session) -> None:
    with pytest.raises(SpecError, match=r"3"):
        await session.submit(ComputeTask(abs, args=(-1,), resources=Resources(cores_per_rank=3)))

    with pytest.raises(SpecError, match=r"(?i)gpu"):
        await session.submit(ComputeTask(abs, args=(-1,), resources=Resources(gpus_per_rank=1)))


async def test_queued_task_enters_running_after_the_one_before_it_has_ended(
    new_session: NewSession,
) -> None:
    async with new_session(cores=1) as session:
        first = await session.submit(ComputeTask(work.spin, args=(0.03,)) for _ in range(10))
        second = await session.submit(ComputeTask(executable="true") for _ in range(5))

    running, done = moments(session, State.RUNNING), moments(session, State.DONE)
    order = sorted((task.uid for task in first + second), key=lambda uid: running[uid])
    assert len(order) == 15
    for before, after in itertools.pairwise(order):
        assert running[after] >= done[before]
    assert all(done[task.uid] - running[task.uid] >= 30_000_000 for task in first)


async def test_running_is_stamped_where_the_task_runs_on_the_sessions_clock(new_session: NewSession) -> None:
    async with new_session(cores=1) as session:
        tasks = await session.submit(ComputeTask(time.time_ns) for _ in range(50))

    running, done = moments(session, State.RUNNING), moments(session, State.DONE)
    slack_ns = 20_000_000  # the wall clock may be slewed meanwhile
    for task in tasks:
        assert running[task.uid] - slack_ns <= task.return_value <= done[task.uid] + slack_ns
        assert done[task.uid] - running[task.uid] < 1_000_000_000


async def test_long_task_is_seen_running_while_it_runs(session: Session, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    [task] = await session.submit(ComputeTask(work.wait_for, args=(gate,)))

    await eventually(lambda: session.running == [task], what="it is seen running")
    state = str(task.state)
    gate.touch()
    await task

    assert state == "RUNNING"
    assert session.running == []

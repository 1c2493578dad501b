"""Services that end by themselves, over every backend: done, started again when they fail, needed by tasks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import ComputeTask, Resources, Restart, ServiceError, ServiceTask, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody import Session
    from tests.contract.conftest import NewSession
    from tests.leftovers import Process

ONCE_MORE = Restart(limit=1, delay_s=0.0)


def ending(script: str, **options: Any) -> ServiceTask:  # noqa: ANN401 - as ServiceTask takes them
    command = f"cd $RHAPSODY_SERVICE_STATE_DIR; {script}"
    return ServiceTask(
        "ending", executable="sh", arguments=["-c", command], listens=False, ends=True, restart=ONCE_MORE, **options
    )


async def test_service_that_exits_with_code_0_is_done_and_then_tasks_run_that_need_it(session: Session) -> None:
    service = await session.start(ending("touch learnt"))
    learnt = str(service.state_dir / "learnt")
    needing = ComputeTask(os.path.exists, args=(learnt,), needs=[service])
    await session.submit(needing)

    await service.done(timeout_s=60)

    assert (service.state, service.status[0].state, service.status[0].restarts) == ("DONE", "DONE", 0)
    assert (await needing).return_value is True
    await service.ready()  # what is done was ready
    await service.stop()
    assert service.state == "DONE"


async def test_service_is_done_when_all_its_replicas_are(new_session: NewSession) -> None:
    script = "[ -e tried{replica} ] && exit 0; touch tried{replica}; exit {replica}"
    async with new_session(cores=2) as session:
        service = await session.start(ending(script, replicas=2))

        await service.done(timeout_s=60)

    assert [(view.state, view.restarts) for view in service.status] == [("DONE", 0), ("DONE", 1)]
    assert service.state == "DONE"


async def test_service_that_fails_each_time_is_not_done_and_says_why(session: Session) -> None:
    service = await session.start(ending("echo no data >&2; exit 3"))
    needing = ComputeTask(os.getpid, needs=[service])
    await session.submit(needing)

    with pytest.raises(ServiceError, match=r"(?s)did not end well: .*code 3.*started 2 times.*no data"):
        await service.done(timeout_s=60)

    assert service.state == "FAILED"
    with pytest.raises(TaskFailed, match=r"service\.ending"):
        await needing


async def test_service_that_is_stopped_is_not_done(session: Session) -> None:
    service = await session.start(ending("exec sleep 600"))
    await service.ready(timeout_s=60)
    with pytest.raises(ServiceError, match=r"has not ended after 0\.1 s"):
        await service.done(timeout_s=0.1)

    await service.stop()

    assert service.state == "STOPPED"
    with pytest.raises(ServiceError, match="it was stopped"):
        await service.done()


async def test_rank_that_fails_ends_all_ranks_of_its_replica_which_are_started_again_together(
    new_session: NewSession, living: Callable[[], list[Process]]
) -> None:
    sleeps = "if [ {rank} = 0 ]; then touch asleep; exec sleep 614; fi"
    fails = "until [ -e asleep ]; do sleep 0.05; done; touch tried; exit 3"
    script = f"[ -e tried ] && exit 0; {sleeps}; {fails}"
    async with new_session(cores=2) as session:
        service = await session.start(ending(script, resources=Resources(ranks=2)))

        await service.done(timeout_s=60)

        assert service.status[0].restarts == 1
        assert not [process for process in living() if b"sleep\x00614" in process.command]

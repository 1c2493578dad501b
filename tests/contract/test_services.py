"""Services over every backend: ready, needed by tasks, restarted, stopped, and gone with the session."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, Resources, Restart, ServiceError, Session, TaskCanceled
from rhapsody.services.record import read_records
from tests.contract.services import said_by, shell, web
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import NewSession
    from tests.leftovers import Process


async def test_service_answers_at_its_url_once_it_is_ready(session: Session) -> None:
    service = await session.start(web(kwargs={"word": "hello"}))

    await service.ready(timeout_s=60)

    assert (await said_by(service.url))["word"] == "hello"
    assert (await said_by(service.endpoints[0].url))["word"] == "hello"


async def test_task_waits_for_the_service_it_needs_and_finds_its_url(session: Session) -> None:
    def url() -> str | None:
        return os.environ.get("RHAPSODY_SERVICE_MY_WEB_URL")

    service = await session.start(web("my-web"))
    needing = ComputeTask(url, needs=[service])
    program = ComputeTask(executable="sh", arguments=["-c", "echo $RHAPSODY_SERVICE_MY_WEB_URL"], needs=service)
    other = ComputeTask(url)
    await session.submit([needing, program, other])

    assert (await needing).return_value == service.url
    assert (await program).stdout.strip() == service.url
    assert (await other).return_value is None


async def test_session_does_not_wait_for_services_and_does_not_count_them(session: Session) -> None:
    service = await (await session.start(web())).ready(timeout_s=60)
    await session.submit(ComputeTask(os.getpid))

    assert await session.wait(timeout_s=30)
    assert session.counts == {"DONE": 1}
    assert session.tasks == session.running == []
    assert service.state == "READY"


async def test_replica_that_is_killed_is_started_again_and_the_url_stays(session: Session) -> None:
    service = await (await session.start(web())).ready(timeout_s=60)
    url, pid = service.url, (await said_by(service.url))["pid"]

    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: service.status[0].restarts == 1 and service.state == "READY", within_s=30)

    assert service.url == url
    assert (await said_by(url))["pid"] != pid


async def test_exit_that_nobody_asked_for_is_a_failure_with_code_0_too(session: Session) -> None:
    service = await session.start(shell("short", "echo something is wrong >&2", restart=Restart(limit=1, delay_s=0)))

    with pytest.raises(ServiceError, match=r"(?s)exited with code 0, .*started 2 times.*something is wrong"):
        await service.ready(timeout_s=60)
    assert service.state == "FAILED"


async def test_stopping_a_service_ends_its_processes_and_the_tasks_that_still_wait(
    narrow_session: Session, living: Callable[[], list[Process]]
) -> None:
    service = await narrow_session.start(shell("hold", "echo up; exec sleep 600", readiness=re.compile("up")))
    await service.ready(timeout_s=60)
    second = await narrow_session.start(shell("waits", "echo up; exec sleep 600", readiness=re.compile("up")))
    needing = ComputeTask(os.getpid, needs=[second])
    await narrow_session.submit(needing)

    await second.stop()
    await service.stop()

    assert (service.state, second.state) == ("STOPPED", "STOPPED")
    assert not [process for process in living() if b"sleep" in process.command]
    with pytest.raises(TaskCanceled, match="the service was stopped"):
        await needing


async def test_replicas_take_slots_and_give_them_back(narrow_session: Session) -> None:
    service = await (await narrow_session.start(web())).ready(timeout_s=60)
    task = ComputeTask(os.getpid)
    await narrow_session.submit(task)

    assert not await narrow_session.wait([task], timeout_s=0.5)

    await service.scale(0)
    await asyncio.wait_for(narrow_session.wait([task]), 30)
    assert task.state == "DONE"


async def test_secrets_reach_the_service_and_no_command_line(
    session: Session, living: Callable[[], list[Process]]
) -> None:
    service = await (await session.start(web(secrets={"SECRET": "f00d" * 8}))).ready(timeout_s=60)

    said = await said_by(service.url)

    assert said["secret"] == "f00d" * 8
    assert not [process for process in living() if b"f00df00d" in process.command]
    files = [path for path in session.run_dir.rglob("*") if path.is_file() and path.name != "secrets.json"]
    assert not [path for path in files if b"f00df00d" in path.read_bytes()]


async def test_end_of_the_session_leaves_no_service_behind(
    new_session: NewSession, living: Callable[[], list[Process]]
) -> None:
    async with new_session() as session:
        service = await (await session.start(web(replicas=2))).ready(timeout_s=60)
        temporary = Path((await said_by(service.url))["temporary"])
        assert living()
        assert temporary.is_dir()

    await eventually(lambda: not living(), within_s=10)
    assert not temporary.exists()
    (record,) = read_records(session.run_dir)
    assert service.state == record.state == "STOPPED"


async def test_service_of_several_ranks_knows_where_its_first_one_is(new_session: NewSession) -> None:
    script = "echo rank {rank} of {ranks} leader {leader_host} {leader_port}; exec sleep 600"
    async with new_session(cores=2) as session:
        service = await session.start(
            shell("gang", script, listens=False, readiness=re.compile("rank"), resources=Resources(ranks=2))
        )
        await service.ready(timeout_s=60)
        log = session.run_dir / "logs" / "service.gang.0.1.1.out"
        await eventually(lambda: len(log.read_text().splitlines()) == 2, within_s=30)

        lines = sorted(log.read_text().splitlines())

    assert [line[:11] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
    assert len({line.split("leader ")[1] for line in lines}) == 1

"""What services do that is the same over every backend: refusals, limits, health, scale."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from rhapsody import ComputeTask, Resources, Restart, ServiceError, ServiceTask, Session, SpecError, TaskFailed
from tests.contract.services import said_by, shell, web
from tests.eventually import eventually
from tests.integration.test_examples import RHAPSODY
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    """Return an open session of three cores."""
    async with Session(backend="local", cores=3, runs=tmp_path / "runs", notify=lambda _: None) as opened:
        yield opened
        await opened.cancel(opened.tasks)


async def test_service_that_never_gets_ready_says_so_with_its_last_log_lines(session: Session) -> None:
    service = await session.start(
        shell("slow", "echo loading the model; sleep 600", readiness=re.compile("^up$"), ready_within_s=1.0)
    )

    with pytest.raises(ServiceError, match=r"(?s)not ready within 1 s: no line .*loading the model"):
        await service.ready()


async def test_tasks_that_need_a_service_fail_with_it(session: Session) -> None:
    service = await session.start(shell("broken", "exit 3", restart=Restart(limit=0)))
    before = ComputeTask(os.getpid, needs=[service])
    await session.submit(before)

    with pytest.raises(TaskFailed, match=r"service.broken, which it depends on, ended FAILED.*exit(ed with)? code 3"):
        await before
    after = ComputeTask(os.getpid, needs=[service])
    await session.submit(after)
    with pytest.raises(TaskFailed, match=r"service\.broken"):
        await after


async def test_service_is_scaled_up_and_down(session: Session) -> None:
    service = await (await session.start(web())).ready(timeout_s=60)

    await service.scale(3)
    await service.ready(timeout_s=60)
    pids = {(await said_by(address.url))["pid"] for address in service.endpoints}
    await service.scale(1)

    assert len(pids) == 3
    assert len(service.endpoints) == len(service.status) == 1
    assert (await said_by(service.url))["pid"] in pids


def listen_and_say_nothing(host: str, port: int, asked: str) -> None:
    """Take connections, and never answer."""
    with socket.create_server((host, port)) as server:
        kept = []
        while True:
            kept.append(server.accept())
            open(asked, "w").close()  # noqa: PTH123 - it runs in a process of its own


async def test_replica_that_never_answers_its_probe_does_not_hold_up_the_end(session: Session, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    service = await session.start(
        ServiceTask("silent", function=listen_and_say_nothing, kwargs={"asked": str(asked)}, readiness="/")
    )
    await eventually(asked.exists, within_s=30)

    async with asyncio.timeout(15):  # an answer may take a minute
        await service.stop()

    assert service.state == "STOPPED"


async def test_clients_that_come_one_by_one_are_spread_over_all_replicas(session: Session) -> None:
    service = await (await session.start(web(replicas=3))).ready(timeout_s=60)

    pids = [(await said_by(service.url))["pid"] for _ in range(6)]

    assert len(set(pids[:3])) == 3
    assert pids[3:] == pids[:3]


async def test_replica_that_is_not_well_is_started_again(session: Session, tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    script = f"while :; do [ -e {ill} ] || echo beat; sleep 0.05; done"
    service = await session.start(
        shell(
            "beats",
            script,
            listens=False,
            readiness=re.compile("beat"),
            health=lambda _: not ill.exists(),
            health_every_s=0.1,
        )
    )
    await service.ready(timeout_s=60)

    ill.touch()
    await eventually(lambda: service.status[0].restarts == 1, within_s=30)
    ill.unlink()

    await service.ready(timeout_s=60)


async def test_port_that_is_taken_is_said_with_the_node(session: Session) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = await session.start(web(port=port, restart=Restart(limit=0)))

        with pytest.raises(ServiceError, match=rf"port {port} on .*in use"):
            await service.ready(timeout_s=60)


async def test_two_services_of_one_name_are_refused(session: Session) -> None:
    await session.start(web("web"))

    with pytest.raises(SpecError, match="has a service 'web' already"):
        await session.start(web("web"))
    with pytest.raises(SpecError, match="cannot be called 'gateway'"):
        await session.start(web("gateway"))
    with pytest.raises(SpecError, match="would both be RHAPSODY_SERVICE_WEB_URL"):
        await session.start(web("WEB"))


async def test_service_is_started_once_only(session: Session, tmp_path: Path) -> None:
    service = await session.start(web())

    async with Session(backend="local", cores=1, runs=tmp_path / "other", notify=lambda _: None) as other:
        with pytest.raises(SpecError, match="service web was started before; make a new ServiceTask"):
            await other.start(service)
    needing = ComputeTask(os.getpid, needs=[service])
    await session.submit(needing)
    await needing  # the first session still has it


async def test_service_that_can_never_fit_is_refused(session: Session) -> None:
    with pytest.raises(SpecError, match="cores"):
        await session.start(web(resources=Resources(cores_per_rank=64)))


async def test_task_that_needs_a_service_nobody_started_is_refused(session: Session) -> None:
    with pytest.raises(SpecError, match=r"needs the service 'web', which was not started"):
        await session.submit(ComputeTask(os.getpid, needs=[web()]))


@needs_command("redis-server", package="redis-server")
async def test_store_is_reached_through_the_address_of_the_service(session: Session) -> None:
    arguments = ["--port", "{port}", "--bind", "{host}", "--dir", "{work_dir}", "--save", ""]
    service = await session.start(ServiceTask("store", executable="redis-server", arguments=arguments, scheme="redis"))
    await service.ready(timeout_s=60)
    host, port = urlsplit(service.url).hostname, urlsplit(service.url).port

    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"SET answer 42\r\nGET answer\r\n")
    said = [await reader.readline() for _ in range(3)]
    writer.close()

    assert service.url.startswith("redis://")
    assert said == [b"+OK\r\n", b"$2\r\n", b"42\r\n"]


CAMPAIGN = """
import asyncio
import http.server
import urllib.request

from rhapsody import ComputeTask, ServiceTask

WORD = "from the campaign's own file"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(WORD.encode())


def serve(host, port):
    http.server.HTTPServer((host, port), Handler).serve_forever()


async def campaign(session, args):
    service = await session.start(ServiceTask("web", function=serve, readiness="/"))
    asked = ComputeTask(executable="sh", arguments=["-c", "echo $RHAPSODY_SERVICE_WEB_URL"], needs=[service])
    await session.submit(asked)
    url = (await asked).stdout.strip()
    print(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode()))
"""


async def test_function_of_a_campaign_file_is_a_service(tmp_path: Path) -> None:
    (tmp_path / "campaign.py").write_text(CAMPAIGN)
    command = [RHAPSODY, "run", "campaign.py", "--cores", "2", "--quiet"]

    ended = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=PIPE, stderr=PIPE)
    said, trouble = await ended.communicate()

    assert ended.returncode == 0, trouble.decode()
    assert said.decode() == "from the campaign's own file\n"


async def test_campaign_that_blocks_on_its_own_service_is_told_where(tmp_path: Path) -> None:
    (tmp_path / "campaign.py").write_text(CAMPAIGN.replace("await asyncio.to_thread(lambda: urllib", "(lambda: urllib"))
    (tmp_path / "campaign.py").write_text(
        (tmp_path / "campaign.py")
        .read_text()
        .replace("read().decode()))", "read().decode())())")
        .replace("urlopen(url)", "urlopen(url, timeout=15)")
    )

    ended = await asyncio.create_subprocess_exec(
        RHAPSODY, "run", "campaign.py", "--cores", "2", "--quiet", cwd=tmp_path, stdout=PIPE, stderr=PIPE
    )
    _, trouble = await ended.communicate()

    assert ended.returncode == 1
    assert "the campaign has blocked the session for 10 s in <lambda>(), campaign.py:" in trouble.decode()

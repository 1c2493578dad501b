"""Agents of one job: how they find each other, whom they refuse, and what is left when they end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from rhapsody.node import credentials
from rhapsody.node.messages import Meeting
from rhapsody.node.private_folder import PREFIX
from rhapsody.node.protocol import Kind, frame, hello
from tests.eventually import eventually
from tests.hosts.started import child_of

if TYPE_CHECKING:
    import ssl

    from tests.hosts.job import Job

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what is left there is looked for


def private_folders(job: Job) -> list[Path]:
    return list((job.run_dir.parents[1] / "tmp").glob(f"{PREFIX}*"))


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
async def test_the_job_ends_as_its_session_does(script: str, code: int, job: Job) -> None:
    job.start(script)

    assert await job.ended() == code
    assert await job.ended(1) == 0
    assert private_folders(job) == []
    assert not (job.run_dir / "deploy/nodes/credentials").exists()


async def test_a_session_that_cannot_be_started_is_named(job: Job) -> None:
    job.start("", command=["no-such-program"])

    assert await job.ended() == 127
    assert "cannot start no-such-program: No such file or directory" in job.agents[0].said
    assert await job.ended(1) == 0


async def test_what_the_run_folder_holds_can_be_read_by_its_owner_only(job: Job) -> None:
    job.start("echo up; exec sleep 600")
    await job.says("up")

    nodes = job.run_dir / "deploy/nodes"
    modes = {path.name: path.stat().st_mode & 0o777 for path in [job.run_dir, nodes, *nodes.rglob("*")]}

    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "0.json",
        "events",
        "tls.crt",
        "tls.key",
        "token",
    }
    assert {name for name, mode in modes.items() if mode == 0o700} == {
        "run",
        "nodes",
        "credentials",
        "bin",
        "ssh",
    }


async def test_rank_0_is_not_started_without_a_session(tmp_path: Path, job: Job) -> None:
    job.start("", command=[], ranks=[0])

    assert await job.ended() == 2
    assert "rank 0 has nothing to start" in job.agents[0].said


async def test_an_agent_of_another_job_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    job.start("true", "--join-limit", "4", ranks=[0])
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    job.start("", "--join-limit", "2", ranks=[1])

    assert await job.ended(1) == 1
    assert "it belongs to job 8, rank 0 to job 7" in job.agents[1].said
    assert await job.ended() == 1


async def test_what_an_earlier_job_left_in_the_run_folder_does_not_matter(job: Job) -> None:
    nodes = job.run_dir / "deploy/nodes"
    credentials.make(nodes / "credentials")
    stale = Meeting("old", ("127.0.0.1",), 9, "")
    (nodes / "0.json").write_bytes(msgspec.json.encode(stale))
    job.start("", ranks=[1])
    await eventually(lambda: private_folders(job), what="the agent is up")

    job.start("ssh beta echo found", ranks=[0])

    assert await job.ended() == 0
    assert job.agents[0].said == "found\n"


async def test_credentials_that_others_can_read_are_refused(job: Job) -> None:
    folder = job.run_dir / "deploy/nodes/credentials"
    credentials.make(folder)
    (folder / "token").chmod(0o644)
    (folder.parent / "0.json").write_bytes(msgspec.json.encode(Meeting("x", ("127.0.0.1",), 9, "")))

    job.start("", "--join-limit", "1", ranks=[1])

    assert await job.ended(1) == 1
    assert "could be read or written by others; fix: chmod 600" in job.agents[1].said


class Stranger:
    """Somebody who knows where an agent listens, and its certificate, but not its token."""

    def __init__(self, job: Job) -> None:
        nodes = job.run_dir / "deploy/nodes"
        self.port = msgspec.json.decode((nodes / "0.json").read_bytes(), type=Meeting).port
        self.context = credentials.load(nodes / "credentials").client()

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def secure(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.plain())


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(4096):
            received += data
    except ConnectionResetError:
        pass
    return received


async def test_who_does_not_know_the_token_is_told_and_disconnected_and_logged_once(job: Job) -> None:
    job.start("echo up; exec sleep 600")
    await job.says("up")
    stranger = Stranger(job)

    for _ in range(3):
        with stranger.secure() as connection:
            connection.sendall(hello("x" * 64) + frame(Kind.COMMAND, b"touch /tmp/never\0"))
            assert b"the token is wrong" in read_all(connection)

    await job.says("it does not know the token")
    assert job.agents[0].said.count("a connection from 127.0.0.1 was closed") == 1


async def test_a_port_scan_does_no_harm(job: Job) -> None:
    job.start("echo up; until [ -e $TMPDIR/go ]; do sleep 0.05; done; ssh beta echo works")
    await job.says("up")
    stranger = Stranger(job)

    for greeting in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05nonsense", os.urandom(4096)):
        with stranger.plain() as connection:
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    (private_folder_of(job) / "tmp/go").touch()

    assert await job.ended() == 0
    assert job.agents[0].said.splitlines()[-1] == "works"
    assert "Traceback" not in job.said()


def private_folder_of(job: Job, name: str = "alpha") -> Path:
    """Return the folder of a node's agent."""
    for folder in private_folders(job):
        local = (folder / "hosts").read_text().splitlines()
        if any(line.startswith("localhost ") and line.endswith(str(int(name == "beta"))) for line in local):
            return folder
    raise AssertionError(f"no folder of {name}")


async def test_who_says_nothing_is_disconnected_after_ten_seconds(job: Job) -> None:
    job.start("echo up; exec sleep 600")
    await job.says("up")
    stranger = Stranger(job)
    silent, secure = stranger.plain(), stranger.secure()

    await job.says("within 10 s")

    with silent, secure:
        assert (read_all(silent), read_all(secure)) == (b"", b"")


async def test_ctrl_c_before_all_nodes_are_there_ends_the_job(job: Job) -> None:
    job.start("true", ranks=[0])
    await eventually((job.run_dir / "deploy/nodes/0.json").exists)

    job.agents[0].signal(signal.SIGINT)

    assert await job.ended() == 130
    assert private_folders(job) == []


async def test_a_node_that_is_told_to_end_says_so_and_ends_what_runs_there(job: Job) -> None:
    job.start("ssh beta 'echo up; exec sleep 600'; echo code $?; exec sleep 600", "--leave-after", "0.2")
    await job.says("up")

    job.agents[1].signal(signal.SIGTERM)

    assert await job.ended(1) == 143
    await job.says("code 143")
    await eventually(lambda: [event["event"] for event in job.events()] == ["joined", "leaving", "lost"], within_s=10)


async def test_a_node_that_is_told_to_end_twice_ends_at_once(job: Job) -> None:
    job.start("echo up; exec sleep 600")
    await job.says("up")

    job.agents[1].signal(signal.SIGTERM)
    await job.says("is leaving")
    job.agents[1].signal(signal.SIGTERM)

    assert await job.ended(1, within_s=10) == 143


async def test_where_all_nodes_are_told_to_end_the_session_ends_first_and_has_its_nodes_for_it(job: Job) -> None:
    job.start("trap 'ssh beta echo farewell from beta; exit 7' TERM; echo up; while :; do sleep 0.1; done")
    await job.says("up")

    for agent in reversed(job.agents.values()):
        agent.signal(signal.SIGTERM)

    assert (await job.ended(0), await job.ended(1)) == (7, 0)
    assert "farewell from beta" in job.said()
    assert [event["event"] for event in job.events()] == ["joined", "leaving"]


@pytest.mark.parametrize("victim", ["its first process", "the agent"])
async def test_what_a_killed_agent_has_started_ends_and_its_folders_are_removed(victim: str, job: Job) -> None:
    name = f"rhapsody_test_{os.getpid()}"
    code = (
        "import mmap, os, time; fd = os.open('/dev/shm/NAME', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096);"
        " memory = mmap.mmap(fd, 4096); os.close(fd); print('up', flush=True); time.sleep(600)"
    ).replace("NAME", name)
    job.start(f'ssh beta "setsid python3 -c \\"{code}\\"" & wait')
    await job.says("up")
    folder = private_folder_of(job, "beta")
    traces = folder / "traces"
    await eventually(lambda: traces.exists() and name in traces.read_text(), what="it is noted")

    keeper = job.agents[1].pid
    agent = child_of(keeper)
    os.kill(keeper if victim == "its first process" else agent, signal.SIGKILL)

    await eventually(lambda: not (SHARED_MEMORY / name).exists(), what="its shared memory is removed")
    await eventually(lambda: not folder.exists(), what="its folder is removed")


async def test_what_a_killed_pair_of_processes_left_is_cleared_by_the_next_agent(job: Job) -> None:
    job.start("ssh -n beta 'setsid sleep 600 > /dev/null 2>&1 & echo $! > $TMPDIR/pid'; echo up; exec sleep 600")
    await job.says("up")
    left = private_folder_of(job, "beta")
    pid = int((left / "tmp/pid").read_text())
    keeper = job.agents[1].pid
    agent = child_of(keeper)
    os.kill(keeper, signal.SIGSTOP)  # so that it does not see the end of the other
    os.kill(agent, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()

    job.start("", ranks=[1])

    await job.says("clears up after an agent that was killed", rank=1)
    await eventually(lambda: not left.exists() and not Path(f"/proc/{pid}").exists())

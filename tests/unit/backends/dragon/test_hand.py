"""What Dragon wants started on a host goes to that host's warden, whole, and ends as it does there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody.backends.dragon import link
from rhapsody.backends.dragon.backend_process import BackEnd
from rhapsody.backends.dragon.hand import write_ssh
from rhapsody.backends.dragon.hosts import DragonHost, network_configuration
from tests.eventually import eventually

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

LIMIT_S = 30
REAL = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done
"""


def host(node: str, folder: Path | str, name: str = "") -> DragonHost:
    return DragonHost(node, str(folder), name or node, (f"10.0.0.{node[-1]}:6565",), 7, "^eth", 1 << 30, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pool's private folder, with an `ssh` for Dragon in it; the real one prints what it is told."""
    real = tmp_path / "real-ssh"
    real.write_text(REAL)
    real.chmod(0o755)
    place = tmp_path / "pool"
    place.mkdir(mode=0o700)
    write_ssh(place, [host("node0", place), host("node1", "/elsewhere", "host1.site")], str(real))
    return place


@pytest.fixture
def warden(folder: Path) -> Iterator[socket.socket]:
    """The socket at which a warden listens."""
    listener, _ = link.listen(folder)
    listener.settimeout(LIMIT_S)
    with listener:
        yield listener


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [folder / "bin" / "ssh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def take(listener: socket.socket, folder: Path) -> BackEnd:
    """Start what the next hand brings."""
    connection, _ = listener.accept()
    token, who = link.HELLO.unpack(connection.recv(link.HELLO.size))
    assert (token, who) == ((folder / "token").read_bytes(), link.HAND)
    return BackEnd(connection, folder)


def test_the_ssh_is_for_this_user_alone(folder: Path) -> None:
    assert stat.S_IMODE((folder / "bin" / "ssh").stat().st_mode) == 0o700


def test_another_hosts_command_goes_through_the_real_ssh_to_the_hand_there(folder: Path) -> None:
    ssh = start(folder, "-oBatchMode=yes", "host1.site", "cd /not/there && A='b c' dragon-backend --x")

    said, _ = ssh.communicate(timeout=LIMIT_S)

    batch_mode, node, command = said.decode().splitlines()
    assert (batch_mode, node) == ("-oBatchMode=yes", "node1")
    assert command.startswith("exec ")
    assert "rhapsody.backends.dragon.hand hand /elsewhere" in command
    assert "/not/there" not in command
    assert "dragon-backend --x" in command


async def test_this_hosts_command_is_run_by_the_warden_with_the_callers_streams(
    folder: Path, warden: socket.socket
) -> None:
    ssh = start(
        folder, "node0", f"cd /not/there && A= PATH={os.environ['PATH']} sh -c 'pwd; cat; echo bad >&2; exit 3'"
    )
    back_end = take(warden, folder)
    assert ssh.stdin is not None
    ssh.stdin.write(b"hello\n")
    ssh.stdin.close()
    ssh.stdin = None

    await eventually(lambda: back_end.exit_code() is not None, within_s=LIMIT_S, what="the command ends")
    back_end.close()
    said, complaint = ssh.communicate(timeout=LIMIT_S)

    assert (said.decode(), complaint.decode()) == (f"{folder}\nhello\n", "bad\n")
    assert ssh.returncode == 3


async def test_a_hand_that_is_killed_is_noticed(folder: Path, warden: socket.socket) -> None:
    ssh = start(folder, "node0", "A= PATH=/bin:/usr/bin sleep 600")
    back_end = take(warden, folder)
    assert back_end.hear()

    ssh.kill()

    await eventually(lambda: not back_end.hear(), what="the hand is gone")
    os.killpg(back_end.pid, 9)
    await eventually(lambda: back_end.exit_code() == -9, what="its command is ended")
    back_end.close()
    ssh.communicate(timeout=LIMIT_S)


async def test_a_signal_to_the_hand_reaches_the_command(folder: Path, warden: socket.socket) -> None:
    script = 'trap "exit 5" TERM; echo there; while :; do sleep 0.05; done'
    ssh = start(folder, "node0", f"A= PATH=/bin:/usr/bin true; {script}")
    back_end = take(warden, folder)
    assert ssh.stdout is not None
    assert ssh.stdout.readline() == b"there\n"

    ssh.terminate()

    def ended() -> bool:
        back_end.hear()
        return back_end.exit_code() is not None

    await eventually(ended, within_s=LIMIT_S, what="the command ends")
    back_end.close()
    ssh.communicate(timeout=LIMIT_S)
    assert ssh.returncode == 5


def test_the_first_host_is_the_one_with_the_head_program() -> None:
    found = json.loads(network_configuration([host("node4", "/a"), host("node2", "/b", "two.site")]))

    assert [found[rank]["is_primary"] for rank in ("0", "1")] == [True, False]
    assert found["1"]["host_name"] == "two.site"
    assert found["0"]["ip_addrs"] == ["10.0.0.4:6565"]


def test_what_mends_dragon_runs_another_sitecustomize_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['OTHER'] = 'was here'\n")
    patches = Path(link.__file__).with_name("patches")
    script = "import os, sitecustomize; print(os.environ['OTHER'], 'Mender' in str(__import__('sys').meta_path))"

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{patches}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split()[:2] == ["was", "here"]

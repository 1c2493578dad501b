"""What the launcher of a replica does on its node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.services.launcher import EXIT_CODE, address_towards, fill

if TYPE_CHECKING:
    from pathlib import Path


def launch(
    folder: Path,
    *argv: str,
    env: dict[str, str] | None = None,
    **other: Any,  # noqa: ANN401 - of a specification
) -> subprocess.CompletedProcess[str]:
    """Run the launcher to the end of what it becomes."""
    spec = {
        "folder": str(folder),
        "run_dir": "/run",
        "state_dir": "/state",
        "files": "/files",
        "argv": list(argv),
        "extra_arguments": [],
        "env": {},
        "secrets": "",
        "listens": True,
        "port": None,
        "replica": 3,
        "session_at": [],
        "ready_within_s": 5.0,
    } | other
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "rhapsody.services.launcher", str(folder / "spec.json")]
    return subprocess.run(
        command, env=os.environ | (env or {}), capture_output=True, text=True, check=False, timeout=60
    )


def test_placeholders_are_filled_in_and_other_braces_are_left_alone() -> None:
    assert fill('{"port": {port}, "x": {y}} {host}', {"port": "80", "host": "h"}) == '{"port": 80, "x": {y}} h'


def test_it_says_where_the_service_listens_before_it_becomes_it(tmp_path: Path) -> None:
    done = launch(tmp_path, "sh", "-c", "echo {host} {port} {replica} $RHAPSODY_SERVICE_PORT $$")

    said = json.loads((tmp_path / "rank-0.json").read_text())
    host, port, replica, variable, pid = done.stdout.split()
    assert (host, int(port), int(pid)) == (said["host"], said["port"], said["pid"])
    assert (replica, variable) == ("3", port)


def test_secrets_come_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"KEY": "s3cret"}')

    done = launch(tmp_path, "sh", "-c", "echo $KEY", secrets=str(tmp_path / "secrets.json"))

    assert done.stdout == "s3cret\n"


def test_port_that_is_taken_ends_it_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        done = launch(tmp_path, "true", port=taken.getsockname()[1])

    assert done.returncode == EXIT_CODE
    assert "in use; leave out port= to take a free one" in done.stderr


def test_program_that_is_not_there_ends_it_with_the_reason(tmp_path: Path) -> None:
    done = launch(tmp_path, "no-such-program")

    assert done.returncode == EXIT_CODE
    assert "no-such-program did not start on" in done.stderr


def test_rank_that_is_not_the_first_waits_for_it_and_does_not_keep_what_mpi_set(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text('{"host": "10.0.0.1", "port": 1, "leader_port": 4711}')
    env = {"RHAPSODY_RANK": "1", "RHAPSODY_RANKS": "2", "PMI_RANK": "1", "OMPI_COMM_WORLD_RANK": "1"}

    done = launch(
        tmp_path,
        "sh",
        "-c",
        "echo {rank} {ranks} {leader_host} {leader_port} [$PMI_RANK$OMPI_COMM_WORLD_RANK] $0",
        env=env,
        extra_arguments=["--headless"],
    )

    assert done.stdout == "1 2 10.0.0.1 4711 [] --headless\n"


def test_rank_whose_first_one_never_comes_gives_up(tmp_path: Path) -> None:
    done = launch(tmp_path, "true", env={"RHAPSODY_RANK": "1", "RHAPSODY_RANKS": "2"}, ready_within_s=0.2)

    assert done.returncode == EXIT_CODE
    assert "rank 0 did not say within 0.2 s where it is" in done.stderr


@pytest.mark.parametrize("session_at", [[], ["192.0.2.1.bad"]])
def test_address_is_the_loopback_where_all_is_on_one_node(session_at: list[str]) -> None:
    assert address_towards(session_at) == "127.0.0.1"

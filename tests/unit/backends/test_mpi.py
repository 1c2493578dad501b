"""How ranks are started: command lines and variables of both kinds of launchers, and what each rank does first."""

from __future__ import annotations

import marshal
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.backends import mpi, mpi_function, wire
from rhapsody.backends.mpi import Launcher, RankSlot
from rhapsody.backends.rank import LOCAL_BASE, PASSED, SESSIONS
from rhapsody.node.private_folder import SAME_ON_ALL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPEN_MPI = Launcher("/opt/bin/mpiexec", "openmpi", "mpiexec (OpenRTE) 4.1.4")
HYDRA = Launcher("/opt/bin/mpiexec", "hydra", "HYDRA build details:")
CPU = min(os.sched_getaffinity(0))
LARGEST_ARGUMENT = 128 << 10  # Source: execve(2), MAX_ARG_STRLEN


def slots_on(*hosts: str) -> list[RankSlot]:
    return [RankSlot(host, [CPU], "") for host in hosts]


def launch_words(found: Launcher, *hosts: str) -> str:
    """Return a command line up to what the launcher starts."""
    words = mpi.command(found, ["program"], slots_on(*hosts), "")
    return " ".join(word for word in words[: words.index(sys.executable)] if word != "--allow-run-as-root")


def become_rank(rank: int, command: Sequence[str], env: dict[str, str]) -> list[str]:
    """Return the lines that one rank of a command line prints."""
    own = list(command[command.index(sys.executable) :])
    clean = {"PATH": os.defpath, "PMI_RANK": str(rank)}
    done = subprocess.run(own, env=clean | env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("host", ["", "node3"])
def test_ranks_of_one_node_are_started_without_reaching_for_another(host: str) -> None:
    assert launch_words(OPEN_MPI, host, host) == (
        "/opt/bin/mpiexec -n 2 --host localhost:2 --oversubscribe --bind-to none"
    )
    assert launch_words(HYDRA, host, host) == ("/opt/bin/mpiexec -n 2 -launcher fork -hosts localhost:2 -bind-to none")


def test_ranks_that_follow_one_another_on_a_node_are_counted() -> None:
    assert launch_words(OPEN_MPI, "b", "b", "a") == (
        "/opt/bin/mpiexec -n 3 --host b:2,a:1 --map-by slot:oversubscribe --bind-to none"
    )
    assert launch_words(HYDRA, "b", "b", "a") == (
        "/opt/bin/mpiexec -n 3 -launcher ssh -hosts b:2,a:1 -bind-to none -genvnone"
    )


def test_ranks_that_come_back_to_a_node_keep_their_order() -> None:
    assert launch_words(OPEN_MPI, "a", "b", "a") == (
        "/opt/bin/mpiexec -n 3 --host a,b,a --map-by seq:oversubscribe --bind-to none"
    )
    assert launch_words(HYDRA, "a", "b", "a") == (
        "/opt/bin/mpiexec -n 3 -launcher ssh -hosts a:1,b:1,a:1 -bind-to none -genvnone"
    )


def test_each_rank_finds_its_own_slot() -> None:
    slots = [
        RankSlot(host, [CPU], gpus) for host, gpus in [("a", "0,1"), ("a", "2"), ("b", "0,1"), ("b", "2"), ("a", "7")]
    ]
    script = "echo $RHAPSODY_RANK of $RHAPSODY_RANKS has $GPUS; grep Cpus_allowed_list /proc/self/status"
    command = mpi.command(OPEN_MPI, ["sh", "-c", script], slots, "GPUS")

    said = [become_rank(rank, command, {}) for rank in range(5)]

    assert [lines[0] for lines in said] == [f"{rank} of 5 has {slot.gpus}" for rank, slot in enumerate(slots)]
    assert {lines[1].split()[1] for lines in said} == {str(CPU)}


@pytest.mark.parametrize("found", [OPEN_MPI, HYDRA], ids=["openmpi", "hydra"])
def test_ten_thousand_ranks_on_nodes_that_are_alike_fit_into_arguments(found: Launcher) -> None:
    slots = [
        RankSlot(f"frontier{node:05}", range(cpu, cpu + 8), "0") for node in range(1250) for cpu in range(0, 64, 8)
    ]

    assert max(len(word) for word in mpi.command(found, ["program"], slots, "GPUS")) < LARGEST_ARGUMENT


def test_a_launcher_on_one_node_keeps_all_its_files_in_the_folder_of_the_run() -> None:
    env = mpi.environment(OPEN_MPI, Path("/folder"), yielding=True)

    assert {name for name, value in env.items() if value == "/folder"} == env.keys() - {"OMPI_MCA_mpi_yield_when_idle"}


def test_a_launcher_over_nodes_keeps_only_its_own_files_in_a_folder_that_others_have_not() -> None:
    env = mpi.environment(OPEN_MPI, Path("/folder"), yielding=True, ssh="/job/ssh")

    assert {name for name, value in env.items() if value == "/folder"} == {
        LOCAL_BASE,
        "PRTE_MCA_prte_local_tmpdir_base",
    }


@pytest.mark.parametrize("found", [OPEN_MPI, HYDRA], ids=["openmpi", "hydra"])
def test_variables_of_the_task_get_their_names_back_on_every_node(found: Launcher) -> None:
    task = {"OMP_NUM_THREADS": "4", "PATH": "/task/bin:/usr/bin:/bin"}
    env = mpi.environment(found, Path("/folder"), yielding=False, ssh="/job/ssh", task=task)
    on_other_node = {name: value for name, value in env.items() if name.startswith("RHAPSODY_")} | {LOCAL_BASE: "/x"}
    command = mpi.command(found, ["env"], slots_on("a", "b"), "")

    said = become_rank(1, command, on_other_node)

    assert {f"{name}={value}" for name, value in task.items()} <= set(said)
    assert [line for line in said if line.startswith((PASSED, LOCAL_BASE))] == []


def test_the_folder_that_daemons_of_open_mpi_share_is_not_empty_while_ranks_run(tmp_path: Path) -> None:
    become_rank(0, mpi.command(OPEN_MPI, ["true"], slots_on("a", "b"), ""), {SESSIONS: str(tmp_path / "ompi")})

    with pytest.raises(OSError, match="not empty"):
        (tmp_path / "ompi").rmdir()


def test_the_ssh_of_the_job_is_the_one_that_all_nodes_have(tmp_path: Path) -> None:
    for folder, text in (("private", "#!/bin/sh\n"), ("same", SAME_ON_ALL), ("system", "\x7fELF")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ssh").write_text(text)
    search_path = os.pathsep.join(str(tmp_path / folder) for folder in ("none", "private", "system", "same"))

    assert mpi.ssh_of_job(search_path) == str(tmp_path / "same" / "ssh")
    assert mpi.ssh_of_job(str(tmp_path / "system")) == "ssh"


class NoOrders:
    """A worker's connection over which nothing comes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def receive(self, *, wait: bool = True) -> None:  # noqa: ARG002 - as workers' have it
        raise AssertionError("nothing was sent")


@pytest.fixture
def no_orders() -> Iterator[NoOrders]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield NoOrders(ours)


@pytest.mark.parametrize("argv", [["sh", "-c", "stat -c '%a %n' $FOLDER $FOLDER/*"], ["false"]], ids=["done", "failed"])
def test_the_shared_folder_is_the_users_alone_and_gone_at_the_end(
    argv: list[str], no_orders: NoOrders, tmp_path: Path
) -> None:
    shared = tmp_path / "deploy" / "run"
    extra: dict[str, Any] = {"argv": argv, "uid": "t", "attempt": 1, "grace_s": 1.0, "env": {"FOLDER": str(shared)}}

    kind, data = mpi_function.run(extra | {"shared": str(shared), "payload": b"", "ranks": 2}, no_orders)

    outcome = marshal.loads(data)  # noqa: S302 - made by ourselves
    assert (kind, outcome["cause"]) == (wire.RICH, "exit_code")
    assert outcome["stdout"] == (f"700 {shared}\n600 {shared}/payload\n" if argv[0] == "sh" else "")
    assert not shared.exists()


def test_a_function_whose_program_does_not_start_leaves_no_shared_folder(no_orders: NoOrders, tmp_path: Path) -> None:
    shared = tmp_path / "run"
    extra: dict[str, Any] = {"argv": ["no-such-program"], "uid": "t", "attempt": 1, "grace_s": 1.0}

    with pytest.raises(Exception, match="did not start"):
        mpi_function.run(extra | {"shared": str(shared), "payload": b"", "ranks": 2}, no_orders)

    assert not shared.exists()

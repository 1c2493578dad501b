"""The file of Apptainer on two hosts, an agent in a container on each, as a job's launcher would start them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.hosts.namespaces import Hosts
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    needs_command("ip", package="iproute2"),
    pytest.mark.skipif(os.geteuid() != 0, reason="making hosts of namespaces needs root; run the tests as root"),
]

CAMPAIGN = """
from rhapsody import ComputeTask, Resources


def hosts():
    import socket

    from mpi4py import MPI

    return MPI.COMM_WORLD.allgather(socket.gethostname())


async def campaign(session, args):
    ranks = ComputeTask(hosts, resources=Resources(ranks=2))
    names = [ComputeTask(executable="hostname") for _ in range(2)]
    await session.submit([ranks, *names])
    print("seen", (await ranks).return_value[0], sorted([(await name).stdout.strip() for name in names]))
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Yield two hosts."""
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder, Hosts(2, Path(folder)) as made:
        yield made


@pytest.mark.parametrize("backend", ["local", "dragon"])
async def test_campaign_runs_over_two_hosts(hosts: Hosts, sif: Path, tmp_path: Path, backend: str) -> None:
    (tmp_path / "campaign.py").write_text(CAMPAIGN)
    container = ["apptainer", "-q", "exec", "--bind", str(tmp_path), "--pwd", str(tmp_path), str(sif)]
    session = ["rhapsody", "run", "campaign.py", "--backend", backend, "--cores", "1", "--quiet"]
    agents = []
    for rank, name in enumerate(hosts.names):
        words = [
            "rhapsody-node",
            "--run-dir",
            str(tmp_path / "run"),
            "--nodes",
            "2",
            "--rank",
            str(rank),
            "--name",
            name,
        ]
        command = [*container, *words, "--", *(session if rank == 0 else [])]
        agents.append(hosts.start(name, command, {}, tmp_path / f"{name}.out"))

    try:
        await eventually(lambda: agents[0].code is not None, within_s=100, what="the agent of rank 0 ends")
        said = agents[0].said
        await eventually(lambda: agents[1].code is not None, within_s=20, what="the agent of rank 1 ends")
    finally:
        for agent in agents:
            agent.reap()

    names = list(hosts.names)
    assert f"seen {names} {names}\n" in said, said + agents[1].said
    assert [agent.code for agent in agents] == [0, 0]

"""Campaigns over several hosts: everything runs where the mapper said, and what is lost is said to be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.hosts.over import RHAPSODY
from tests.hosts.started import child_of
from tests.requirements import needs_command, needs_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.job import Job
    from tests.hosts.namespaces import Hosts
    from tests.hosts.over import Campaign

pytestmark = [
    needs_command("ip", package="iproute2"),
    needs_command("nsenter", package="util-linux"),
    needs_command("mpiexec", package="openmpi-bin"),
    needs_module("mpi4py", install="mpi4py"),
    pytest.mark.timeout(180),
]
BACKENDS = [
    "local",
    pytest.param("dragon", marks=[pytest.mark.dragon, needs_module("dragon", install="rhapsody-hpc[dragon]")]),
]
STILL_S = 4.0
EXECUTOR = b"\0rhapsody-executor\0"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [2, 4])
async def test_everything_runs_where_the_mapper_said(count: int, backend: str, over: Callable[[int], Campaign]) -> None:
    campaign = over(count)

    campaign.start("places", backend)
    found = await campaign.found()

    placed, names = campaign.placed(), campaign.hosts.names
    for uid, (name, cpus) in found["functions"].items():
        assert [(name, cpus)] == placed[uid]
    for uid, name in found["programs"].items():
        assert name == placed[uid][0][0]
    for uid, ranks in found["ranks"].items():
        assert [(name, cpus) for _, _, name, cpus in ranks] == placed[uid]
        assert [(number, total) for number, total, _, _ in ranks] == [(n, sum(range(count))) for n in range(count)]
    assert {name for name, _ in found["functions"].values()} == set(names)
    assert found["programs of mpi"] == names
    assert found["items"] == names
    assert campaign.job.agents[0].code == 0
    await campaign.nothing_is_left()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_ran_on_a_host_that_is_killed_is_unknown_or_runs_elsewhere(
    backend: str, over: Callable[[int], Campaign]
) -> None:
    campaign = over(4)
    campaign.start("loses", backend, cores=2)
    hosts = await campaign.staying(8)

    campaign.hosts.kill("node2")
    await campaign.job.says("node2 is lost", within_s=12)
    campaign.go()
    found = await campaign.found()

    lost = {uid for uid, name in hosts.items() if name == "node2"}
    assert len(lost) == 2
    for uid, state, attempt, value in found["tasks"]:
        is_idempotent = int(uid.rpartition(".")[2]) % 2 == 0
        if uid not in lost:
            assert (state, attempt, value) == ("DONE", 1, hosts[uid])
        elif is_idempotent:
            assert (state, attempt) == ("DONE", 2)
            assert value != "node2"
        else:
            assert (state, attempt) == ("UNKNOWN", 1)
            assert "node2 was lost" in value
    assert found["array"][0] == "DONE"
    assert found["wide"][0] == "FAILED"
    assert "node2" in found["wide"][1]
    campaign.hosts.names.remove("node2")
    await campaign.nothing_is_left()


async def test_a_host_that_is_cut_off_runs_nothing_on(over: Callable[[int], Campaign]) -> None:
    campaign = over(2)
    campaign.start("loses", "local", cores=2)
    await campaign.staying(4)

    campaign.hosts.unplug("node1")
    await campaign.job.says("node1 is lost", within_s=12)
    campaign.go()
    await campaign.found()

    await campaign.nothing_is_left()


async def test_a_host_that_comes_late_is_waited_for(over: Callable[[int], Campaign]) -> None:
    campaign = over(2)
    campaign.start("places", "local", ranks=[0])
    await campaign.job.says("", within_s=5)
    assert campaign.job.agents[0].code is None

    campaign.job.start("", ranks=[1])
    found = await campaign.found()

    assert found["items"] == ["node0", "node1"]


async def test_a_host_that_stands_still_for_a_while_is_not_lost(over: Callable[[int], Campaign]) -> None:
    campaign = over(2)
    campaign.start("loses", "local", cores=2)
    await campaign.staying(4)
    executor = campaign.pid_of(EXECUTOR)

    os.kill(executor, signal.SIGSTOP)
    campaign.go()
    await asyncio.sleep(STILL_S)  # what is tested
    os.kill(executor, signal.SIGCONT)
    found = await campaign.found()

    assert {state for _, state, _, _ in found["tasks"]} == {"DONE"}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_host_whose_executor_is_killed_is_lost_and_clean(backend: str, over: Callable[[int], Campaign]) -> None:
    campaign = over(2)
    campaign.start("loses", backend, cores=2)
    hosts = await campaign.staying(4)

    os.kill(campaign.pid_of(EXECUTOR), signal.SIGKILL)
    await campaign.job.says("node1 is lost", within_s=12)
    campaign.go()
    found = await campaign.found()

    states = {uid: state for uid, state, _, _ in found["tasks"] if hosts[uid] == "node1"}
    assert sorted(states.values()) == ["DONE", "UNKNOWN"]
    await campaign.nothing_is_left()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_control_c_ends_it_on_all_hosts(backend: str, over: Callable[[int], Campaign]) -> None:
    campaign = over(2)
    campaign.start("loses", backend, cores=2)
    await campaign.staying(4)

    campaign.job.agents[0].signal(signal.SIGINT)
    await campaign.job.says("draining")
    campaign.job.agents[0].signal(signal.SIGINT)
    code = await campaign.job.ended(within_s=30)

    assert code == 1
    await campaign.nothing_is_left()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_killed_session_is_gone_on_all_hosts_and_goes_on_when_resumed(
    backend: str, over: Callable[[int], Campaign], make_job: Callable[[Hosts], Job]
) -> None:
    campaign = over(2)
    campaign.start("loses", backend, cores=2)
    hosts = await campaign.staying(4)
    agent = child_of(campaign.job.agents[0].pid)

    os.kill(child_of(agent), signal.SIGKILL)
    await campaign.job.ended(within_s=30)
    await campaign.nothing_is_left()
    campaign.go()
    again = make_job(campaign.hosts)
    run = [RHAPSODY, "run", "--resume", str(campaign.run_dir), "--backend", backend, "--cores", "2"]
    again.start("", command=run)
    await again.ended()
    await again.says("found {")

    found = json.loads(again.agents[0].said.partition("found ")[2].partition("\n")[0])
    assert len(hosts) == 4
    assert sorted(state for _, state, _, _ in found["tasks"]) == ["DONE", "DONE", "UNKNOWN", "UNKNOWN"]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_service_with_a_replica_on_each_host_is_reached_from_all_and_survives_the_loss_of_one(
    backend: str, over: Callable[[int], Campaign]
) -> None:
    campaign = over(2)
    campaign.start("serves", backend, cores=3)
    await campaign.job.says("started", within_s=60)
    await eventually((campaign.folder / "up").exists, within_s=60)
    names = list(campaign.hosts.names)

    campaign.hosts.kill("node1")
    campaign.go()
    found = await campaign.found()

    assert found["nodes"] == names
    pairs = {(asker, answerer) for asker in names for answerer in names}
    assert {tuple(pair) for pair in found["directly"]} == pairs
    assert {answerer for _, answerer in found["asked"]} == set(names)
    assert found["after"] == ["node0", "node0"]
    assert found["same url"]
    campaign.hosts.names.remove("node1")
    await campaign.nothing_is_left()

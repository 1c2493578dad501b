"""Jobs over several hosts: real agents, real processes, hosts that come late, never, or die."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody.node import credentials
from tests.eventually import eventually
from tests.hosts.namespaces import SHARED_MEMORY
from tests.hosts.started import child_of
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.job import Job
    from tests.hosts.namespaces import Hosts

    MakeHosts = Callable[[int], Hosts]
    MakeJob = Callable[[Hosts], Job]

pytestmark = [needs_command("ip", package="iproute2"), needs_command("nsenter", package="util-linux")]

MAKE_SHARED_MEMORY = (
    "python3 -c 'import mmap, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600);"
    " os.ftruncate(f, 4096); m = mmap.mmap(f, 4096); os.close(f); print(sys.argv[2], flush=True); time.sleep(600)'"
)


async def nothing_runs(hosts: Hosts, *, within_s: float = 20) -> None:
    def running() -> list[str]:
        return [process for name in hosts.names for process in hosts.processes(name)]

    await eventually(lambda: not running(), within_s=within_s, what="no process is left on the hosts")


async def nothing_is_left(hosts: Hosts) -> None:
    await nothing_runs(hosts)
    assert [entry for name in hosts.names for entry in hosts.leftovers(name)] == []


def test_hosts_have_names_and_boot_ids_and_shared_memory_of_their_own(make_hosts: MakeHosts) -> None:
    hosts = make_hosts(2)

    hosts.run("node0", ["touch", f"{SHARED_MEMORY}/mine"])

    assert [hosts.run(name, ["hostname"]).strip() for name in hosts.names] == ["node0", "node1"]
    assert len({hosts.run(name, ["cat", "/proc/sys/kernel/random/boot_id"]) for name in hosts.names}) == 2
    assert hosts.leftovers("node1") == []


@pytest.mark.parametrize("count", [2, 4])
async def test_a_command_runs_on_each_host(count: int, make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(count)
    job = make_job(hosts)

    job.start("for host in $(cat $RHAPSODY_HOSTFILE); do ssh $host hostname; done; exit 3")
    code = await job.ended()

    assert job.agents[0].said.split() == hosts.names
    assert code == 3
    assert [await job.ended(rank) for rank in range(1, count)] == [0] * (count - 1)
    await nothing_is_left(hosts)


async def test_a_node_reaches_every_other_by_name_address_and_rank(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(3)
    job = make_job(hosts)

    job.start(f"ssh node2 'ssh node0 hostname; ssh {hosts.address('node1')} hostname; ssh 1 hostname; ssh 0 hostname'")
    code = await job.ended()

    assert (code, job.agents[0].said.split()) == (0, ["node0", "node1", "node1", "node0"])


async def test_the_ssh_is_found_on_another_node_under_the_path_of_the_first(
    make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    job = make_job(make_hosts(3))

    job.start('ssh node1 "PATH=$PATH ssh node2 hostname"')

    assert await job.ended() == 0
    assert job.agents[0].said == "node2\n"


async def test_a_hundred_megabytes_go_through_unharmed(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    job = make_job(make_hosts(2))

    job.start(
        "head -c 100000000 /dev/urandom > $TMPDIR/data; ssh node1 cat < $TMPDIR/data > $TMPDIR/back;"
        " cmp $TMPDIR/data $TMPDIR/back && echo same"
    )
    code = await job.ended()

    assert (code, job.agents[0].said) == (0, "same\n")


async def test_a_killed_host_is_lost_within_ten_seconds_and_the_job_goes_on(
    make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(3)
    job = make_job(hosts)
    job.start(
        "ssh node1 'echo there; sleep 600'; echo code $?;"
        " while ! grep -q lost %s; do sleep .1; done; ssh node2 hostname" % (job.run_dir / "deploy/nodes/events")
    )
    await job.says("there")

    killed = time.monotonic()
    hosts.kill("node1")
    await eventually(lambda: [e["name"] for e in job.events() if e["event"] == "lost"] == ["node1"], within_s=10)

    assert time.monotonic() - killed < 10
    assert await job.ended() == 0
    assert "code 255" in job.agents[0].said
    assert job.agents[0].said.splitlines()[-1] == "node2"


async def test_a_host_that_is_cut_off_ends_what_runs_on_it(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    job.start("ssh node1 'echo there; sleep 600'; sleep 600")
    await job.says("there")

    hosts.unplug("node1")

    assert await job.ended(1, within_s=25) == 1
    assert hosts.processes("node1") == []
    assert "rank 0 is lost" in job.agents[1].said


async def test_a_host_that_comes_back_joins_again(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    job.start("echo go; while ! ssh node1 test -e /dev/shm/anew 2>/dev/null; do sleep .2; done; ssh node1 hostname")
    await job.says("go")

    hosts.kill("node1")
    hosts.boot("node1")
    hosts.run("node1", ["touch", f"{SHARED_MEMORY}/anew"])
    job.start("", ranks=[1])

    assert await job.ended() == 0
    assert job.agents[0].said.splitlines()[-1] == "node1"
    assert [event["event"] for event in job.events()] == ["joined", "lost", "joined"]


async def test_a_host_that_comes_late_is_waited_for(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    job = make_job(make_hosts(3))
    job.start("ssh node2 hostname", ranks=[0, 1])
    await eventually(lambda: len(job.events()) == 1, within_s=20)

    job.start("", ranks=[2])

    assert await job.ended() == 0
    assert job.agents[0].said == "node2\n"


async def test_a_host_that_never_comes_is_named_at_the_deadline(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(3)
    job = make_job(hosts)

    job.start("echo never", "--hosts", "node0,node1,node2", "--join-limit", "3", ranks=[0, 1])
    code = await job.ended()

    assert code == 1
    assert "1 of 3 nodes did not join within 3 s: rank 2 (node2)" in job.agents[0].said
    assert "never" not in job.agents[0].said
    assert await job.ended(1) == 0
    await nothing_is_left(hosts)


async def test_ctrl_c_reaches_the_session_once_and_all_is_gone_after_it(
    make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    job.start(
        "trap 'echo interrupted; trap - EXIT; exit 130' INT;"
        " ssh node1 'setsid sleep 600 > /dev/null 2>&1 < /dev/null & echo there; sleep 600' & wait"
    )
    await job.says("there")

    job.agents[0].signal(signal.SIGINT)

    assert await job.ended() == 130
    assert job.agents[0].said.count("interrupted") == 1
    await nothing_is_left(hosts)


@pytest.mark.parametrize("victim", ["its first process", "the agent"])
async def test_nothing_is_left_on_any_host_when_rank_0_is_killed(
    victim: str, make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(3)
    job = make_job(hosts)
    job.start(
        f'ssh node1 "{MAKE_SHARED_MEMORY} /dev/shm/DD_one there1" & {MAKE_SHARED_MEMORY} /dev/shm/DD_zero there0 &'
        " ssh node2 'setsid sleep 600 > /dev/null 2>&1 < /dev/null &'; ssh node2 'touch $TMPDIR/x; echo there2'; wait"
    )
    for number in range(3):
        await job.says(f"there{number}")

    if victim == "the agent":
        os.kill(child_of(job.agents[0].pid), signal.SIGKILL)
    else:
        job.agents[0].signal(signal.SIGKILL)

    await nothing_is_left(hosts)


async def test_two_jobs_of_one_user_do_not_disturb_one_another(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(2)
    first, second = make_job(hosts), make_job(hosts)
    first.start(f'ssh node1 "{MAKE_SHARED_MEMORY} /dev/shm/DD_first there"')
    second.start(f'ssh node1 "{MAKE_SHARED_MEMORY} /dev/shm/DD_second there"')
    await first.says("there")
    await second.says("there")

    first.agents[0].signal(signal.SIGTERM)
    await first.ended()
    await first.ended(1)

    left = [entry for entry in hosts.leftovers("node1") if SHARED_MEMORY in entry]
    assert left == [f"{SHARED_MEMORY}/DD_second"]
    assert second.agents[0].code is None
    assert len([line for line in hosts.processes("node1") if "DD_second" in line]) >= 1


async def test_agents_find_each_other_by_names_and_a_port_without_a_shared_folder(
    make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    secret = job.run_dir.parent / "secret"
    credentials.make(secret)

    names = ["--hosts", "node0,node1", "--port", "7077", "--credentials", str(secret)]
    job.start("ssh node1 hostname", *names)

    assert await job.ended() == 0
    assert job.agents[0].said == "node1\n"
    assert not (job.run_dir / "deploy/nodes/credentials").exists()


@needs_command("mpirun.openmpi", package="openmpi-bin")
async def test_open_mpi_starts_on_all_hosts(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(4)
    job = make_job(hosts)

    job.start(
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        " mpirun.openmpi --host $(paste -sd, $RHAPSODY_HOSTFILE) -x GREETING=hello"
        " sh -c 'echo $GREETING $(hostname)' | sort"
    )
    code = await job.ended()

    assert job.agents[0].said.splitlines() == [f"hello {name}" for name in hosts.names]
    assert code == 0
    await nothing_is_left(hosts)


@needs_command("mpiexec.hydra", package="mpich")
async def test_mpich_starts_on_all_hosts(make_hosts: MakeHosts, make_job: MakeJob) -> None:
    hosts = make_hosts(4)
    job = make_job(hosts)

    job.start("mpiexec.hydra -f $RHAPSODY_HOSTFILE -ppn 1 -n 4 -genv GREETING hello sh -c 'echo $GREETING $(hostname)'")
    code = await job.ended()

    assert sorted(job.agents[0].said.splitlines()) == [f"hello {name}" for name in hosts.names]
    assert code == 0
    await nothing_is_left(hosts)

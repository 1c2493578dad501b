"""Ranks of one MPI task on several hosts, exactly where they are to be, through the agents' `ssh`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.eventually import eventually
from tests.requirements import needs_command, needs_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.job import Job
    from tests.hosts.namespaces import Hosts

    MakeHosts = Callable[[int], Hosts]
    MakeJob = Callable[[Hosts], Job]
    Launcher = tuple[str, str, str]
    Slots = list[tuple[str, list[int], str]]

pytestmark = [needs_command("ip", package="iproute2"), needs_command("nsenter", package="util-linux")]
LEADER = str(Path(__file__).with_name("mpi_run.py"))
CPUS = sorted(os.sched_getaffinity(0))
FIRST, LAST = CPUS[0], CPUS[-1]
SLOTS = [("node0", [FIRST], ""), ("node1", [LAST], ""), ("node0", CPUS, ""), ("node1", [FIRST], "")]
BLOCKS = [("node0", [FIRST], ""), ("node0", CPUS, ""), ("node1", [LAST], "")]
IN_A_BATCH_JOB = (
    "export SLURM_JOBID=77 SLURM_JOB_ID=77 SLURM_NNODES=2 SLURM_NODELIST=far[1-2] SLURM_JOB_NODELIST=far[1-2]"
    " SLURM_TASKS_PER_NODE='1(x2)' SLURM_JOB_CPUS_PER_NODE='1(x2)' PBS_JOBID=7 PBS_ENVIRONMENT=PBS_BATCH"
)


@pytest.fixture(
    params=[
        pytest.param(("mpirun.openmpi", "openmpi"), marks=needs_command("mpirun.openmpi", package="openmpi-bin")),
        pytest.param(("mpiexec.hydra", "hydra"), marks=needs_command("mpiexec.hydra", package="mpich")),
    ],
    ids=["openmpi", "hydra"],
)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Return path, flavor and version of a launcher."""
    name, flavor = request.param
    return str(shutil.which(name)), flavor, ""


def leading(launcher: Launcher, slots: Slots, **order: Any) -> str:  # noqa: ANN401
    """Return the shell command that leads an MPI task."""
    words = [sys.executable, LEADER, json.dumps({"launcher": launcher, "slots": slots, **order})]
    return shlex.join(words)


def numbers(ranges: str) -> list[int]:
    """Return the numbers that the kernel writes as `0-2,5`."""
    parts = [part.split("-") for part in ranges.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def outcomes(job: Job) -> list[dict[str, Any]]:
    """Return the outcomes of the runs that have ended."""
    return [json.loads(line) for line in job.agents[0].said.splitlines() if line.startswith("{")]


def signal_leader(hosts: Hosts, job: Job, name: str) -> None:
    found = re.search(r"leads (\d+)", job.agents[0].said)
    assert found is not None
    hosts.run("node0", ["kill", f"-{name}", found[1]])


def kill_launcher(hosts: Hosts, job: Job) -> None:
    found = re.search(r"leads (\d+)", job.agents[0].said)
    assert found is not None
    hosts.run("node0", ["pkill", "-KILL", "--oldest", "--parent", found[1]])


async def run_on(hosts: Hosts, node: str, command: str, *, times: int) -> None:
    """Return once a command runs so many times on a host."""
    what = f"{command} runs {times} times on {node}"
    await eventually(lambda: hosts.processes(node).count(command) == times, within_s=20, what=what)


@pytest.mark.parametrize("slots", [SLOTS, BLOCKS], ids=["to and fro", "block by block"])
async def test_each_rank_runs_on_its_host_and_cpus(
    slots: Slots, launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(make_hosts(2))
    script = "echo $RHAPSODY_RANKS $(hostname) $(grep Cpus_allowed_list /proc/self/status) > $FOLDER/$RHAPSODY_RANK"

    order = leading(launcher, slots, program=sh(script), env={"FOLDER": str(tmp_path)})
    job.start(f"{IN_A_BATCH_JOB}; {order}")
    await job.ended()

    found = [(tmp_path / str(rank)).read_text().split() for rank in range(len(slots))]
    assert [(count, host) for count, host, *_ in found] == [(str(len(slots)), host) for host, _, _ in slots]
    assert [numbers(words[-1]) for words in found] == [cpus for _, cpus, _ in slots]


async def test_variables_and_folder_of_the_task_reach_all_ranks_and_those_of_a_node_stay_there(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(make_hosts(2))
    env = {"FLAVOUR": "sweet; sour", "PATH": "/usr/bin:/bin", "LAST_OF_ALL": "1"}
    script = 'test -d "$TMPDIR" && echo "$FLAVOUR $LAST_OF_ALL $RHAPSODY_TASK_UID $(pwd)" > $RHAPSODY_NODE_RANK'

    order = leading(launcher, SLOTS[:2], program=sh(script), env=env, cwd=str(tmp_path))
    job.start(f"export RHAPSODY_TASK_UID=md; {order}")
    await job.ended()

    for node in range(2):
        assert (tmp_path / str(node)).read_text() == f"sweet; sour 1 md {tmp_path}\n"


@needs_command("mpirun.openmpi", package="openmpi-bin")
@needs_module("mpi4py", install="mpi4py")
async def test_ranks_on_two_hosts_reduce_among_each_other(
    make_hosts: MakeHosts, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(make_hosts(2))
    reduce = (
        "from mpi4py import MPI; world = MPI.COMM_WORLD; total = world.allreduce(world.rank + 1);"
        " open(str(world.rank), 'w').write(str(total))"
    )
    found = (str(shutil.which("mpirun.openmpi")), "openmpi", "")

    job.start(leading(found, SLOTS, program=[sys.executable, "-c", reduce], cwd=str(tmp_path)))
    await job.ended()

    assert [(tmp_path / str(rank)).read_text() for rank in range(4)] == ["10"] * 4


async def test_a_function_returns_values_by_rank_from_all_hosts(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(make_hosts(2))
    shared = tmp_path / "shared"

    job.start(leading(launcher, SLOTS, shared=str(shared)))
    await job.ended()

    [outcome] = outcomes(job)
    assert outcome["values"] == [[host, str(rank)] for rank, (host, _, _) in enumerate(SLOTS)], outcome
    assert not shared.exists()


async def test_tasks_over_the_same_hosts_do_not_disturb_one_another(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    job = make_job(make_hosts(2))
    there = leading(launcher, SLOTS[:2], program=sh("hostname"), times=5)
    back = leading(launcher, SLOTS[1::-1], program=sh("hostname"), times=5)

    job.start(f"{there} & {there} & ssh node1 {shlex.quote(back)} & wait")
    await job.ended(within_s=100)

    found = outcomes(job)
    assert [outcome["exit_code"] for outcome in found] == [0] * 15, found
    assert {tuple(sorted(re.findall(r"node\d", outcome["stdout"]))) for outcome in found} == {("node0", "node1")}


async def test_a_warning_reaches_the_ranks_on_all_hosts(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    script = 'trap "hostname; exit 0" USR1; sleep 611 & wait'
    job.start(leading(launcher, SLOTS[:2], program=sh(script)))
    for node in hosts.names:
        await run_on(hosts, node, "sleep 611", times=1)

    signal_leader(hosts, job, "USR1")
    await job.ended()

    [outcome] = outcomes(job)
    assert sorted(re.findall(r"node\d", outcome["stdout"])) == hosts.names, outcome


async def test_ranks_on_other_hosts_have_ended_when_a_cancelled_launcher_has(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    job.start(f"{leading(launcher, SLOTS, program=sh('sleep 612 & wait'))}; sleep 600")
    await run_on(hosts, "node1", "sleep 612", times=2)

    signal_leader(hosts, job, "USR2")
    await job.says('"cause": "canceled"')

    assert hosts.processes("node1").count("sleep 612") == 0


async def test_ranks_on_other_hosts_end_when_their_launcher_is_killed(
    launcher: Launcher, make_hosts: MakeHosts, make_job: MakeJob
) -> None:
    hosts = make_hosts(2)
    job = make_job(hosts)
    job.start(f"{leading(launcher, SLOTS, program=sh('sleep 613 & wait'))}; sleep 600")
    await run_on(hosts, "node1", "sleep 613", times=2)

    kill_launcher(hosts, job)
    await job.says('"cause": "signal"')

    await run_on(hosts, "node1", "sleep 613", times=0)

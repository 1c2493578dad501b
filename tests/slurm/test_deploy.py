"""`rhapsody deploy` and what follows it, at the login node of a real Slurm."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.leftovers import processes
from tests.slurm.cluster import ACCOUNT, SOMEBODY
from tests.slurm.desk import RHAPSODY, Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.hosts.started import Started
    from tests.slurm.cluster import Cluster

MOST_THREADS = 16
MOST_BYTES = 500e6
TWO = ["node1", "node2"]


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Iterator[Desk]:
    """Where a user sits; what was submitted there is cancelled in the end."""
    desk = Desk(cluster, tmp_path)

    yield desk

    for job in desk.jobs:
        cluster.cancel(job)


async def ended(command: Started, within_s: float = 90) -> int:
    """Return the exit code of a command, once it has ended."""
    await eventually(lambda: command.code is not None, within_s=within_s, what=f"it ends; it said {command.said}")
    assert command.code is not None
    return command.code


# One job


@pytest.mark.parametrize("backend", ["local", "dragon"])
async def test_a_campaign_is_submitted_runs_on_both_nodes_and_is_followed_to_its_end(desk: Desk, backend: str) -> None:
    desk.go()

    followed = desk.start(*desk.words("stays", "--backend", backend, "--wait"))
    code = await ended(followed)

    assert code == 0, followed.said + desk.printed()
    assert (len(desk.found()), sorted(set(desk.found()))) == (4, TWO)
    first, second = followed.said.splitlines()[:2]
    assert first == f"2 nodes for 10m at slurm-test, queue debug, account {ACCOUNT}: 0.3333 node-hours at most"
    assert second.startswith("job ")
    assert "4 DONE" in followed.said
    status = desk.status(desk.runs[0].name)
    assert (status["job"]["phase"], status["run"]["condition"]) == ("COMPLETED", "ENDED")


async def test_a_campaign_that_fails_gives_its_exit_code_to_whoever_waits(desk: Desk) -> None:
    followed = desk.start(*desk.words("fails", "--wait"))

    assert await ended(followed) == 1
    assert "ValueError: of its own" in desk.type("logs").out
    status = desk.status(desk.runs[0].name)
    assert (status["job"]["phase"], status["job"]["exit_code"]) == ("FAILED", 1)


async def test_a_run_is_looked_at_by_the_id_of_its_job(desk: Desk) -> None:
    job = desk.deploy()
    await desk.stays(2)

    shown, listed = desk.type("status", job).out, desk.type("list").out
    logged = desk.start("logs", "-f", job)
    attached = desk.start("attach", job)
    desk.go()
    codes = [await ended(attached), await ended(logged)]

    assert f"job         {job} RUNNING on node[1-2], until " in shown
    assert f"{job} RUNNING" in listed
    assert codes == [0, 0]
    assert "4 DONE" in attached.said
    assert f"job-{job} | found [" in logged.said


# What Slurm refuses


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-A", "wrong"], f"your accounts: {ACCOUNT}"),
        (["-q", "wrong"], "unknown queue of slurm-test 'wrong'; valid: debug, short"),
        (["-q", "wrong", "--set", "queues.open=true"], "invalid partition specified: wrong"),
        (["-q", "short", "-t", "3m"], "nearest: 2 nodes for 2m in short"),
        (["--reservation", "none"], "Requested reservation is invalid"),
    ],
)
def test_what_slurm_does_not_take_is_refused_and_leaves_nothing(desk: Desk, options: list[str], says: str) -> None:
    said = desk.type(*desk.words("stays", *options))

    assert (said.code, said.out, desk.runs) == (2, "", [])
    assert says in said.err


def test_slurm_says_whether_and_when_it_would_start(desk: Desk) -> None:
    good, bad = (desk.type(*desk.words("stays", "--test-only", *more)) for more in ((), ("--reservation", "none")))

    assert (good.code, bad.code, desk.runs) == (0, 2, [])
    assert "Slurm would take this job" in good.out


# Inside of an allocation


def test_the_command_for_an_interactive_job_gets_one_where_a_campaign_runs_here(desk: Desk) -> None:
    desk.go()
    shown = desk.type(*desk.words("stays", "--interactive"))
    assert shown.code == 0, shown.err

    here = [RHAPSODY, *desk.words("stays", "--here")]
    said = desk.shell([*shlex.split(shown.out), *here])

    assert said.code == 0, said.err
    found = json.loads(said.out.rpartition("found ")[2])
    assert (len(found), sorted(set(found))) == (4, TWO)
    assert desk.runs[0].joinpath("deploy/jobs").read_text().count('"ended","exit_code":0') == 1


async def test_ctrl_c_ends_a_campaign_here_and_leaves_the_allocation(desk: Desk) -> None:
    shown = desk.type(*desk.words("stays", "--interactive"))
    here = shlex.join([RHAPSODY, *desk.words("stays", "--here")])
    script = f"{here} & echo $! >{desk.folder}/pid; wait $!; echo code $?; srun hostname"
    allocation = desk.cluster.start(
        [*shlex.split(shown.out), "bash", "-c", script], desk.folder / "here", env=desk.environment
    )
    await desk.stays(2)

    pid = (desk.folder / "pid").read_text().strip()
    desk.cluster.run(["kill", "-INT", pid])
    await eventually(lambda: "Ctrl-C again" in allocation.said, within_s=20, what="the first one is heard")
    desk.cluster.run(["kill", "-INT", pid])
    await ended(allocation)

    behind = allocation.said.partition("\ncode 1\n")[2].splitlines()
    assert set(TWO) <= set(behind), allocation.said


# Ending


async def test_cancel_ends_a_running_campaign_in_good_order(desk: Desk) -> None:
    job = desk.deploy()
    await desk.stays(2)

    said = desk.type("cancel", job)

    assert said.code == 0, said.err
    status = desk.status(job)
    assert (status["run"]["condition"], status["run"]["interrupted"]) == ("ENDED", True)
    assert status["job"]["phase"] == "FAILED"
    assert "go on with: rhapsody run --resume" in desk.printed()


async def test_cancel_takes_a_waiting_job_out_of_the_queue(desk: Desk) -> None:
    first = desk.deploy()
    second = desk.deploy("stays", "--after", first)
    waiting = desk.status(second)

    said = desk.type("cancel", second)

    assert (waiting["run"]["condition"], waiting["job"]["phase"]) == ("SUBMITTED", "QUEUED")
    assert "waits for another job to end" in waiting["job"]["why"]
    assert (said.code, said.out) == (0, f"the job {second} is taken out of the queue\n")
    assert desk.cluster.job(second).state == "CANCELLED"
    assert desk.status(second)["job"]["phase"] == "CANCELLED"
    assert "NOT BEGUN" in desk.type("list").out


async def test_a_job_that_somebody_cancelled_by_hand_is_said_to_be(desk: Desk) -> None:
    job = desk.deploy("stays", "--after", desk.deploy())

    desk.shell(["scancel", job])

    assert (await desk.phase(job, "CANCELLED"))["exit_code"] is None


# Time


async def test_a_campaign_goes_on_in_the_same_job_when_its_time_is_over(desk: Desk) -> None:
    followed = desk.start(*desk.words("stays", "-q", "short", "-t", "1m", "--chain", "2", "--wait"))
    await desk.stays(2)

    session = desk.runs[0] / "logs/session.log"
    await eventually(lambda: "out of time" in session.read_text(), within_s=70, what="the time runs out")
    desk.go()
    code = await ended(followed, within_s=120)

    assert code == 0, followed.said + desk.printed()
    assert (len(desk.found()), len(list(desk.folder.glob("up.*")))) == (4, 4), "none ran twice"
    assert "2 of 2" in followed.said
    assert desk.cluster.job(desk.status(desk.runs[0].name)["job"]["job_id"]).restarts == 1


async def test_a_chain_goes_on_in_another_job_where_jobs_are_not_requeued(desk: Desk) -> None:
    first = desk.deploy("stays", "--chain", "3", "--set", "scheduler.requeue=false")
    attached = desk.start("attach", first)
    await desk.stays(2)

    desk.shell(["scancel", "--batch", "--signal=USR1", first])
    await eventually(lambda: "nothing new starts" in desk.printed(), within_s=30, what="the campaign drains")
    desk.go()
    code = await ended(attached)

    assert code == 0, attached.said + desk.printed()
    assert (len(desk.found()), len(list(desk.folder.glob("up.*")))) == (4, 4), "none ran twice"
    second = desk.status(first)["job"]
    assert (second["job_id"] != first, second["link"], second["phase"]) == (True, 2, "COMPLETED")


async def test_a_run_whose_time_was_over_is_submitted_again(desk: Desk) -> None:
    job = desk.deploy()
    await desk.stays(2)
    refused = desk.type("deploy", "--resume", job)
    desk.shell(["scancel", "--batch", "--signal=USR1", job])
    await eventually(lambda: "nothing new starts" in desk.printed(), within_s=30, what="the campaign drains")
    desk.go()
    await desk.phase(job, "TIMEOUT")

    again = desk.start("deploy", "--resume", job, "--wait")
    code = await ended(again)

    assert (refused.code, f"the job {job} of " in refused.err) == (2, True)
    assert code == 0, again.said + desk.printed()
    assert (len(desk.found()), len(list(desk.folder.glob("up.*")))) == (4, 4), "none ran twice"


async def test_a_job_that_the_batch_system_killed_for_its_time_is_not_called_completed(desk: Desk) -> None:
    job = desk.deploy("blocks", "-q", "short", "-t", "1m", nodes=1)

    status = await desk.phase(job, "TIMEOUT", within_s=110)

    assert status["exit_code"] is None
    assert "was still running at its time limit" in status["why"]


# Others, and losses


async def test_jobs_of_others_are_neither_shown_nor_touched(desk: Desk) -> None:
    array = ["sbatch", "--parsable", f"--account={ACCOUNT}", "--array=0-3", "--output=/dev/null", "--wrap=sleep 600"]
    other = desk.cluster.run(array, user=SOMEBODY).stdout.strip()
    desk.jobs.append(other)
    job = desk.deploy("stays", nodes=1)

    await desk.stays(1)
    said = desk.type("cancel", job)

    assert said.code == 0, said.err
    states = desk.cluster.run(["squeue", "--noheader", "--array", f"--user={SOMEBODY}", "--format=%T"]).stdout.split()
    assert (len(states), set(states) <= {"RUNNING", "PENDING"}) == (4, True)
    listed = json.loads(desk.type("list", "--json").out)["runs"]
    assert [run["job"]["job_id"] for run in listed] == [job]


async def test_a_campaign_goes_on_without_a_node_that_dies(desk: Desk, mortal: str) -> None:
    job = desk.deploy("stays", "--set", f"directives.options.nodelist=node1,{mortal}")
    attached = desk.start("attach", job)
    await desk.stays(2)

    desk.cluster.kill(mortal)
    await eventually(lambda: f"{mortal} is lost" in desk.printed(), within_s=40, what="the loss is said")
    desk.go()

    assert await ended(attached) == 0, attached.said
    assert desk.found() == ["node1"] * 4


async def test_a_job_whose_first_node_dies_is_said_to_have_lost_it(desk: Desk, mortal: str) -> None:
    job = desk.deploy("stays", "--set", f"directives.options.nodelist={mortal}", nodes=1)
    await desk.stays(1)

    desk.cluster.kill(mortal)

    assert "lost a node" in (await desk.phase(job, "NODE_FAIL", within_s=90))["why"]


# Where it runs


async def test_on_the_login_node_it_is_small_and_leaves_nothing_behind(desk: Desk) -> None:
    followed = desk.start(*desk.words("stays", "--wait"))
    await eventually(lambda: bool(desk.runs), within_s=30, what="it has begun")
    most = [0, 0]

    def measured() -> bool:
        threads, held = footprint(followed.pid)
        most[:] = [max(most[0], threads), max(most[1], held)]
        return len([*desk.folder.glob("up.*")]) >= 2

    await eventually(measured, within_s=60, what="the campaign runs")
    desk.go()
    await ended(followed)

    assert 0 < most[0] <= MOST_THREADS
    assert 0 < most[1] <= MOST_BYTES
    login = [line for line in desk.cluster.running() if line.startswith("login: ")]
    assert login == []


def footprint(pid: int) -> tuple[int, int]:
    """Return how many threads a process and all below it have, and how many bytes they hold in memory."""
    there = processes()
    family = {pid}
    for _ in range(len(there)):
        more = {each.pid for each in there.values() if each.parent in family} - family
        if not more:
            break
        family |= more
    threads = held = 0
    for each in family:
        try:
            with open(f"/proc/{each}/status", encoding="utf-8") as file:  # noqa: PTH123 - no path of ours
                fields = dict(line.split(":", 1) for line in file)
        except OSError:  # it has ended
            continue
        threads += int(fields["Threads"])
        held += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return threads, held


def test_doctor_finds_nothing_wrong_with_the_cluster(desk: Desk) -> None:
    said = desk.type("doctor", "--site", "slurm-test", "-A", ACCOUNT, "--json")

    verdicts = {each["name"]: each["verdict"] for each in json.loads(said.out)["findings"]}
    assert {verdicts[name] for name in ("commands", "Slurm", "account")} == {"ok"}
    wrong = {name for name, verdict in verdicts.items() if verdict == "wrong"}
    assert wrong <= {"file system", "python", "rhapsody"}, "what may lie in /tmp, which these hosts share"

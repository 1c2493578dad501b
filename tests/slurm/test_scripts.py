"""Rendered batch scripts under a real Slurm: where campaigns run, what signals do, and which exit codes come out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.slurm.batch import REQUEST
from tests.slurm.cluster import ACCOUNT, SOMEBODY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.slurm.batch import Batch
    from tests.slurm.cluster import Cluster


def submitted(cluster: Cluster, *options: str, user: str | None = SOMEBODY) -> tuple[int, str]:
    """Return the exit code of `sbatch` with these options, and what it said; the job itself is never to start."""
    done = cluster.run(["sbatch", "--parsable", "--hold", "--output=/dev/null", *options, "--wrap=true"], user=user)
    if done.returncode == 0:
        cluster.run(["scancel", done.stdout.strip()])
    return done.returncode, done.stderr


# The cluster itself


def test_cluster_has_all_nodes_with_their_cores_and_gpus(cluster: Cluster) -> None:
    said = cluster.run(["sinfo", "--noheader", "--Node", "--partition=short", "--format=%N %T %c %G"])

    assert said.stdout.splitlines() == [f"node{number} idle 4 gpu:2" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("options", [[], ["--partition=short"], ["--qos=short", "--time=2"]])
def test_cluster_takes_jobs_of_an_ordinary_user(cluster: Cluster, options: list[str]) -> None:
    assert submitted(cluster, f"--account={ACCOUNT}", *options) == (0, "")


@pytest.mark.parametrize("user", [None, SOMEBODY], ids=["root", "somebody"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--account=wrong"], "Invalid account or account/partition combination specified"),
        ([f"--account={ACCOUNT}", "--partition=wrong"], "invalid partition specified: wrong"),
        ([f"--account={ACCOUNT}", "--qos=wrong"], "Invalid qos specification"),
        ([f"--account={ACCOUNT}", "--partition=short", "--time=3"], "Requested time limit is invalid"),
        ([f"--account={ACCOUNT}", "--nodes=5"], "Node count specification invalid"),
    ],
    ids=["account", "partition", "qos", "time", "nodes"],
)
def test_cluster_refuses_at_once_what_it_never_runs(
    cluster: Cluster, user: str | None, options: list[str], reason: str
) -> None:
    code, said = submitted(cluster, *options, user=user)

    assert code == 1
    assert reason in said


async def test_cluster_runs_a_command_of_the_login_node_on_its_nodes(cluster: Cluster, tmp_path: Path) -> None:
    command = cluster.start(["srun", f"--account={ACCOUNT}", "--nodes=4", "hostname"], tmp_path / "said")

    await eventually(lambda: command.code is not None, within_s=30, what="srun ends")

    assert (command.code, sorted(command.said.split())) == (0, cluster.nodes)


# Scripts


async def test_script_runs_a_campaign_on_all_nodes_of_the_job(batch: Batch) -> None:
    batch.go()

    batch.submit()
    job = await batch.ends()

    assert (job.state, job.exit_code, job.nodes) == ("COMPLETED", 0, "node[1-2]")
    assert (len(batch.found), set(batch.found)) == (4, {"node1", "node2"})
    assert batch.records == [(0, "started", None), (0, "ended", 0)]
    await batch.nothing_is_left()


async def test_accounting_knows_how_a_job_ended(batch: Batch) -> None:
    batch.submit(command=["bash", "-c", "exit 3"], resume_command=None)
    await batch.ends()

    def is_known() -> bool:
        return batch.cluster.accounted(batch.job_id) == ["FAILED 3:0"]

    await eventually(is_known, within_s=10, what="the accounting has state and exit code")


async def test_campaign_that_fails_fails_the_job(batch: Batch) -> None:
    batch.submit("fails")
    job = await batch.ends()

    assert (job.state, job.exit_code) == ("FAILED", 1)
    assert "ValueError: of its own" in batch.said
    await batch.nothing_is_left()


async def test_exit_code_of_what_the_first_node_runs_is_that_of_the_job(batch: Batch) -> None:
    batch.submit(command=["bash", "-c", "exit 42"], resume_command=None)
    job = await batch.ends()

    assert (job.state, job.exit_code) == ("FAILED", 42)
    assert batch.records == [(0, "started", None), (0, "ended", 42)]


async def test_script_for_nodes_with_gpus_gets_them(batch: Batch) -> None:
    command = ["bash", "-c", 'echo "sees GPUs $CUDA_VISIBLE_DEVICES"']

    batch.submit(request=replace(REQUEST, node_kind="gpu"), command=command, resume_command=None)
    job = await batch.ends()

    assert job.state == "COMPLETED"
    assert "sees GPUs 0,1\n" in batch.said


def test_script_with_a_wrong_account_is_refused(batch: Batch) -> None:
    script = batch.write(request=replace(REQUEST, account="wrong"))

    done = batch.cluster.run(["sbatch", str(script)])

    assert done.returncode == 1
    assert "Invalid account or account/partition combination specified" in done.stderr


async def test_sigterm_to_the_script_stops_the_campaign_in_good_order(batch: Batch) -> None:
    batch.submit()
    await batch.stays(2)

    batch.signal("TERM")
    job = await batch.ends()

    assert job.state == "FAILED"
    assert job.exit_code not in {0, 75}
    assert "got SIGTERM, and hands it on to the campaign" in batch.said
    assert "stopping: running tasks are ended" in batch.said
    assert "interrupted; go on with: rhapsody run --resume" in batch.said
    assert batch.records == [(0, "started", None), (0, "ended", job.exit_code)]
    await batch.nothing_is_left()


async def test_scancel_leaves_nothing_on_any_host(batch: Batch) -> None:
    batch.submit()
    await batch.stays(2)

    batch.cluster.run(["scancel", batch.job_id])
    job = await batch.ends()

    assert job.state == "CANCELLED"
    await batch.nothing_is_left()


async def test_sigusr1_to_the_script_drains_the_campaign_and_gives_75(batch: Batch) -> None:
    batch.submit()
    await batch.stays(2)

    batch.signal("USR1")
    await batch.says("running tasks go on, nothing new starts")
    batch.go()
    job = await batch.ends()

    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 75, 0)
    assert "tasks       2 DONE  2 CANCELED" in batch.said
    await batch.nothing_is_left()


async def test_slurm_itself_tells_the_campaign_before_the_time_is_over(batch: Batch) -> None:
    batch.submit(request=replace(REQUEST, walltime_s=60, queue="short"))
    await batch.stays(2)

    await batch.says("out of time: SIGUSR1 was received", within_s=60)
    batch.go()
    job = await batch.ends()

    assert (job.state, job.exit_code) == ("FAILED", 75)


async def test_job_with_links_goes_back_to_the_queue_and_resumes(batch: Batch) -> None:
    batch.submit(request=replace(REQUEST, links=2))
    await batch.stays(2)

    batch.signal("USR1")
    await batch.says("running tasks go on, nothing new starts")
    batch.go()
    await batch.reaches(lambda job: job.restarts == 1, "the job is back in the queue")
    job = await batch.ends()

    assert (job.state, job.exit_code, job.restarts) == ("COMPLETED", 0, 1)
    assert (len(batch.found), set(batch.found)) == (4, {"node1", "node2"})
    assert len(list(batch.folder.glob("up.*"))) == 4  # none ran twice
    assert batch.records == [
        (0, "started", None), (0, "ended", 75), (0, "continued", 75), (1, "started", None), (1, "ended", 0)
    ]  # fmt: skip
    await batch.nothing_is_left()


async def test_campaign_outlives_a_node_that_dies(batch: Batch, mortal: str) -> None:
    batch.submit(options={"nodelist": f"node1,{mortal}"})
    await batch.stays(2)

    batch.cluster.kill(mortal)
    await batch.says(f"{mortal} is lost")
    batch.go()
    job = await batch.ends()

    assert (job.state, job.exit_code) == ("COMPLETED", 0)
    assert batch.found == ["node1"] * 4

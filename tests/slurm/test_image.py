"""The image in real Slurm jobs: a container of Apptainer on each node, with the node agent in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody.session.run_folder import make_run_folder, write_description
from tests.containers.deployed import deploy_in_podman
from tests.containers.engine import run
from tests.eventually import eventually
from tests.requirements import needs_command
from tests.slurm.cluster import ACCOUNT, SOMEBODY
from tests.slurm.desk import CAMPAIGN, RHAPSODY, Desk
from tests.slurm.image_job import (
    ended,
    front_end,
    in_image,
    met_in,
    nodes_with,
    nothing_is_left,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.slurm.cluster import Cluster

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(600),  # the first one waits for the build
    needs_command("apptainer", package="apptainer (by scripts/container-tools)"),
]
HYBRID = Path(__file__).parents[2] / "examples" / "hybrid_campaign.py"
ANSWER = re.compile(r"round  |\s+(?:\d+|end)  +\d+  |Found:|Exact:|Poses:|Tasks:|Types:")
DRAGON = ("--backend", "dragon")
LOCAL = ("--backend", "local")


@pytest.fixture
def desk(cluster: Cluster, engines: None, tmp_path: Path) -> Iterator[Desk]:
    """Where a user sits; what was submitted there is cancelled in the end."""
    desk = Desk(cluster, tmp_path)

    yield desk

    for job in desk.jobs:
        cluster.cancel(job)


# Going well


@pytest.mark.parametrize("flags", [(), ("--cleanenv", "--contain")], ids=["plain", "closed"])
async def test_dragon_functions_and_ranks_span_the_containers_of_two_nodes(
    desk: Desk, sif: Path, flags: tuple[str, ...]
) -> None:
    desk.go()

    followed = desk.start(*desk.words("meets", *in_image(sif, *DRAGON, flags=flags, binds=[desk.folder]), "--wait"))
    code = await ended(followed)

    assert code == 0, followed.said + desk.printed()
    assert desk.found() == met_in(sif.name)
    assert "when the allocation ends is not known" not in desk.printed(), "its script has said it"
    await nothing_is_left(desk.cluster)


async def test_image_is_copied_to_the_nodes_own_disks_and_removed(desk: Desk, sif: Path) -> None:
    disk = nodes_with(local_disk={"path": str(desk.cluster.hosts.temporary)})

    desk.go()

    job = desk.deploy("meets", *in_image(sif, *LOCAL, *disk, "--stage"))
    await desk.phase(job, "COMPLETED")

    assert desk.found() == met_in(f"rhapsody-{job}-1.sif")
    await nothing_is_left(desk.cluster)


async def test_two_jobs_of_one_user_share_a_node(desk: Desk, sif: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Desk(desk.cluster, tmp_path / "other")
    half = [*nodes_with(cores=2), "--set", "directives.options.nodelist=node1"]
    first = desk.deploy("stays", *in_image(sif, *DRAGON, *half), nodes=1)
    desk.jobs.append(other.deploy("stays", *in_image(sif, *DRAGON, *half), nodes=1))
    await desk.stays(1)
    await other.stays(1)

    desk.go()
    await desk.phase(first, "COMPLETED")
    goes_on = other.status(other.jobs[0])
    other.go()
    await other.phase(other.jobs[0], "COMPLETED")

    assert (goes_on["job"]["phase"], goes_on["run"]["condition"]) == ("RUNNING", "RUNNING")
    assert (desk.found(), other.found()) == (["node1"] * 2, ["node1"] * 2)
    await nothing_is_left(desk.cluster)


async def test_answer_of_a_campaign_is_the_same_wherever_it_runs(
    desk: Desk, sif: Path, image: str, tmp_path: Path
) -> None:
    runs = tmp_path / "here"
    runs.mkdir()
    alone = ["run", "--cores", "2", "--runs", str(runs)]
    here = [run(RHAPSODY, *alone, *backend, str(HYBRID), "--", "2").stdout for backend in (LOCAL, DRAGON)]
    folders = ["--bind", str(runs), "--bind", str(HYBRID.parent), "--pwd", str(runs)]
    contained = [
        deploy_in_podman(image, runs, HYBRID, "2", options=LOCAL).stdout,
        run("apptainer", "-q", "exec", *folders, str(sif), "rhapsody", *alone, str(HYBRID), "--", "2").stdout,
    ]
    words = desk.words("", *in_image(sif, *DRAGON), "--wait", "--quiet")

    followed = desk.start(*words[: words.index(str(CAMPAIGN))], str(HYBRID), "--", "2")
    code = await ended(followed)

    assert code == 0, followed.said + desk.printed()
    answers = [answer(said) for said in (*here, *contained, desk.printed())]
    assert len(answers[0]) == 9
    assert answers == [answers[0]] * 5


def answer(said: str) -> list[str]:
    """Return the lines that examples/hybrid_campaign.py prints, but how many tasks ran at a time."""
    return [line for line in said.splitlines() if ANSWER.match(line)]


# Ending early


async def test_cancel_leaves_nothing_on_any_node(desk: Desk, sif: Path) -> None:
    job = desk.deploy("stays", *in_image(sif, *DRAGON))
    await desk.stays(2)

    said = desk.type("cancel", job)

    assert said.code == 0, said.err
    status = desk.status(job)
    assert (status["run"]["condition"], status["run"]["interrupted"]) == ("ENDED", True)
    await nothing_is_left(desk.cluster)


async def test_scancel_leaves_nothing_on_any_node(desk: Desk, sif: Path) -> None:
    disk = nodes_with(local_disk={"path": str(desk.cluster.hosts.temporary)})
    job = desk.deploy("stays", *in_image(sif, *LOCAL, *disk, "--stage"))
    await desk.stays(2)

    desk.shell(["scancel", job])

    await nothing_is_left(desk.cluster)


async def test_campaign_goes_on_in_another_start_of_the_job(desk: Desk, sif: Path) -> None:
    job = desk.deploy("stays", *in_image(sif, *LOCAL, "--chain", "2"))
    await desk.stays(2)

    desk.shell(["scancel", "--batch", "--signal=USR1", job])
    await says(desk, "nothing new starts")
    desk.go()
    await desk.phase(job, "COMPLETED", within_s=60)

    assert (len(desk.found()), len(list(desk.folder.glob("up.*")))) == (4, 4), "none ran twice"
    assert desk.cluster.job(job).restarts == 1
    await nothing_is_left(desk.cluster)


async def test_killed_front_end_of_dragon_ends_the_campaign(desk: Desk, sif: Path) -> None:
    job = desk.deploy("stays", *in_image(sif, *DRAGON))
    await desk.stays(2)

    os.kill(front_end(desk.cluster), signal.SIGKILL)

    assert (await desk.phase(job, "FAILED"))["exit_code"] == 1
    assert "all its nodes are lost (Dragon is gone" in desk.printed()
    await nothing_is_left(desk.cluster)


async def test_campaign_goes_on_without_a_node_that_dies(desk: Desk, sif: Path, mortal: str) -> None:
    nodes = ["--set", f"directives.options.nodelist=node1,{mortal}"]
    job = desk.deploy("stays", *in_image(sif, *DRAGON, *nodes))
    await desk.stays(2)

    desk.cluster.kill(mortal)
    await says(desk, f"{mortal} is lost")
    desk.go()

    assert (await desk.phase(job, "COMPLETED", within_s=60))["exit_code"] == 0
    assert desk.found() == ["node1"] * 4


# What cannot work


async def test_node_without_the_engine_is_said(desk: Desk) -> None:
    engine = ["--site", "slurm-test", "--image", "localhost/rhapsody", "--engine", "podman-hpc"]

    job = desk.deploy("stays", *engine)

    assert "could not begin" in (await desk.phase(job, "FAILED"))["why"]
    assert "rhapsody: there is no podman-hpc on this node; if a module has it" in desk.type("logs", job).out


async def test_image_that_the_nodes_do_not_see_is_said(desk: Desk, sif: Path) -> None:
    here_only = desk.cluster.hosts.temporary / "rhapsody.sif"
    desk.shell(["cp", str(sif), str(here_only)])

    job = desk.deploy("stays", "--site", "slurm-images", "--image", str(here_only))
    status = await desk.phase(job, "FAILED")
    desk.shell(["rm", str(here_only)])

    assert "could not begin" in status["why"]
    assert f"the image {here_only} cannot be read on this node" in desk.type("logs", job).out


async def test_image_for_other_machines_is_said(desk: Desk, sif: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sif"
    whole = sif.read_bytes()
    head = 32 << 10  # both places where the file says for which architecture it is
    other.write_bytes(whole[:head].replace(b"02\0", b"04\0") + whole[head:])

    submitted = desk.type(*desk.words("stays", *in_image(other), "--wait"))

    assert submitted.code == 1
    assert "is for arm64, and this machine is amd64" in submitted.err
    said = desk.type("logs").out
    assert "the image's architecture (arm64) could not run on the host's (amd64)" in said
    assert "the container did not start" in said
    assert f"rhapsody image inspect {other}" in said


async def test_too_little_shared_memory_on_a_node_is_said(desk: Desk, sif: Path) -> None:
    def resize(size: str) -> None:
        desk.cluster.hosts.run("node2", ["mount", "-o", f"remount,size={size}", "/dev/shm"])  # noqa: S108

    resize("64m")
    try:
        job = desk.deploy("stays", *in_image(sif, *DRAGON))
        await desk.phase(job, "FAILED")
    finally:
        resize("6g")

    said = desk.type("logs", job).out
    assert "Dragon needs 1024 MiB of shared memory, /dev/shm of node2 has 64 MiB free" in said
    await nothing_is_left(desk.cluster)


# Ordinary users


def unpack(sif: Path, folder: Path) -> None:
    """Unpack an image, by what is in it: not every root may make the devices that Apptainer would."""
    folder.mkdir()
    inside = [
        "apptainer",
        "-q",
        "exec",
        "--contain",
        str(sif),
        "tar",
        "-C",
        "/",
        "--one-file-system",
        "--exclude=./var/lib/apt",
        "-cf",
        "-",
        ".",
    ]
    with subprocess.Popen(inside, stdout=subprocess.PIPE) as packed:
        subprocess.run(["tar", "-C", str(folder), "-xf", "-"], stdin=packed.stdout, check=True)  # noqa: S607


async def test_job_of_an_ordinary_user_runs_in_an_unpacked_image(desk: Desk, sif: Path) -> None:
    """The job is theirs; its script is made by root, who alone may read the Python of this checkout."""
    with tempfile.TemporaryDirectory(prefix="somebody-", dir="/var/tmp") as name:
        home = Path(name)
        image = home / "image"
        unpack(sif, image)
        shutil.copy(CAMPAIGN, home)
        words = desk.words("meets", *in_image(image, *LOCAL), "--runs", str(home / "runs"), "--dry-run", "--json")
        here = {str(CAMPAIGN): "campaign.py", str(desk.folder): name}
        made = desk.shell(["env", "-C", name, RHAPSODY, *[here.get(word, word) for word in words]])
        assert made.code == 0, made.err
        plan = json.loads(made.out)
        run_dir = make_run_folder(Path(plan["run_dir"]))
        write_description(run_dir, {"schema": 1, "uid": run_dir.name})
        script = run_dir / "deploy" / "job.sh"
        script.write_text(plan["script"])
        (home / "go").touch()
        desk.shell(["chown", "-R", f"{SOMEBODY}:", name])

        done = desk.cluster.run(["sbatch", "--parsable", str(script)], user=SOMEBODY, env={"HOME": name})
        assert done.returncode == 0, done.stderr
        desk.jobs.append(done.stdout.strip())
        await eventually(
            lambda: desk.cluster.job(desk.jobs[0]).state in {"COMPLETED", "FAILED"}, within_s=60, what="it ends"
        )
        said = "".join(file.read_text() for file in script.parent.glob("job-*.out"))

        assert f"found {json.dumps(met_in('image'))}" in said
        assert {file.owner() for file in script.parents[1].rglob("*")} == {SOMEBODY}
        assert ACCOUNT in plan["script"]
        await nothing_is_left(desk.cluster)

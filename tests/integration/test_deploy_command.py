"""`rhapsody deploy` where no batch system is: scripts of every site, what is refused, runs here and now."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.sites.loading import find_sites, load_site
from rhapsody.deploy.sites.profile import SchedulerKind
from tests.batch_job import complaints
from tests.eventually import eventually
from tests.integration.deploying import Desk, end_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Where a user sits."""
    return Desk(tmp_path)


REALISTIC = {
    "local": "",
    "slurm": "-N 2 -t 1h -q normal",
    "pbs": "-N 2 -t 1h -q workq",
    "frontier": "-A abc123 -N 16 -t 2h",
    "anvil": "-A cis123456 -q wholenode -N 4 -t 1-00:00:00",
    "perlmutter": "-A m1234_g -q regular --node-kind gpu -N 4 -t 2h",
    "aurora": "-A CampaignProject -q prod -N 256 -t 6h",
    "polaris": "-A CampaignProject -q prod -N 10 -t 3h",
    "delta": "-A abcd-delta-gpu -q gpuA100x4 -N 2 -t 1h",
    "lumi": "-A project_465000001 -q standard-g -N 4 -t 12h",
}


def test_every_shipped_site_with_scripts_is_tried() -> None:
    shipped = {file.name for file in find_sites({})}
    scripted = {name for name in shipped if load_site(name, {}).scheduler.kind is not SchedulerKind.KUBERNETES}

    assert set(REALISTIC) == scripted


@pytest.mark.parametrize("site", REALISTIC)
def test_a_dry_run_prints_a_script_that_bash_takes_and_writes_nothing(desk: Desk, site: str) -> None:
    ended = desk.run("deploy", "--site", site, *REALISTIC[site].split(), "study.py", "--dry-run", "--", "a b")

    assert ended.code == 0, ended.err
    script = desk.folder / "job.sh"
    script.write_text(ended.out)
    assert complaints(script) == ""
    assert "'a b'" in ended.out
    assert desk.runs == []


def test_the_size_and_the_cost_are_shown_before_anything_happens(desk: Desk) -> None:
    ended = desk.run("deploy", "--site", "frontier", "-A", "abc123", "-N", "16", "-t", "2h", "study.py", "--dry-run")

    assert (
        ended.err.splitlines()[0] == "16 nodes for 2h at frontier, queue batch, account abc123: 32 node-hours at most"
    )


WRONG = {
    "frontier: nodes for so long": (
        "frontier -A abc123 -N 92 -t 8h",
        "no queue of frontier takes 92 nodes for 8h; nearest: 92 nodes for 6h in batch",
    ),
    "frontier: no account": ("frontier -N 1 -t 1h", "frontier asks for an account: -A ACCOUNT"),
    "frontier: a chain of debug jobs": (
        "frontier -A abc123 -q debug -N 1 -t 1h --chain 3",
        "chains of jobs are prohibited in debug",
    ),
    "frontier: no such queue": (
        "frontier -A abc123 -q bacth -N 1 -t 1h",
        "unknown queue of frontier 'bacth'; valid: batch",
    ),
    "frontier: nonsense of a time": ("frontier -A abc123 -N 1 -t soon", "'soon' is no duration"),
    "anvil: no queue": ("anvil -A cis1 -N 4 -t 1h", "anvil asks for a queue: -q QUEUE"),
    "anvil: an account for CPUs in the queue for GPUs": (
        "anvil -A cis1 --account-kind cpu -q gpu -N 1 -t 1h",
        "gpu charges accounts for gpu, the account cis1 is for cpu",
    ),
    "aurora: between two queues": ("aurora -A x -q prod -N 100 -t 6h", "nearest: "),
    "aurora: a queue behind another": (
        "aurora -A x -q medium -N 1500 -t 6h",
        "is reached through prod only: give -q prod",
    ),
    "polaris: too few nodes for prod": ("polaris -A x -q prod -N 5 -t 3h", "nearest: 10 nodes for 3h in prod"),
    "perlmutter: no kind of nodes": ("perlmutter -A m1 -q regular -N 1 -t 1h", "a kind of nodes: --node-kind KIND"),
    "delta: no such queue": ("delta -A a-delta-cpu -q gpu -N 1 -t 1h", "unknown queue of delta 'gpu'"),
    "lumi: too long": ("lumi -A project_1 -q dev-g -N 1 -t 4h", "the queue dev-g of lumi does not take 1 node for 4h"),
    "an unknown site": ("frontera -N 1 -t 1h", "unknown site 'frontera'; valid: anvil, aurora"),
    "no walltime where one is needed": ("slurm -N 1 -q normal", "give --walltime, such as -t 2h"),
    "a site without scripts": ("kubernetes -N 1", "campaigns get there by the Helm chart"),
    "a change of the profile that is none": ("slurm -N 1 -t 1h --set a=b", "'a=b' changes nothing"),
    "an account that is no name": ("slurm -N 1 -t 1h -q x -A a;b", "account='a;b' cannot go into a batch script"),
    "two ways at once": ("slurm -N 1 -t 1h -q x --dry-run --test-only", "--dry-run and --test-only exclude each other"),
    "a folder with a space": ("slurm -N 1 -t 1h -q x --runs a\tb", "cannot go into a batch script"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_site_does_not_take_is_refused_with_what_it_would_take(desk: Desk, case: str) -> None:
    given, says = WRONG[case]

    words = [word.replace("\t", " ") for word in given.split(" ")]
    dry = [] if "--dry-run" in words else ["--dry-run"]
    ended = desk.run("deploy", "--site", *words, *dry, "study.py")

    assert says in ended.err
    assert (ended.code, ended.out, desk.runs) == (2, "", [])


def test_on_a_machine_without_the_batch_system_it_is_said_where_to_go_and_nothing_is_left(desk: Desk) -> None:
    ended = desk.run("deploy", "--site", "frontier", "-A", "abc123", "-N", "16", "-t", "2h", "study.py")

    assert (ended.code, desk.runs) == (2, [])
    assert "cannot submit jobs to frontier: there is no sbatch" in ended.err
    assert "ssh YOU@frontier.olcf.ornl.gov" in ended.err
    assert "rhapsody deploy --site frontier -A abc123 -N 16 -t 2h study.py" in ended.err


def test_a_mistyped_option_is_pointed_out(desk: Desk) -> None:
    before = desk.run("deploy", "--site", "slurm", "--wallime", "2h", "study.py")
    behind = desk.run("deploy", "--site", "local", "study.py", "--dryrun", "--dry-run")

    assert (before.code, behind.code) == (2, 0)
    assert "No such option '--wallime'. Did you mean '--walltime'?" in before.err
    assert "if you meant --dry-run" in behind.err


def test_a_campaign_on_this_machine_runs_now_and_its_exit_code_is_the_commands(desk: Desk) -> None:
    good = desk.run("deploy", "--site", "local", "--cores", "2", "study.py", "--", "x y")
    bad = desk.run("deploy", "--site", "local", "--cores", "2", "study.py", "--", "fail")

    assert (good.code, good.out) == (0, "sum 285 x y\n"), good.err
    assert bad.code == 1
    assert "as it was told" in bad.err
    kept = [sorted(path.name for path in (run / "deploy").glob("[jr]*")) for run in desk.runs]
    assert kept == [["job.sh", "jobs", "request.json"]] * 2
    assert [json.loads((run / "run.json").read_text())["site"] for run in desk.runs] == ["local"] * 2


async def test_ctrl_c_twice_ends_a_campaign_on_this_machine(desk: Desk) -> None:
    process = desk.start("deploy", "--site", "local", "--cores", "1", "study.py", "--", "wait", str(desk.folder))
    await eventually((desk.folder / "waiting").exists, within_s=30, what="the task runs")

    process.send_signal(signal.SIGINT)
    session_log = desk.runs[0] / "logs" / "session.log"
    await eventually(lambda: "Ctrl-C again" in session_log.read_text(), within_s=20, what="the first one is heard")
    process.send_signal(signal.SIGINT)
    ended = end_of(process)

    assert ended.code == 1
    (run,) = desk.runs
    events = [json.loads(line)["event"] for line in (run / "deploy/jobs").read_text().splitlines()]
    assert events == ["started", "ended"]


async def test_a_campaign_on_this_machine_ends_with_the_command_that_runs_it(desk: Desk) -> None:
    process = desk.start("deploy", "--site", "local", "--cores", "1", "study.py", "--", "wait", str(desk.folder))
    await eventually((desk.folder / "waiting").exists, within_s=30, what="the task runs")

    process.kill()
    end_of(process)

    jobs = desk.runs[0] / "deploy/jobs"
    await eventually(lambda: '"ended"' in jobs.read_text(), within_s=30, what="the script has ended all")


def test_on_a_known_login_node_nothing_runs_unless_the_user_insists(desk: Desk) -> None:
    sites = desk.folder / "sites"
    sites.mkdir()
    (sites / "ours.yaml").write_text(
        "schema: 1\nname: ours\ntitle: Ours\nextends: slurm\n"
        "login_node:\n  source: us\n  checked: 2026-11-21\n  confidence: H\n"
        "  host_patterns: ['*']\n  rules: [No campaigns here.]\n"
    )

    refused = desk.run("deploy", "--site", "local", "study.py", RHAPSODY_SITE_PATH=str(sites))
    insisted = desk.run("deploy", "--site", "local", "--on-login-node", "study.py", RHAPSODY_SITE_PATH=str(sites))

    assert (refused.code, insisted.code) == (2, 0)
    assert "is a login node of ours" in refused.err
    assert "No campaigns here." in refused.err


def test_a_dry_run_for_programs_has_the_script_and_all_figures(desk: Desk) -> None:
    ended = desk.run(
        "deploy",
        "--site",
        "anvil",
        "-A",
        "c",
        "-q",
        "wholenode",
        "-N",
        "2",
        "-t",
        "1h",
        "study.py",
        "--dry-run",
        "--json",
    )

    said = json.loads(ended.out)
    assert said["script"].startswith("#!/bin/bash -l\n#SBATCH")
    assert (said["nodes"], said["walltime_s"], said["queue"]) == (2, 3600, "wholenode")
    assert said["cost"] == {"amount": 256.0, "unit": "core-hours"}
